"""Where a view came from, and how its pixels map to the source image.

Frames: *source frame* = pixel coordinates of the decoded image, XYXY, half-open, float. *View frame* = the same for the
resized (and possibly flipped) view of size (h, w).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_loc.structures.checks import check_tensor


@dataclass(frozen=True)
class Geometry:
    """Geometry of one view.

    Attributes:
        box: (x1, y1, x2, y2), source frame: where the corners of the view map to. It leaves the source image where the
            view shows a part of it pasted into another picture.
        size: (h, w) of the view in px.
        flip: True if the view is mirrored left-right.
        source: (H, W) of the source image in px.
        constraint_met: False if a crop constraint was asked for and no proposal met it.
        shown: the part of ``box`` that comes from the source image; None = all of it.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    source: tuple[int, int]
    flip: bool = False
    constraint_met: bool = True
    shown: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box
        if not (x2 > x1 and y2 > y1):
            raise ValueError(f"Geometry.box is empty: {self.box}; expected x1 < x2 and y1 < y2")

    @property
    def visible(self) -> tuple[float, float, float, float]:
        """The part of the source image that the view shows, source frame."""
        return self.box if self.shown is None else self.shown

    def to_view(self, points: Tensor) -> Tensor:
        """Map points (..., 2) as (x, y) from the source frame to the view frame."""
        x1, y1, x2, y2 = self.box
        h, w = self.size
        x = (points[..., 0] - x1) * (w / (x2 - x1))
        y = (points[..., 1] - y1) * (h / (y2 - y1))
        return torch.stack([w - x if self.flip else x, y], -1)

    def to_source(self, points: Tensor) -> Tensor:
        """Map points (..., 2) as (x, y) from the view frame to the source frame (inverse of :meth:`to_view`)."""
        x1, y1, x2, y2 = self.box
        h, w = self.size
        x = w - points[..., 0] if self.flip else points[..., 0]
        return torch.stack([x1 + x * ((x2 - x1) / w), y1 + points[..., 1] * ((y2 - y1) / h)], -1)

    def intersect(self, other: Geometry) -> tuple[float, float, float, float] | None:
        """What both views show of the source image, source frame, or None if they share nothing."""
        a, b = self.visible, other.visible
        box = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        return box if box[2] > box[0] and box[3] > box[1] else None


@dataclass
class GeometryBatch:
    """Geometry of N images x V views.

    Attributes:
        boxes: float32 (N, V, 4), source frame.
        flips: bool (N, V).
        source: int64 (N, 2) as (H, W).
        met: bool (N, V), crop constraint met.
        shown: float32 (N, V, 4), the parts of ``boxes`` that come from the source image; None = all of them.
    """

    boxes: Tensor
    flips: Tensor
    source: Tensor
    met: Tensor
    shown: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("GeometryBatch", "boxes", self.boxes, (None, None, 4), (torch.float32,))
        n, v = self.boxes.shape[:2]
        check_tensor("GeometryBatch", "flips", self.flips, (n, v), (torch.bool,))
        check_tensor("GeometryBatch", "source", self.source, (n, 2), (torch.int64,))
        check_tensor("GeometryBatch", "met", self.met, (n, v), (torch.bool,))
        if self.shown is not None:
            check_tensor("GeometryBatch", "shown", self.shown, (n, v, 4), (torch.float32,))

    @classmethod
    def stack(cls, rows: list[list[Geometry]]) -> GeometryBatch:
        """Batch ``rows[n][v]``."""
        return cls(
            boxes=torch.tensor([[g.box for g in row] for row in rows], dtype=torch.float32),
            flips=torch.tensor([[g.flip for g in row] for row in rows], dtype=torch.bool),
            source=torch.tensor([row[0].source for row in rows], dtype=torch.int64),
            met=torch.tensor([[g.constraint_met for g in row] for row in rows], dtype=torch.bool),
            shown=torch.tensor([[g.visible for g in row] for row in rows], dtype=torch.float32)
            if any(g.shown is not None for row in rows for g in row)
            else None,
        )

    def overlap(self, a: int, b: int) -> Tensor:
        """Part of view ``a`` that view ``b`` also sees, in a's view frame scaled to [0, 1]: (N, 4) XYXY.

        Boxes without overlap come back with zero width and height.
        """
        box_a, visible = self.boxes[:, a], self.boxes if self.shown is None else self.shown
        low = torch.maximum(visible[:, a, :2], visible[:, b, :2])
        high = torch.minimum(visible[:, a, 2:], visible[:, b, 2:])
        empty = (high <= low).any(1, keepdim=True)
        extent = box_a[:, 2:] - box_a[:, :2]
        low, high = (low - box_a[:, :2]) / extent, (high - box_a[:, :2]) / extent
        x1, x2 = low[:, 0], high[:, 0]
        flip = self.flips[:, a]
        left, right = torch.where(flip, 1 - x2, x1), torch.where(flip, 1 - x1, x2)
        box = torch.stack([left, low[:, 1], right, high[:, 1]], 1)
        return torch.where(empty, torch.zeros_like(box), box)

    def to_other(self, a: int, b: int, points: Tensor) -> Tensor:
        """Where view ``b`` shows what view ``a`` shows at ``points``.

        Both are (N, P, 2) as (x, y), in view frames scaled to [0, 1]; nan where not both views show it.
        """
        boxes, visible = self.boxes[:, :, None], (self.boxes if self.shown is None else self.shown)[:, :, None]

        def mirror(p: Tensor, view: int) -> Tensor:
            return torch.where(self.flips[:, view, None, None], torch.stack([1 - p[..., 0], p[..., 1]], -1), p)

        low, extent = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
        source = low[:, a] + mirror(points, a) * extent[:, a]
        inside = [(source >= visible[:, v, :, :2]) & (source <= visible[:, v, :, 2:]) for v in (a, b)]
        shown = (inside[0] & inside[1]).all(2, keepdim=True)
        return torch.where(shown, mirror((source - low[:, b]) / extent[:, b], b), torch.nan)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GeometryBatch:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def rows(self, start: int, stop: int) -> GeometryBatch:
        """Geometry of images ``start`` .. ``stop`` (exclusive)."""
        return self._map(lambda t: t[start:stop])

    def pin_memory(self) -> GeometryBatch:
        return self._map(lambda t: t.pin_memory())

    def _map(self, f: Callable[[Tensor], Tensor]) -> GeometryBatch:
        shown = None if self.shown is None else f(self.shown)
        return GeometryBatch(f(self.boxes), f(self.flips), f(self.source), f(self.met), shown)
