"""What an evaluation found on one test set: headline numbers, numbers per class, precision-recall curves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, write_text

FORMAT = "ssl_loc.detection_scores"
VERSION = 1
# Columns of a class's row; the first is what the table is sorted by.
CLASS_NUMBERS = ("AP", "AP50", "AP75")
# Recall levels of a curve: those of COCO, so that curves of all classes and metrics can be averaged point by point.
CURVE_LEVELS = np.linspace(0.0, 1.0, 101)
# A table of more classes than this shows the best and the worst of them.
FULL_TABLE = 30
TABLE_ENDS = 10


@dataclass(frozen=True)
class PrCurve:
    """Precision over recall at IoU .5, for drawing.

    Attributes:
        recall: levels 0, .01, ..., 1.
        precision: the highest precision at that recall or a higher one; 0 beyond the recall that was reached.
        ap: average precision at IoU .5 in percent, from the full curve by the metric's own rule.
    """

    recall: list[float]
    precision: list[float]
    ap: float


@dataclass(frozen=True)
class DetectionScores:
    """Numbers of one test set, all in percent.

    Attributes:
        dataset: its name.
        evaluator: "own" or "detectron2".
        metrics: "bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/AP-<class>", COCO's "APs", "APm", "APl"; "segm/..." too.
        per_class: task ("bbox", "segm") -> class -> {"AP", "AP50", "AP75", "objects"}; a class without objects to find
            has no row. "objects" counts what must be found (no VOC "difficult", no COCO crowds).
        curves: task -> class -> curve, of the same classes.
    """

    dataset: str
    evaluator: str
    metrics: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    curves: dict[str, dict[str, PrCurve]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for json; curves with four decimals."""
        curves = {
            task: {
                name: {"recall": _rounded(c.recall), "precision": _rounded(c.precision), "ap": c.ap}
                for name, c in of_class.items()
            }
            for task, of_class in self.curves.items()
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "evaluator": self.evaluator,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "curves": curves,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectionScores:
        """Inverse of :meth:`to_dict`."""
        curves = {
            task: {name: PrCurve(**curve) for name, curve in of_class.items()}
            for task, of_class in values["curves"].items()
        }
        return cls(values["dataset"], values["evaluator"], values["metrics"], values["per_class"], curves)


def save_scores(path: str | os.PathLike, scores: DetectionScores) -> None:
    """Write as json (atomic); on one line, since a curve would take two hundred."""
    write_text(path, json.dumps(scores.to_dict()) + "\n")


def load_scores(path: str | os.PathLike) -> DetectionScores:
    """Read :func:`save_scores`' file."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise DataError(f"{path} is not a file of scores ({FORMAT}, version {VERSION}); run the evaluation again")
    return DetectionScores.from_dict(content)


def curve(recall: Sequence[float] | np.ndarray, precision: Sequence[float] | np.ndarray, ap: float) -> PrCurve:
    """A curve for drawing from the full one.

    Args:
        recall, precision: after each detection, best score first; recall does not fall.
        ap: in percent.
    """
    reached, height = np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)
    # Precision at this recall or a higher one; the appended 0 stands for recall that was never reached.
    envelope = np.append(np.maximum.accumulate(height[::-1])[::-1], 0.0)
    # Without tolerance half of two objects found would miss the level .5 = 50 * .01 by a rounding error.
    at = np.searchsorted(reached, CURVE_LEVELS - 1e-9, side="left")
    return PrCurve(CURVE_LEVELS.tolist(), envelope[at].tolist(), float(ap))


def class_row(per_threshold: Sequence[float] | np.ndarray, objects: int) -> dict[str, float]:
    """Row of :attr:`DetectionScores.per_class` from a class's AP in percent at IoU .50:.05:.95."""
    values = [float(value) for value in per_threshold]
    return {"AP": math.fsum(values) / len(values), "AP50": values[0], "AP75": values[5], "objects": int(objects)}


def class_table(scores: DetectionScores, full: int = FULL_TABLE, ends: int = TABLE_ENDS) -> str:
    """One table over all classes, best box AP first; of more than ``full`` classes only the first and last ``ends``."""
    from tabulate import tabulate

    tasks = list(scores.per_class)
    if not tasks:
        return ""
    names = ranked_classes(scores)
    cut = len(names) - 2 * ends if len(names) > full else 0
    rows: list[list[Any]] = []
    for position, name in enumerate(names):
        if cut and ends <= position < len(names) - ends:
            if position == ends:
                rows.append([f"... {cut} more ..."])
            continue
        found = [scores.per_class[task].get(name, {}) for task in tasks]
        objects = next((row["objects"] for row in found if row), 0)
        cells = [f"{row[k]:.2f}" if row else "-" for row in found for k in CLASS_NUMBERS]
        rows.append([name, int(objects), *cells])
    heads = ["class", "objects", *(f"{task} {number}" for task in tasks for number in CLASS_NUMBERS)]
    align = ["left"] + ["right"] * (len(heads) - 1)
    return tabulate(rows, headers=heads, colalign=align, disable_numparse=True)


def ranked_classes(scores: DetectionScores, task: str = "") -> list[str]:
    """Classes by falling AP of ``task`` (default: the first one); equal ones by name."""
    tasks = [task, *scores.per_class] if task else list(scores.per_class)
    names = dict.fromkeys(name for t in scores.per_class for name in scores.per_class[t])

    def place(name: str) -> tuple[float, str]:
        row = next((scores.per_class[t][name] for t in tasks if name in scores.per_class.get(t, {})), {"AP": -1.0})
        return -row["AP"], name

    return sorted(names, key=place)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
