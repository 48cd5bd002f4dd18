"""Labels of boxes in a picture: inside of it, beside their box, and never on top of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SIZE, PAD = 7.0, 1.2  # points: letters, and the coloured margin around them


@dataclass
class BoxLabel:
    """A label and the box that it names, XYXY in data coordinates of its axes."""

    text: Text
    axes: Axes
    box: tuple[float, float, float, float]


def add_label(ax: Axes, box: tuple[float, float, float, float], words: str, color: str) -> BoxLabel:
    """Write the label at the box's upper left corner; :func:`place_labels` finds its place once all are there."""
    text = ax.text(
        box[0], box[1], words, fontsize=SIZE, color="white", va="top", ha="left", clip_on=True,
        bbox={"facecolor": color, "edgecolor": "none", "pad": PAD, "alpha": 0.9},
    )  # fmt: skip
    text.set_in_layout(False)  # else a label at the edge would shrink its picture
    return BoxLabel(text, ax, box)


def place_labels(fig: Figure, labels: Sequence[BoxLabel]) -> int:
    """Move every label to a free place at its box, first come first served; return how many found none and are hidden.

    The figure must be complete: the places depend on its layout.
    """
    fig.draw_without_rendering()
    hidden = 0
    taken: dict[Axes, list[Bbox]] = {}
    for label in labels:
        others = taken.setdefault(label.axes, [])
        margin = PAD * fig.dpi / 72
        spot = next((s for s in _spots(label, margin) if not any(_overlap(s, o) for o in others)), None)
        if spot is None:
            label.text.set_visible(False)
            hidden += 1
            continue
        others.append(spot)
        place = label.axes.transData.inverted().transform((spot.x0 + margin, spot.y1 - margin))
        label.text.set_position((float(place[0]), float(place[1])))
    return hidden


def _spots(label: BoxLabel, margin: float) -> Iterator[Bbox]:
    """Places for a label in display pixels, best first: at the corners of its box, a line off, down its left side."""
    frame = label.axes.get_window_extent()
    width = label.text.get_window_extent().width + 2 * margin
    if width > frame.width:
        label.text.set_fontsize(SIZE * frame.width / width)
    size = label.text.get_window_extent()
    w, h = size.width + 2 * margin, size.height + 2 * margin
    box = Bbox(label.axes.transData.transform([label.box[:2], label.box[2:]]))
    left, right = min(box.x0, box.x1), max(box.x0, box.x1)
    bottom, top = min(box.y0, box.y1), max(box.y0, box.y1)
    inside, outside = (top, bottom + h), (top + h, bottom)
    # A label would hide a small box that it stands in.
    first = (*inside, *outside) if top - bottom > 3 * h else (*outside, *inside)
    for y in (*first, top + 2 * h, bottom - h):
        for x in (left, right - w):
            yield _inside(frame, x, y, w, h)
    for step in range(1, int((top - bottom) / h) + 1):
        yield _inside(frame, left, top - step * h, w, h)


def _inside(frame: Bbox, x: float, y: float, w: float, h: float) -> Bbox:
    """The w x h rectangle with upper left corner (x, y), moved into the frame."""
    x = max(frame.x0, min(x, frame.x1 - w))
    y = min(frame.y1, max(y, frame.y0 + h))
    return Bbox.from_extents(x, y - h, x + w, y)


def _overlap(a: Bbox, b: Bbox) -> bool:
    # Half a pixel of rounding is no overlap.
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
