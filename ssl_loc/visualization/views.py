"""What the network is given: source photos with their crop boxes and maps, and the views made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY, build_device_photometric
from ssl_loc.data.augmenters.constrained_crop import SaliencyConstrainedCrop
from ssl_loc.data.augmenters.paste_records import PASTE_BOX, PASTE_REFUSED, PASTED
from ssl_loc.data.build import build_mapper
from ssl_loc.data.collate import collate
from ssl_loc.data.mapper import MappedImage
from ssl_loc.structures import Sample, View
from ssl_loc.visualization.pictures import OUTLINE, draw_box, mask_outline, show, to_rgb
from ssl_loc.visualization.style import INK, MET, UNMET, figure, look

CELL = 1.45  # inches; six of them fill the report's page, so cells are as large whatever the columns
NAME_LENGTH = 22  # characters that fit over a picture
PASTE = "#CC79A7"  # colour of a pasted rectangle
FREE = "#56B4E9"  # colour of a crop that no constraint holds
# Line styles tell the views apart, colours tell whether the constraint was met, where there is one.
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
LINES = ("solid", "dashed", "dash-dotted", "dotted")


@dataclass
class ViewRow:
    """One image: the decoded sample and its views; ``constrained`` if a crop of theirs had to cover its mask."""

    sample: Sample
    views: list[View]
    constrained: bool = True

    def color(self, view: View) -> str:
        """Colour of the view's crop: whether it meets its constraint, if it has one (without a map it has none)."""
        if not self.constrained or self.sample.saliency is None:
            return FREE
        return MET if view.geometry.constraint_met else UNMET


def sample_views(cfg: CfgNode, count: int, epoch: int = 0) -> list[ViewRow]:
    """The views that training with ``cfg`` makes of ``count`` images, evenly spread over the dataset, in ``epoch``."""
    mapper = build_mapper(cfg)
    count = min(count, len(mapper))
    rows, mapped, constrained = [], [], _is_constrained(cfg)
    for index in dict.fromkeys(int(i) for i in np.linspace(0, len(mapper) - 1, count).round()):
        sample = mapper.sample(index)
        views = mapper.views(sample, epoch)
        rows.append(ViewRow(sample, views, constrained))
        mapped.append(MappedImage(index, sample.label, sample.path, views))
    photometric = build_device_photometric(cfg)
    if photometric is not None:
        _apply(rows, photometric(collate(mapped)).images)
    return rows


def _is_constrained(cfg: CfgNode) -> bool:
    names = [entry if isinstance(entry, str) else next(iter(entry)) for view in cfg.AUGMENT.VIEWS for entry in view]
    return any(issubclass(AUGMENTER_REGISTRY.get(name), SaliencyConstrainedCrop) for name in names)


def _apply(rows: Sequence[ViewRow], images: Sequence[torch.Tensor]) -> None:
    """Put images after the deferred colour operations back into the views."""
    for n, row in enumerate(rows):
        for v, view in enumerate(row.views):
            view.image = images[v][n].round().clamp(0, 255).to(torch.uint8)


