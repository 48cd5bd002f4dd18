"""Saved detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from ssl_loc.data.image_io import read_image
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.predictions import ImagePrediction, load_predictions
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.box_labels import BoxLabel, place_labels
from ssl_loc.visualization.labels import number_repeats, wrap_title
from ssl_loc.visualization.pictures import draw_box, show, to_rgb
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.style import MET, UNMET, figure, look, method_colors

CELL, TITLE = 2.6, 10.0  # inches, points
MIN_SCORE = 0.3
# Boxes drawn per image at most: the best ones; more only hide the picture.
MAX_BOXES = 12
# Boxes drawn where none has a sufficient score: a weak detector is seen to be weak, not to be silent.
WEAK_BOXES = 5


@dataclass
class Detections:
    """What one detector found: ``dataset`` is a catalog name or a path form."""

    label: str
    dataset: str
    by_image: dict[int | str, ImagePrediction]


def load_detections(label: str, path: str | Path) -> Detections:
    """Read a predictions file of a detection run (OUTPUT_DIR/inference/*.json)."""
    dataset, predictions = load_predictions(path)
    return Detections(label, dataset, {p.image_id: p for p in predictions})


def detections_picture(
    runs: Sequence[Detections], count: int = 6, min_score: float = MIN_SCORE, name: str = ""
) -> Picture:
    """Rows: test images. Columns: ground truth, then one per run. ``name``: what the caption calls the dataset."""
    specs = sorted({run.dataset for run in runs})
    if len(specs) != 1:
        raise DataError(f"the predictions are of different datasets: {', '.join(specs)}; give files of one")
    dataset = get_detection_dataset(specs[0])
    dicts = [d for d in dataset.dicts if d["annotations"]] or list(dataset.dicts)
    shown = [dicts[int(i)] for i in dict.fromkeys(np.linspace(0, len(dicts) - 1, min(count, len(dicts))).round())]
    names = number_repeats([run.label for run in runs])
    colors = method_colors(names)
    titles = [wrap_title(title, CELL, TITLE) for title in ("ground truth", *names)]
    weak, labels = 0, []
    with look():
        shapes = [entry["height"] / entry["width"] for entry in shown]
        lines = 1 + max(title.count("\n") for title in titles)
        fig = figure(CELL * (len(names) + 1), CELL * sum(shapes) + 0.16 * len(shown) + 0.1 + 0.2 * lines)
        axes = fig.subplots(len(shown), len(names) + 1, squeeze=False, height_ratios=shapes)
        for row, entry in zip(axes, shown, strict=True):
            picture = to_rgb(torch.from_numpy(read_image(entry["file_name"])).permute(2, 0, 1))
            for ax in row:
                show(ax, picture)
            labels += _truth(row[0], entry["annotations"], dataset.classes)
            for ax, run, label in zip(row[1:], runs, names, strict=True):
                found, sure = chosen(run.by_image.get(entry["image_id"]), min_score)
                labels += _predicted(ax, found, sure, dataset.classes, colors[label])
                if not sure:
                    weak += 1
                    _below(ax, f"none reaches {min_score:g}: best {len(found)}" if found else "nothing found")
        for ax, title, color in zip(axes[0], titles, ["#222222", *colors.values()], strict=True):
            ax.set_title(title, fontsize=TITLE, fontweight="bold", color=color, pad=4)
        hidden = place_labels(fig, labels)
    caption = _caption(name or specs[0], min_score, weak, len(shown) * len(runs), hidden)
    return Picture(fig, caption, wide=True)


# (box XYXY in px, class index, score)
Found = tuple[Sequence[float], int, float]


def chosen(prediction: ImagePrediction | None, min_score: float) -> tuple[list[Found], bool]:
    """The boxes to draw, best first, and True; where none reaches ``min_score``, the best few and False."""
    if prediction is None:
        return [], False
    order = np.argsort(-prediction.scores, kind="stable")
    found = [(prediction.boxes[i].tolist(), int(prediction.classes[i]), float(prediction.scores[i])) for i in order]
    sure = [f for f in found[:MAX_BOXES] if f[2] >= min_score]
    return (sure, True) if sure else (found[:WEAK_BOXES], False)


def _truth(ax: Axes, annotations: Sequence[dict[str, Any]], classes: Sequence[str]) -> list[BoxLabel]:
    labels = []
    for a in annotations:
        hard = bool(a.get("difficult") or a.get("iscrowd"))
        label = classes[a["category_id"]] + (" (ignored)" if hard else "")
        labels.append(draw_box(ax, a["bbox"], UNMET if hard else MET, label, "--" if hard else "-", width=1.4))
    return [label for label in labels if label]


def _predicted(ax: Axes, found: Sequence[Found], sure: bool, classes: Sequence[str], color: str) -> list[BoxLabel]:
    style, width = ("-", 1.4) if sure else ("--", 0.8)
    labels = [draw_box(ax, box, color, f"{classes[c]} {score:.2f}", style, width) for box, c, score in found]
    return [label for label in labels if label]


def _below(ax: Axes, text: str) -> None:
    """A remark under the picture, where it hides nothing."""
    ax.text(0.5, -0.015, text, transform=ax.transAxes, fontsize=7.5, color="#555555", ha="center", va="top")


def _caption(name: str, min_score: float, weak: int, cells: int, hidden: int) -> str:
    text = f"Detections on {name} beside the ground truth: up to {MAX_BOXES} boxes of score {min_score:g} or more."
    if weak:
        text += (
            f" In {weak} of {cells} pictures no box reaches that score; there the best {WEAK_BOXES} are drawn, thin "
            "and dashed."
        )
    if hidden:
        text += f" {hidden} labels found no room in a crowded picture and are left out; their boxes are drawn."
    return text
