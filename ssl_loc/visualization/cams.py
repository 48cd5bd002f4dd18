"""Similarity Grad-CAM of several models side by side (CAST paper, Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ssl_loc.evaluation.crops import CropBatch
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding, similarity_maps
from ssl_loc.evaluation.maps import normalize_map, upsample_map
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError
from ssl_loc.visualization.labels import wrap_title
from ssl_loc.visualization.pictures import heat_overlay, masked_picture, show, to_rgb
from ssl_loc.visualization.style import figure, look, method_colors

CELL, TITLE = 1.5, 9.5  # inches, points
# Inches, columns: of one crop's sheet.
CELL_SHEET, COLUMNS = 1.2, 4


@dataclass
class CamPanel:
    """Maps of one model for the shown crops: ``heat`` float32 (N, S, S) in [0, 1] and IoU per crop (NaN: no union)."""

    label: str
    heat: Tensor
    iou: list[float]


def compute_cams(
    weights: Sequence[Weights], data: EvalData, protocol: Grounding, count: int
) -> tuple[CropBatch, list[CamPanel]]:
    """The first ``count`` crops of the grounding protocol, evenly spread over the data, and every model's maps."""
    sizes = {w.label: protocol.size or w.input_size() for w in weights}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"the models were trained at different sizes ({sizes}); give one with --set SIZE N")
    batch = protocol.crops(data, weights[0]).sample(count)
    panels = []
    for w in weights:
        cams = similarity_maps(w.method(), batch.to(w.device), protocol.pair).cpu()
        numbers = protocol.measure(cams, batch.query_mask[:, 0])
        size = (int(batch.query.shape[2]), int(batch.query.shape[3]))
        heat = upsample_map(normalize_map(cams, protocol.scores.norm), size)
        panels.append(CamPanel(w.label, heat, numbers["iou"].tolist()))
    return batch, panels


def cams_figure(batch: CropBatch, panels: Sequence[CamPanel]) -> Figure:
    """Rows: crops. Columns: query, key, the query's mask, the masked key, then one Grad-CAM per model with its IoU."""
    titles = ["query", "key", "query's mask", "masked key", *(p.label for p in panels)]
    colors = method_colors([p.label for p in panels])
    rows = len(batch.names)
    with look():
        wrapped = [wrap_title(title, CELL, TITLE) for title in titles]
        lines = 1 + max(title.count("\n") for title in wrapped)
        fig = figure(CELL * len(titles) + 0.2, (CELL + 0.02) * rows + 0.1 + 0.2 * lines)
        axes = fig.subplots(rows, len(titles), squeeze=False)
        for r in range(rows):
            cells = [picture for _, picture in _given(batch, r)]
            for ax, picture in zip(axes[r], cells, strict=False):
                show(ax, picture)
            for ax, panel in zip(axes[r, len(cells) :], panels, strict=True):
                show(ax, heat_overlay(batch.query[r], panel.heat[r]))
                _iou_tag(ax, panel.iou[r])
        for ax, title, words in zip(axes[0], titles, wrapped, strict=True):
            ax.set_title(words, fontsize=TITLE, fontweight="bold", color=colors.get(title, "#222222"), pad=4)
    return fig


def cams_sheet(batch: CropBatch, panels: Sequence[CamPanel], r: int) -> Figure:
    """Crop ``r`` alone, in four columns that a phone can show: its pictures, and below them every model's Grad-CAM."""
    colors = method_colors([p.label for p in panels])
    rows = 1 + -(-len(panels) // COLUMNS)
    wrapped = [wrap_title(p.label, CELL_SHEET, TITLE) for p in panels]
    lines = 1 + max((title.count("\n") for title in wrapped), default=0)
    with look():
        fig = figure(CELL_SHEET * COLUMNS + 0.1, (CELL_SHEET + 0.12) * rows + 0.17 * (1 + lines * (rows - 1)))
        axes = fig.subplots(rows, COLUMNS, squeeze=False).flatten()
        for ax, (title, picture) in zip(axes, _given(batch, r), strict=False):
            show(ax, picture)
            ax.set_title(title, fontsize=TITLE, fontweight="bold", color="#222222", pad=4)
        for ax, panel, words in zip(axes[COLUMNS:], panels, wrapped, strict=False):
            show(ax, heat_overlay(batch.query[r], panel.heat[r]))
            ax.set_title(words, fontsize=TITLE, fontweight="bold", color=colors[panel.label], pad=4)
            _iou_tag(ax, panel.iou[r])
        for ax in axes[COLUMNS + len(panels) :]:
            ax.set_visible(False)
    return fig


def _given(batch: CropBatch, r: int) -> list[tuple[str, np.ndarray]]:
    """Title and picture of what the models are given of crop ``r``."""
    return [
        ("query", to_rgb(batch.query[r])),
        ("key", to_rgb(batch.key[r])),
        ("query's mask", batch.query_mask[r, 0].float().numpy()),
        ("masked key", masked_picture(batch.key[r], batch.key_mask[r, 0])),
    ]


def _iou_tag(ax: Axes, iou: float) -> None:
    text = "IoU n/a" if iou != iou else f"IoU {iou:.2f}"
    ax.text(
        0.03, 0.03, text, transform=ax.transAxes, fontsize=7.5, color="white",
        bbox={"facecolor": "black", "edgecolor": "none", "alpha": 0.65, "pad": 1.5},
    )  # fmt: skip