def views_figure(rows: Sequence[ViewRow]) -> Figure:
    """Rows: images. Columns: source with mask outline and crop boxes, the map, then each view and its mask."""
    has_map = any(row.sample.saliency is not None for row in rows)
    has_masks = has_map or any(view.mask is not None for row in rows for view in row.views)
    names = view_names(len(rows[0].views))
    graded = any(row.sample.graded is not None for row in rows)
    titles = ["source and crops", *(["map" if graded else "mask"] if has_map else [])]
    for name in names:
        titles += [name, f"{name}'s mask"] if has_masks else [name]
    with look():
        # Views are square; the source columns are as wide as the shown photos are on average.
        shape = float(np.mean([row.sample.width / row.sample.height for row in rows]))
        widths = [min(1.6, max(1.0, shape)) if i < (2 if has_map else 1) else 1.0 for i in range(len(titles))]
        width = CELL * sum(widths) + 0.2
        fig = figure(width, (CELL + 0.2) * len(rows) + 0.5)
        axes = fig.subplots(len(rows), len(titles), squeeze=False, width_ratios=widths)
        for cells, row in zip(axes, rows, strict=True):
            _source(cells[0], row)
            at = 1
            if has_map:
                grey = row.sample.saliency if row.sample.graded is None else row.sample.graded
                show(cells[1], None if grey is None else grey.numpy())
                at = 2
            for view in row.views:
                color = row.color(view)
                show(cells[at], to_rgb(view.image), _remark(view), INK if color == FREE else color)
                if (box := paste_box(view)) is not None:
                    draw_box(cells[at], box, PASTE, style="--", width=1.2)
                if has_masks:
                    show(cells[at + 1], None if view.mask is None else view.mask[0].numpy())
                at += 2 if has_masks else 1
        for ax, title in zip(axes[0], titles, strict=True):
            # Over the pictures' own titles, which say what was done to a view.
            ax.annotate(
                title, (0.5, 1), (0, 14), "axes fraction", "offset points", ha="center", va="bottom",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
        _legend(fig, rows, names, columns=max(1, int(width / 1.5)))
    return fig


def view_names(count: int) -> list[str]:
    """Names of an image's views, in their order."""
    return ["query", "key"] if count == 2 else [f"view {v + 1}" for v in range(count)]


def _remark(view: View) -> str:
    """What a reader must know about a view beside its pixels."""
    words = [
        *(["pasted"] if _noted(view, PASTED) else ["kept: no object"] if _noted(view, PASTE_REFUSED) else []),
        *(["flipped"] if view.geometry.flip else []),
        *([] if view.geometry.constraint_met else ["NOT met"]),
    ]
    return ", ".join(words)


def _noted(view: View, name: str) -> bool:
    return bool(view.extra.get(name, 0.0))


def paste_box(view: View) -> list[float] | None:
    """Where a patch of the source was pasted into the view (XYXY in px of the view), or None."""
    box = view.extra.get(PASTE_BOX)
    return None if box is None or view.geometry.shown is None else box.tolist()


def _legend(fig: Figure, rows: Sequence[ViewRow], names: Sequence[str], columns: int) -> None:
    # Lines look as on the sources; where constraints colour them, as those that meet theirs.
    held = any(row.constrained and row.sample.saliency is not None for row in rows)
    color = MET if held else FREE
    handles: list[Artist] = [
        Line2D([], [], color=color, linestyle=STYLES[v % len(STYLES)], label=f"{n}'s crop") for v, n in enumerate(names)
    ]
    if any(row.sample.saliency is not None for row in rows):
        handles.append(Line2D([], [], color=OUTLINE, label="outline of the mask"))
        if held:
            handles += [Patch(color=c, label=f"crop constraint {w}") for c, w in ((MET, "met"), (UNMET, "NOT met"))]
    if any(paste_box(view) is not None for row in rows for view in row.views):
        handles.append(Line2D([], [], color=PASTE, linestyle="--", label="pasted rectangle"))
    fig.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8)


def _source(ax: Axes, row: ViewRow) -> None:
    show(ax, to_rgb(row.sample.image), _short(Path(row.sample.path).stem), INK)
    size = (row.sample.height, row.sample.width)
    if row.sample.saliency is not None:
        mask_outline(ax, row.sample.saliency.numpy(), size)
    for v, view in enumerate(row.views):
        draw_box(ax, view.geometry.visible, row.color(view), style=STYLES[v % len(STYLES)])


def _short(name: str) -> str:
    """A file's name as it fits over its picture; the end is what tells files apart."""
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


def views_caption(rows: Sequence[ViewRow]) -> str:
    """One sentence for the report, with the rate of unmet constraints in what is shown."""
    boxes = [view.geometry for row in rows for view in row.views]
    unmet = sum(not g.constraint_met for g in boxes)
    pasted = _pasted_words(rows)
    views = [f"{name} {line}" for name, line in zip(view_names(len(rows[0].views)), LINES, strict=False)]
    outline = "" if all(row.sample.saliency is None for row in rows) else "the mask's outline (yellow) and "
    constraint = (
        f"; green: the crop constraint is met, orange: not met, {unmet} of {len(boxes)} here"
        if outline and any(row.constrained for row in rows)
        else ""
    )
    return (
        f"Source photos with {outline}the crop boxes ({', '.join(views)}{constraint}), and the views that the network "
        f"sees.{pasted}"
    )


def _pasted_words(rows: Sequence[ViewRow]) -> str:
    """How many backgrounds were exchanged, where an augmenter does that."""
    views = [view for row in rows for view in row.views]
    if not any(PASTED in view.extra for view in views):
        return ""
    done, kept = (sum(_noted(view, name) for view in views) for name in (PASTED, PASTE_REFUSED))
    return f" {done} of {len(views)} views show their object on another background; {kept} had no object to paste."
