"""The demo's one table, and what it should show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_loc.demo.plan import EVALUATIONS, METHODS, RANDOM, Stage, detect_folder, eval_folder
from ssl_loc.utils.file_io import read_json
from ssl_loc.utils.seeds import mean_std

# Column -> (protocol, metric as its result names it, factor that makes it percent).
COLUMNS = {
    "grounding IoU %": ("grounding", "iou_mean", 100.0),
    "kNN %": ("knn", "top1", 1.0),
    "linear %": ("linear", "top1", 1.0),
    "detector AP": ("detection", "bbox/AP", 1.0),
    "detector AP50": ("detection", "bbox/AP50", 1.0),
}
ROWS = (RANDOM, *METHODS)
# Stands in place of the claims where the trainings are a few steps.
MEANINGLESS = "the numbers mean nothing: at this size the demo only shows that its commands fit together"
Numbers = dict[tuple[str, str], list[float]]  # (row, column) -> one number per seed


@dataclass
class Claim:
    """A sentence about the table, the numbers behind it, and whether it holds."""

    text: str
    numbers: str
    holds: bool


def collect(out: str | Path, seeds: Sequence[int]) -> Numbers:
    """Read every result below ``out``; a cell without one is missing from the answer."""
    numbers: Numbers = {}
    for seed in seeds:
        for row in ROWS:
            for result in _results(out, seed, row):
                for column, (protocol, metric, factor) in COLUMNS.items():
                    if result["protocol"] == protocol and metric in result["metrics"]:
                        numbers.setdefault((row, column), []).append(factor * result["metrics"][metric])
    return numbers


def _results(out: str | Path, seed: int, row: str) -> list[dict[str, Any]]:
    """Everything measured on the weights of one row."""
    files = [f for kind in EVALUATIONS for f in sorted((eval_folder(out, seed, kind) / "results").glob("*.json"))]
    found = [result for result in map(read_json, files) if result["details"]["label"] == row]
    detector = detect_folder(out, seed, row) / "result.json"
    return [*found, read_json(detector)] if detector.exists() else found


def rows_of(numbers: Numbers, seconds: Mapping[str, float], stages: Iterable[Stage]) -> list[list[str]]:
    """One row per weights: a label, the columns, and the mean seconds of its pretraining and its fine-tuning."""
    titles: dict[str, list[float]] = {}
    for stage in stages:
        if stage.name in seconds:
            titles.setdefault(stage.title, []).append(seconds[stage.name])
    table = []
    for row in ROWS:
        cells = [cell(numbers.get((row, column), [])) for column in COLUMNS]
        times = [titles.get(f"pretrain {row}", []), titles.get(f"fine-tune a detector from {row}", [])]
        table.append([row, *cells, *(f"{mean_std(t)[0]:.0f}" if t else "-" for t in times)])
    return table


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation of what the seeds gave; a dash where nothing was measured."""
    if not values:
        return "-"
    mean, std = mean_std(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {std:.1f}"


def claims(numbers: Numbers) -> list[Claim]:
    """What the CAST paper leads one to expect; a claim whose numbers are missing is left out."""
    iou = {row: _mean(numbers, row, "grounding IoU %") for row in ROWS}
    ap = {row: _mean(numbers, row, "detector AP") for row in ROWS}
    found: list[Claim] = []

    def claim(text: str, values: Sequence[float | None], holds: Any) -> None:
        known = [v for v in values if v is not None]
        if len(known) == len(values):
            found.append(Claim(text, " / ".join(f"{v:.1f}" for v in known), bool(holds(*known))))

    claim("grounding IoU: CAST at least 2 x MoCo", (iou["CAST"], iou["MoCo"]), lambda a, b: a >= 2 * b)
    claim(
        "grounding IoU: the crop alone changes little (paper: .24 and .24; within 5 points)",
        (iou["MoCo + crop"], iou["MoCo"]),
        lambda a, b: abs(a - b) <= 5.0,
    )
    for column in ("kNN %", "linear %"):
        pair = [_mean(numbers, row, column) for row in ("CAST", "MoCo")]
        claim(f"{column[:-2]} accuracy: CAST above MoCo", pair, lambda a, b: a > b)
    claim("detector AP: CAST at least MoCo", (ap["CAST"], ap["MoCo"]), lambda a, b: a >= b)
    claim("detector AP: MoCo above random weights", (ap["MoCo"], ap[RANDOM]), lambda a, b: a > b)
    return found


def _mean(numbers: Numbers, row: str, column: str) -> float | None:
    values = numbers.get((row, column))
    return mean_std(values)[0] if values else None


def render(numbers: Numbers, seconds: Mapping[str, float], stages: Sequence[Stage], meaningful: bool = True) -> str:
    """The table, the claims and the times, as text; without ``meaningful`` numbers no claim is judged."""
    from tabulate import tabulate

    heads = ["weights", *COLUMNS, "pretrain s", "fine-tune s"]
    align = ("left", *["right"] * (len(heads) - 1))
    main = tabulate(rows_of(numbers, seconds, stages), headers=heads, colalign=align, disable_numparse=True)
    lines = [MEANINGLESS]
    if meaningful:
        lines = [f"{'yes' if c.holds else 'NO ':<4}{c.text}: {c.numbers}" for c in claims(numbers)]
        lines.insert(0, "expected (CAST paper) and found here:")
    return "\n".join([main, "", *lines, "", _times(seconds, stages)])


def _times(seconds: Mapping[str, float], stages: Sequence[Stage]) -> str:
    """Seconds per kind of stage; stages run side by side, so the sum is more than the wall time."""
    kinds: dict[str, list[float]] = {}
    for stage in stages:
        if stage.name in seconds:
            kinds.setdefault(stage.kind, []).append(seconds[stage.name])
    parts = [f"{kind} {sum(v):.0f}" + (f" ({len(v)} stages)" if len(v) > 1 else "") for kind, v in kinds.items()]
    return f"seconds by kind of stage: {', '.join(parts)}"
