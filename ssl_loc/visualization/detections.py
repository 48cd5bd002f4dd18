"""Saved detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_loc.data.image_io import read_image
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.predictions import ImagePrediction, load_predictions
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.pictures import draw_box, show, to_rgb
from ssl_loc.visualization.style import MET, UNMET, figure, look, method_colors

CELL = 2.6  # inches
# Boxes drawn per image at most: the best ones; more only hide the picture.
MAX_BOXES = 12


def detections_figure(files: Sequence[tuple[str, str | Path]], count: int = 6, min_score: float = 0.3) -> Figure:
    """Rows: test images. Columns: ground truth, then one per (label, predictions file)."""
    loaded = [(label, *load_predictions(path)) for label, path in files]
    names = {name for _, name, _ in loaded}
    if len(names) != 1:
        raise DataError(f"the predictions are of different datasets: {', '.join(sorted(names))}; give files of one")
    dataset = get_detection_dataset(names.pop())
    by_id = [{p.image_id: p for p in predictions} for _, _, predictions in loaded]
    dicts = [d for d in dataset.dicts if d["annotations"]] or list(dataset.dicts)
    shown = [dicts[int(i)] for i in dict.fromkeys(np.linspace(0, len(dicts) - 1, min(count, len(dicts))).round())]
    labels = [label for label, _, _ in loaded]
    colors = method_colors(labels)
    with look():
        shapes = [entry["height"] / entry["width"] for entry in shown]
        fig = figure(CELL * (len(labels) + 1), CELL * sum(shapes) + 0.06 * len(shown) + 0.3)
        axes = fig.subplots(len(shown), len(labels) + 1, squeeze=False, height_ratios=shapes)
        for row, entry in zip(axes, shown, strict=True):
            picture = to_rgb(torch.from_numpy(read_image(entry["file_name"])).permute(2, 0, 1))
            for ax in row:
                show(ax, picture)
            _truth(row[0], entry["annotations"], dataset.classes)
            for ax, label, found in zip(row[1:], labels, by_id, strict=True):
                _predicted(ax, found.get(entry["image_id"]), dataset.classes, min_score, colors[label])
        for ax, title in zip(axes[0], ["ground truth", *labels], strict=True):
            ax.set_title(title, fontsize=10, fontweight="bold", color=colors.get(title, "#222222"), pad=4)
    return fig


def _truth(ax: Axes, annotations: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    for a in annotations:
        hard = bool(a.get("difficult") or a.get("iscrowd"))
        label = classes[a["category_id"]] + (" (ignored)" if hard else "")
        draw_box(ax, a["bbox"], UNMET if hard else MET, label, "--" if hard else "-", width=1.4)


def _predicted(
    ax: Axes, prediction: ImagePrediction | None, classes: Sequence[str], min_score: float, color: str
) -> None:
    best: list[int] = []
    if prediction is not None:
        order = np.argsort(-prediction.scores, kind="stable")[:MAX_BOXES]
        best = [int(i) for i in order if prediction.scores[i] >= min_score]
        for i in best:
            label = f"{classes[int(prediction.classes[i])]} {prediction.scores[i]:.2f}"
            draw_box(ax, prediction.boxes[i], color, label, width=1.4)
    if not best:
        ax.text(
            0.5, 0.02, f"nothing above {min_score:g}", transform=ax.transAxes, fontsize=7.5, color="white",
            ha="center", va="bottom", bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1.5},
        )  # fmt: skip
