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
    rows = [[label, *(cell(list(numbers.get((label, c), {}).values())) for c in columns)] for label in labels(study)]
    align = ("left", *["right"] * len(columns))
    table = tabulate(rows, headers=["pretraining", *columns], tablefmt="pipe", colalign=align, disable_numparse=True)
    head = f"{study.title}; seeds {', '.join(map(str, seeds))}"
    lines = [claim_line(study, claim, numbers) for claim in study.claims]
    claims = tabulate(
        lines, headers=["claim", "holds", "difference", "in seeds"], tablefmt="pipe", disable_numparse=True
    )
    return "\n".join([head, "", table, "", claims if lines else "", ""])


def draw_study(study: Study, out: str | Path, seeds: Sequence[int], path: str | Path) -> Path | None:
    """Write the picture of the same numbers; None, and nothing written, where there are no numbers yet."""
    from ssl_loc.visualization.study_figure import study_figure
    from ssl_loc.visualization.style import save

    numbers = {pair: list(values.values()) for pair, values in collect_study(study, out, seeds).items()}
    columns = [c for c in PICTURED if any(column == c for _, column in numbers)]
    return save(study_figure(labels(study), columns, numbers), path) if columns else None


def labels(study: Study) -> list[str]:
    """Rows of the table: random weights, then the study's."""
    return [RANDOM, *(row.label for row in study.rows)]


def claim_line(study: Study, claim: str, numbers: StudyNumbers) -> list[str]:
    """A claim "A > B: column", whether the mean over seeds bears it out, the paired difference, and in how many seeds.

    Seeds are paired (same scenes, same initial weights), so the spread is that of the differences. A difference smaller
    than its standard error counts as "not clear".
    """
    left, right, column = parse_claim(study, claim)
    a, b = numbers.get((left, column), {}), numbers.get((right, column), {})
    both = sorted(set(a) & set(b))
    if not both:
        return [claim, "no numbers", "-", "-"]
    differences = [a[seed] - b[seed] for seed in both]
    mean, std = mean_std(differences)
    error = std / len(both) ** 0.5
    holds = "yes" if mean > 0 else "no"
    if len(both) > 1 and abs(mean) < error:
        holds = "not clear"
    text = f"{mean:+.1f}" if len(both) == 1 else f"{mean:+.1f} ± {std:.1f}"
    return [claim, holds, text, f"{sum(d > 0 for d in differences)} of {len(both)}"]


def parse_claim(study: Study, claim: str) -> tuple[str, str, str]:
    """Left row, right row and column of "A > B: column"."""
    rows, _, column = claim.rpartition(":")
    left, _, right = rows.partition(" > ")
    left, right, column = left.strip(), right.strip(), column.strip()
    for name, known in ((left, labels(study)), (right, labels(study)), (column, list(COLUMNS))):
        if name not in known:
            raise ConfigError(f"the claim '{claim}' names '{name}'{did_you_mean(name, known)} Expected 'A > B: column'")
    return left, right, column
