"""Saved detections beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssl_loc.data.image_io import read_image
from ssl_loc.transfer.datasets import DetectionDataset, get_detection_dataset
from ssl_loc.transfer.predictions import ImagePrediction, load_predictions
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.box_labels import BoxLabel, place_labels
from ssl_loc.visualization.image_scores import IGNORED, RIGHT, WRONG, choose_images, image_ap, is_optional, judge
from ssl_loc.visualization.labels import number_repeats, wrap_title
from ssl_loc.visualization.pictures import draw_box, mask_outline, show, tint, to_rgb
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.style import INK, MET, UNMET, figure, look, method_colors

CELL, TITLE = 2.6, 10.0  # inches, points
# Height of a row at most, as a share of its cells' width: portraits are shown smaller, landscapes beside them keep up.
TALLEST = 1.1
MIN_SCORE = 0.3
# Boxes drawn per image at most: the best ones; more only hide the picture.
MAX_BOXES = 12
# Boxes drawn where none has a sufficient score: a weak detector is seen to be weak, not to be silent.
WEAK_BOXES = 3
# Images looked at for the best and the worst one, evenly drawn from a larger test set: a matter of seconds.
MAX_RANKED = 1000
TRUTH, OPTIONAL = "#0072B2", "#7F7F7F"
VERDICT_COLORS = {RIGHT: MET, WRONG: UNMET, IGNORED: OPTIONAL}


@dataclass
class Detections:
    """What one detector found: ``dataset`` is a catalog name or a path form."""

    label: str
    dataset: str
    by_image: dict[int | str, ImagePrediction]


@dataclass(frozen=True)
class Found:
    """A detection to draw: box XYXY in px, class index, score, verdict of ``image_scores.judge``, COCO run-length."""

    box: Sequence[float]
    label: int
    score: float
    verdict: str
    mask: dict[str, Any] | None = None


def load_detections(label: str, path: str | Path) -> Detections:
    """Read a predictions file of a detection run (OUTPUT_DIR/inference/*.json)."""
    dataset, predictions = load_predictions(path)
    return Detections(label, dataset, {p.image_id: p for p in predictions})


def detections_picture(
    runs: Sequence[Detections], count: int = 6, min_score: float = MIN_SCORE, name: str = ""
) -> Picture:
    """Images on which the detectors do best and worst and some between: ground truth, then one column per run.

    Args:
        runs: of one test set.
        count: images.
        min_score: boxes from this score on are drawn; where none reaches it, the best few, dashed.
        name: what the caption calls the test set.
    """
    specs = sorted({run.dataset for run in runs})
    if len(specs) != 1:
        raise DataError(f"the predictions are of different datasets: {', '.join(specs)}; give files of one")
    dataset = get_detection_dataset(specs[0])
    shown, ranked = _choose(dataset, runs, count)
    names = number_repeats([run.label for run in runs])
    # A single detector leaves room for two images side by side.
    beside = 2 if len(names) == 1 and len(shown) > 1 else 1
    weak, labels = 0, []
    with_masks = any(p.masks is not None for run in runs for p in run.by_image.values())
    with look():
        fig, cells = _grid([entry for entry, _ in shown], names, beside)
        for (entry, why), axes in zip(shown, cells, strict=True):
            picture = to_rgb(torch.from_numpy(read_image(entry["file_name"])).permute(2, 0, 1))
            labels += _truth(axes[0], picture, entry["annotations"], dataset.classes, with_masks)
            _below(axes[0], why)
            for ax, run in zip(axes[1:], runs, strict=True):
                prediction = run.by_image.get(entry["image_id"])
                found, sure = chosen(prediction, min_score, entry["annotations"])
                labels += _predicted(ax, picture, found, sure, dataset.classes)
                _below(ax, _remark(image_ap(prediction, entry["annotations"]), found, sure, min_score))
                weak += not sure
        fig.legend(handles=_legend(fig), loc="outside lower left", ncols=4, fontsize=8)
        hidden = place_labels(fig, labels)
    caption = _caption(name or specs[0], min_score, weak, len(shown) * len(runs), hidden)
    if any(why for _, why in shown):
        caption += _ranking(ranked, len(dataset.dicts), len(runs))
    return Picture(fig, caption, wide=True)


def _choose(dataset: DetectionDataset, runs: Sequence[Detections], count: int) -> tuple[list[tuple[dict, str]], int]:
    """Images to show with why, and how many were compared for it."""
    dicts = [d for d in dataset.dicts if d["annotations"]] or list(dataset.dicts)
    if len(dicts) > MAX_RANKED:
        dicts = [dicts[int(i)] for i in np.linspace(0, len(dicts) - 1, MAX_RANKED).round()]
    values = [
        float(np.mean([image_ap(run.by_image.get(d["image_id"]), d["annotations"]) for run in runs])) for d in dicts
    ]
    return [(dicts[i], why) for i, why in choose_images(values, count)], len(dicts)


def _grid(shown: Sequence[dict[str, Any]], names: Sequence[str], beside: int) -> tuple[Figure, list[list[Axes]]]:
    """The figure, and per image its cells: ground truth, then one per name; ``beside`` images share a row."""
    titles = ["ground truth", *names] * beside
    shapes = [min(TALLEST, entry["height"] / entry["width"]) for entry in shown]
    heights = [max(shapes[i : i + beside]) for i in range(0, len(shapes), beside)]
    wrapped = [wrap_title(title, CELL, TITLE) for title in titles]
    lines = 1 + max(title.count("\n") for title in wrapped)
    fig = figure(CELL * len(titles), CELL * sum(heights) + 0.2 * len(heights) + 0.35 + 0.2 * lines)
    axes = fig.subplots(len(heights), len(titles), squeeze=False, height_ratios=heights)
    colors = {"ground truth": INK, **method_colors(names)}
    if len(names) == 1:
        colors[names[0]] = INK  # nothing to be told apart
    for ax, title, lines_of in zip(axes[0], titles, wrapped, strict=True):
        ax.set_title(lines_of, fontsize=TITLE, fontweight="bold", color=colors[title], pad=4)
    wide = len(names) + 1
    cells = [list(axes[i // beside, i % beside * wide : (i % beside + 1) * wide]) for i in range(len(shown))]
    for ax in axes[-1, (len(shown) - 1) % beside * wide + wide :]:
        ax.set_axis_off()
    return fig, cells


def chosen(
    prediction: ImagePrediction | None, min_score: float, annotations: Sequence[dict[str, Any]] = ()
) -> tuple[list[Found], bool]:
    """The boxes to draw, best first, and True; where none reaches ``min_score``, the best few and False."""
    if prediction is None:
        return [], False
    verdicts = judge(prediction, annotations)
    found = [
        Found(
            prediction.boxes[i].tolist(),
            int(prediction.classes[i]),
            float(prediction.scores[i]),
            verdicts[i],
            prediction.masks[i] if prediction.masks else None,
        )
        for i in np.argsort(-prediction.scores, kind="stable")
    ]
    sure = [f for f in found[:MAX_BOXES] if f.score >= min_score]
    return (sure, True) if sure else (found[:WEAK_BOXES], False)


def _truth(
    ax: Axes, picture: np.ndarray, annotations: Sequence[dict[str, Any]], classes: Sequence[str], with_masks: bool
) -> list[BoxLabel]:
    masks = [(a["segmentation"], _truth_color(a)) for a in annotations if with_masks and a.get("segmentation")]
    _show_masked(ax, picture, masks)
    labels = []
    for a in annotations:
        hard = is_optional(a)
        label = classes[a["category_id"]] + (" (ignored)" if hard else "")
        labels.append(draw_box(ax, a["bbox"], _truth_color(a), label, "--" if hard else "-", width=1.4))
    return [label for label in labels if label]


def _truth_color(annotation: dict[str, Any]) -> str:
    return OPTIONAL if is_optional(annotation) else TRUTH


def _predicted(
    ax: Axes, picture: np.ndarray, found: Sequence[Found], sure: bool, classes: Sequence[str]
) -> list[BoxLabel]:
    _show_masked(ax, picture, [(f.mask, VERDICT_COLORS[f.verdict]) for f in reversed(found) if f.mask is not None])
    style, width = ("-", 1.4) if sure else ("--", 0.8)
    labels = [
        draw_box(ax, f.box, VERDICT_COLORS[f.verdict], f"{classes[f.label]} {f.score:.2f}", style, width) for f in found
    ]
    return [label for label in labels if label]


def _show_masked(ax: Axes, picture: np.ndarray, masks: Sequence[tuple[Any, str]]) -> None:
    """The picture with every (mask, colour) as a pale area and an outline, the last on top."""
    size = (picture.shape[0], picture.shape[1])
    decoded = [(decode_mask(code, *size), color) for code, color in masks]
    for mask, color in decoded:
        picture = tint(picture, mask, color)
    show(ax, picture)
    for mask, color in decoded:
        mask_outline(ax, mask, size, color)


def decode_mask(code: dict[str, Any] | list[list[float]], height: int, width: int) -> np.ndarray:
    """Polygons or a COCO run-length code -> bool (height, width)."""
    from pycocotools import mask as coco_mask

    if isinstance(code, list):
        # A polygon has three corners at least; datasets hold some that have fewer.
        polygons = [polygon for polygon in code if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), dtype=bool)
        code = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, height, width)
    return coco_mask.decode(code).astype(bool)


def _below(ax: Axes, text: str) -> None:
    """A remark under the picture, where it hides nothing."""
    if text:
        ax.text(0.5, -0.015, text, transform=ax.transAxes, fontsize=7.5, color="#555555", ha="center", va="top")


def _remark(value: float, found: Sequence[Found], sure: bool, min_score: float) -> str:
    if not found:
        return "nothing found"
    words = [f"AP50 {value:.0f}"] if value == value else []
    return ", ".join([*words, *([] if sure else [f"none reaches {min_score:g}: best {len(found)}"])])


def _legend(fig: Figure) -> list[Line2D]:
    """What the colours mean that are in the figure."""
    words = {
        TRUTH: "object",
        MET: "right: its class, IoU at least .5",
        UNMET: "wrong",
        OPTIONAL: "not counted (difficult, crowd)",
    }
    used = {to_hex(patch.get_edgecolor()).upper() for ax in fig.axes for patch in ax.patches}
    return [Line2D([], [], color=color, label=text) for color, text in words.items() if color in used]


def _ranking(ranked: int, images: int, runs: int) -> str:
    of = f"of {ranked} images evenly drawn from {images}" if ranked >= MAX_RANKED else f"of {ranked}"
    mean = " (mean of the detectors)" if runs > 1 else ""
    return f" Best and worst {of} by the image's own AP50{mean}; the others evenly drawn."


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
