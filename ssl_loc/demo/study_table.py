"""The table of a study in markdown: mean and standard deviation over seeds, and its claims with paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_loc.demo.plan import RANDOM
from ssl_loc.demo.study import Study
from ssl_loc.demo.study_plan import EVALUATIONS, detect_folder, eval_folder
from ssl_loc.demo.table import cell
from ssl_loc.utils.errors import ConfigError, did_you_mean
from ssl_loc.utils.file_io import read_json
from ssl_loc.utils.seeds import mean_std

# Column -> (protocol, metric as its result names it, factor that makes it percent).
COLUMNS = {
    "grounding IoU %": ("grounding", "iou_mean", 100.0),
    "kNN %": ("knn", "top1", 1.0),
    "linear %": ("linear", "top1", 1.0),
    "original %": ("backgrounds", "original", 1.0),
    "mixed-same %": ("backgrounds", "mixed_same", 1.0),
    "mixed-rand %": ("backgrounds", "mixed_rand", 1.0),
    "only-fg %": ("backgrounds", "only_fg", 1.0),
    "BG-gap": ("backgrounds", "bg_gap", 1.0),
    "detector AP": ("detection", "bbox/AP", 1.0),
    "detector AP50": ("detection", "bbox/AP50", 1.0),
}
# A claim with a larger p is not called a yes; eighteen claims at .05 leave one false yes to be expected.
SIGNIFICANT = 0.05
# Columns of the picture: where it looks, what it knows, what is left on another background, what a detector gains.
PICTURED = ("grounding IoU %", "kNN %", "linear %", "mixed-rand %", "detector AP")
StudyNumbers = dict[tuple[str, str], dict[int, float]]  # (row label, column) -> seed -> number


def collect_study(study: Study, out: str | Path, seeds: Sequence[int]) -> StudyNumbers:
    """Read every finished result below ``out``; a cell without one is missing from the answer."""
    numbers: StudyNumbers = {}
    slugs = {RANDOM: RANDOM} | {row.label: row.slug for row in study.rows}
    for seed in seeds:
        files = [f for kind in EVALUATIONS for f in sorted((eval_folder(out, seed, kind) / "results").glob("*.json"))]
        found = [(result["details"]["label"], result) for result in map(read_json, files)]
        for label, slug in slugs.items():
            file = detect_folder(out, seed, slug) / "result.json"
            if file.exists():
                found.append((label, read_json(file)))
        for label, result in found:
            for column, (protocol, metric, factor) in COLUMNS.items():
                if result["protocol"] == protocol and metric in result["metrics"]:
                    numbers.setdefault((label, column), {})[seed] = factor * result["metrics"][metric]
    return numbers


def render_study(study: Study, out: str | Path, seeds: Sequence[int]) -> str:
    """The table and the claims, as markdown.

    Raises:
        ConfigError: a claim names a row or a column that is not there.
    """
    from tabulate import tabulate

    numbers = collect_study(study, out, seeds)
    columns = [c for c in COLUMNS if any(column == c for _, column in numbers)]
    rows = [[label, *(_cell(numbers.get((label, c), {}), len(seeds)) for c in columns)] for label in labels(study)]
    align = ("left", *["right"] * len(columns))
    table = tabulate(rows, headers=["pretraining", *columns], tablefmt="pipe", colalign=align, disable_numparse=True)
    head = f"{study.title}; seeds {', '.join(map(str, seeds))}"
    lines = [claim_line(study, claim, numbers) for claim in study.claims]
    claims = tabulate(
        lines, headers=["claim", "holds", "paired difference", "in seeds", "p"], tablefmt="pipe", disable_numparse=True
    )
    return "\n".join([head, "", table, "", claims if lines else "", ""])


def draw_study(study: Study, out: str | Path, seeds: Sequence[int], path: str | Path) -> Path | None:
    """Write the picture of the same numbers; None, and nothing written, where there are no numbers yet."""
    from ssl_loc.visualization.study_figure import study_figure
    from ssl_loc.visualization.style import save

    numbers = {pair: list(values.values()) for pair, values in collect_study(study, out, seeds).items()}
    columns = [c for c in PICTURED if any(column == c for _, column in numbers)]
    return save(study_figure(labels(study), columns, numbers), path) if columns else None


def _cell(values: dict[int, float], seeds: int) -> str:
    """Mean and deviation; with the number of seeds where some are missing."""
    return cell(list(values.values())) + (f" ({len(values)} of {seeds})" if 0 < len(values) < seeds else "")


def labels(study: Study) -> list[str]:
    """Rows of the table: random weights, then the study's."""
    return [RANDOM, *(row.label for row in study.rows)]


def claim_line(study: Study, claim: str, numbers: StudyNumbers) -> list[str]:
    """A claim "A > B: column", its verdict, the paired difference, in how many seeds it is positive, and p.

    Seeds are paired (same scenes, same initial weights), so the spread is that of the differences, and p is that of the
    one-sided paired t-test. "yes" is p < .05; "in the mean" a positive mean that may be chance; "no" none.
    """
    left, right, column = parse_claim(study, claim)
    a, b = numbers.get((left, column), {}), numbers.get((right, column), {})
    both = sorted(set(a) & set(b))
    if not both:
        return [claim, "no numbers", "-", "-", "-"]
    differences = [a[seed] - b[seed] for seed in both]
    mean, std = mean_std(differences)
    agree = f"{sum(d > 0 for d in differences)} of {len(both)}"
    if len(both) == 1:
        return [claim, "one seed", f"{mean:+.1f}", agree, "-"]
    p = paired_p(differences)
    verdict = "no" if mean <= 0 else "yes" if p < SIGNIFICANT else "in the mean"
    return [claim, verdict, f"{mean:+.1f} ± {std:.1f}", agree, f"{p:.3f}"]


def paired_p(differences: Sequence[float]) -> float:
    """p of the one-sided paired t-test that the mean of ``differences`` (two or more) is above 0."""
    from scipy.stats import ttest_1samp

    if max(differences) == min(differences):  # no spread: the statistic is infinite, or 0 / 0
        return 0.0 if differences[0] > 0 else 1.0
    return float(ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def parse_claim(study: Study, claim: str) -> tuple[str, str, str]:
    """Left row, right row and column of "A > B: column"."""
    rows, _, column = claim.rpartition(":")
    left, _, right = rows.partition(" > ")
    left, right, column = left.strip(), right.strip(), column.strip()
    for name, known in ((left, labels(study)), (right, labels(study)), (column, list(COLUMNS))):
        if name not in known:
            raise ConfigError(f"the claim '{claim}' names '{name}'{did_you_mean(name, known)} Expected 'A > B: column'")
    return left, right, column
