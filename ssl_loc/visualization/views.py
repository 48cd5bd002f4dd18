"""What the network is given: source photos with their crop boxes and masks, and the views made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters.build import build_device_photometric
from ssl_loc.data.build import build_mapper
from ssl_loc.data.collate import collate
from ssl_loc.data.mapper import MappedImage
from ssl_loc.structures import Sample, View
from ssl_loc.visualization.pictures import OUTLINE, draw_box, mask_outline, show, to_rgb
from ssl_loc.visualization.style import INK, MET, UNMET, figure, look

CELL = 1.6  # inches
# Line styles tell the views apart, colours tell whether the constraint was met.
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")


@dataclass
class ViewRow:
    """One image: the decoded sample and its views."""

    sample: Sample
    views: list[View]


def sample_views(cfg: CfgNode, count: int, epoch: int = 0) -> list[ViewRow]:
    """The views that training with ``cfg`` makes of ``count`` images, evenly spread over the dataset, in ``epoch``."""
    mapper = build_mapper(cfg)
    count = min(count, len(mapper))
    rows, mapped = [], []
    for index in dict.fromkeys(int(i) for i in np.linspace(0, len(mapper) - 1, count).round()):
        sample = mapper.sample(index)
        views = mapper.views(sample, epoch)
        rows.append(ViewRow(sample, views))
        mapped.append(MappedImage(index, sample.label, sample.path, views))
    photometric = build_device_photometric(cfg)
    if photometric is not None:
        _apply(rows, photometric(collate(mapped)).images)
    return rows


def _apply(rows: Sequence[ViewRow], images: Sequence[torch.Tensor]) -> None:
    """Put images after the deferred colour operations back into the views."""
    for n, row in enumerate(rows):
        for v, view in enumerate(row.views):
            view.image = images[v][n].round().clamp(0, 255).to(torch.uint8)


def views_figure(rows: Sequence[ViewRow]) -> Figure:
    """Rows: images. Columns: source with mask outline and crop boxes, the mask, then each view and its mask."""
    has_masks = any(row.sample.saliency is not None for row in rows)
    names = view_names(len(rows[0].views))
    titles = ["source and crops", *(["mask"] if has_masks else [])]
    for name in names:
        titles += [name, f"{name}'s mask"] if has_masks else [name]
    with look():
        # Views are square; the source columns are as wide as the shown photos are on average.
        shape = float(np.mean([row.sample.width / row.sample.height for row in rows]))
        widths = [min(1.6, max(1.0, shape)) if i < (2 if has_masks else 1) else 1.0 for i in range(len(titles))]
        width = CELL * sum(widths) + 0.2
        fig = figure(width, (CELL + 0.2) * len(rows) + 0.5)
        axes = fig.subplots(len(rows), len(titles), squeeze=False, width_ratios=widths)
        for cells, row in zip(axes, rows, strict=True):
            _source(cells[0], row)
            at = 1
            if has_masks:
                show(cells[1], None if row.sample.saliency is None else row.sample.saliency.numpy())
                at = 2
            for view in row.views:
                remark, color = _remark(view)
                show(cells[at], to_rgb(view.image), remark, color)
                if has_masks:
                    show(cells[at + 1], None if view.mask is None else view.mask[0].numpy())
                at += 2 if has_masks else 1
        for ax, title in zip(axes[0], titles, strict=True):
            # Over the pictures' own titles, which say what was done to a view.
            ax.annotate(
                title, (0.5, 1), (0, 14), "axes fraction", "offset points", ha="center", va="bottom",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
        _legend(fig, names, has_masks, columns=max(1, int(width / 1.5)))
    return fig


def view_names(count: int) -> list[str]:
    """Names of an image's views, in their order."""
    return ["query", "key"] if count == 2 else [f"view {v + 1}" for v in range(count)]


def _remark(view: View) -> tuple[str, str]:
    """What a reader must know about a view beside its pixels, and its colour."""
    met = view.geometry.constraint_met
    words = [*(["flipped"] if view.geometry.flip else []), *([] if met else ["NOT met"])]
    return ", ".join(words), MET if met else UNMET


def _legend(fig: Figure, names: Sequence[str], has_masks: bool, columns: int) -> None:
    handles: list[Artist] = [
        Line2D([], [], color=INK, linestyle=STYLES[v % len(STYLES)], label=f"{n}'s crop") for v, n in enumerate(names)
    ]
    if has_masks:
        handles.append(Line2D([], [], color=OUTLINE, label="outline of the mask"))
        handles += [Patch(color=c, label=f"crop constraint {w}") for c, w in ((MET, "met"), (UNMET, "NOT met"))]
    fig.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8)


def _source(ax: Axes, row: ViewRow) -> None:
    show(ax, to_rgb(row.sample.image))
    size = (row.sample.height, row.sample.width)
    if row.sample.saliency is not None:
        mask_outline(ax, row.sample.saliency.numpy(), size)
    for v, view in enumerate(row.views):
        draw_box(ax, view.geometry.box, _remark(view)[1], style=STYLES[v % len(STYLES)])


def views_caption(rows: Sequence[ViewRow]) -> str:
    """One sentence for the report, with the rate of unmet constraints in what is shown."""
    boxes = [view.geometry for row in rows for view in row.views]
    unmet = sum(not g.constraint_met for g in boxes)
    if all(row.sample.saliency is None for row in rows):
        return "Source photos with the crop boxes (query solid, key dashed), and the views that the network sees."
    return (
        "Source photos with the mask's outline (yellow) and the crop boxes (query solid, key dashed; green: the crop "
        f"constraint is met, orange: not met, {unmet} of {len(boxes)} here), and the views that the network sees."
    )
