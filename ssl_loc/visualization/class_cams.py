"""Class Grad-CAM of several models side by side: where a linear probe finds its class (CAST paper, Figures 6, S10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from ssl_loc.evaluation.class_grounding import ClassGrounding, class_maps
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.maps import normalize_map, upsample_map
from ssl_loc.evaluation.masked_photos import MaskedPhotos, PhotoBatch
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError
from ssl_loc.visualization.labels import wrap_title
from ssl_loc.visualization.pictures import heat_overlay, outlined, to_rgb
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.strips import CELL, HEAD, RIGHT, WRONG, Block, Cell, Row, strips_figure, verdict
from ssl_loc.visualization.style import INK, MET, UNMET, method_colors

HEADING = "Class Grad-CAM"


@dataclass
class ClassCamPanel:
    """One model's maps of N photos: ``heat`` float32 (N, S, S) in [0, 1], answers int64 (N,), IoU (NaN: no union)."""

    label: str
    heat: Tensor
    predicted: Tensor
    iou: list[float]


def compute_class_cams(
    weights: Sequence[Weights], data: EvalData, protocol: ClassGrounding, count: int
) -> tuple[PhotoBatch, list[str], list[ClassCamPanel]]:
    """``count`` photos, evenly spread, the classes' names, and every model's maps.

    Raises:
        ConfigError: the models look at photos of different sizes.
    """
    sizes = {w.label: protocol.features.input_size(w) for w in weights}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"the models were trained at different sizes ({sizes}); give one with --set SIZE N")
    classes = protocol.probe.train(weights[0], data).classes
    size = next(iter(sizes.values()))
    batch = MaskedPhotos(data, size, classes).sample(count)
    panels = []
    for w in weights:
        cams, predicted = class_maps(w.trunk(), protocol.probe.train(w, data), batch, protocol.probe)
        heat = upsample_map(normalize_map(cams, protocol.scores.norm), (size, size))
        iou = protocol.scores.measure(cams, batch.masks)["iou"].tolist()
        panels.append(ClassCamPanel(w.label, heat, predicted, iou))
    return batch, classes, panels


def class_cams_figure(batch: PhotoBatch, classes: Sequence[str], panels: Sequence[ClassCamPanel]) -> Figure:
    """Rows: photos. Columns: the photo with its mask's outline, then the map of its class for every model."""
    colors = method_colors([panel.label for panel in panels])
    masked = bool(batch.masks.any())
    blocks = []
    for i in range(len(batch.names)):
        label = int(batch.labels[i])
        cells = []
        for panel in panels:
            answer = int(panel.predicted[i])
            frame, mark = verdict(None if label < 0 else answer == label)
            said = f"{mark} {classes[answer]}".strip()
            iou = f"IoU {panel.iou[i]:.2f}" if masked else ""
            picture = heat_overlay(batch.images[i], panel.heat[i])
            cells.append(Cell(picture, [line for line in (said, iou) if line], color=frame or INK))
        photo = outlined(to_rgb(batch.images[i]), batch.masks[i].numpy())
        blocks.append(Block(Cell(photo, [classes[label] if label >= 0 else "class unknown"]), [Row(cells)]))
    heads = [wrap_title(head, CELL, HEAD) for head in ("photo", *(panel.label for panel in panels))]
    known = bool((batch.labels >= 0).any())
    key = [(f"{RIGHT} class of the photo", MET), (f"{WRONG} another class", UNMET)] if known else []
    return strips_figure(blocks, heads, key, [INK, *(colors[panel.label] for panel in panels)])


def class_cams_picture(weights: Sequence[Weights], data: EvalData, protocol: ClassGrounding, count: int = 6) -> Picture:
    """The figure, and what to look for in it."""
    batch, classes, panels = compute_class_cams(weights, data, protocol, count)
    return Picture(class_cams_figure(batch, classes, panels), class_cams_caption(batch.labels, protocol.probe.target))


def class_cams_caption(labels: Tensor, target: str) -> str:
    """What is drawn and what to look for: classes int64 (N,) of the photos, -1 unknown, and CLASS_GROUNDING.TARGET."""
    known = labels >= 0
    if target == "predicted" or not bool(known.any()):
        whose = "the class it predicts"
    else:
        whose = "its true class" if bool(known.all()) else "its true class (where that is unknown, the one it predicts)"
    return (
        f"Where a linear classifier on each model's frozen features finds {whose} (red: strongly); below, its answer. "
        "The outline is the object's mask. Look for evidence on the surroundings instead of the object: Figure 6 of "
        "the CAST paper."
    )
