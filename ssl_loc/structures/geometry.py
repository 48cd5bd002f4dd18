"""Where a view came from, and how its pixels map to the source image.

Frames: *source frame* = pixel coordinates of the decoded image, XYXY, half-open, float. *View frame* = the same for the
resized (and possibly flipped) view of size (h, w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_loc.structures.checks import check_tensor


@dataclass(frozen=True)
class Geometry:
    """Geometry of one view.

    Attributes:
        box: (x1, y1, x2, y2), source frame.
        size: (h, w) of the view in px.
        flip: True if the view is mirrored left-right.
        source: (H, W) of the source image in px.
        constraint_met: False if a crop constraint was asked for and no proposal met it.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    source: tuple[int, int]
    flip: bool = False
    constraint_met: bool = True

    def __post_init__(self) -> None:
        x1, y1, x2, y2 = self.box
        if not (x2 > x1 and y2 > y1):
            raise ValueError(f"Geometry.box is empty: {self.box}; expected x1 < x2 and y1 < y2")

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
        """Intersection of the two boxes in the source frame, or None if they do not overlap."""
        a, b = self.box, other.box
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
    """

    boxes: Tensor
    flips: Tensor
    source: Tensor
    met: Tensor

    def __post_init__(self) -> None:
        check_tensor("GeometryBatch", "boxes", self.boxes, (None, None, 4), (torch.float32,))
        n, v = self.boxes.shape[:2]
        check_tensor("GeometryBatch", "flips", self.flips, (n, v), (torch.bool,))
        check_tensor("GeometryBatch", "source", self.source, (n, 2), (torch.int64,))
        check_tensor("GeometryBatch", "met", self.met, (n, v), (torch.bool,))

    @classmethod
    def stack(cls, rows: list[list[Geometry]]) -> GeometryBatch:
        """Batch ``rows[n][v]``."""
        return cls(
            boxes=torch.tensor([[g.box for g in row] for row in rows], dtype=torch.float32),
            flips=torch.tensor([[g.flip for g in row] for row in rows], dtype=torch.bool),
            source=torch.tensor([row[0].source for row in rows], dtype=torch.int64),
            met=torch.tensor([[g.constraint_met for g in row] for row in rows], dtype=torch.bool),
        )

    def overlap(self, a: int, b: int) -> Tensor:
        """Part of view ``a`` that view ``b`` also sees, in a's view frame scaled to [0, 1]: (N, 4) XYXY.

        Boxes without overlap come back with zero width and height.
        """
        box_a, box_b = self.boxes[:, a], self.boxes[:, b]
        low = torch.maximum(box_a[:, :2], box_b[:, :2])
        high = torch.minimum(box_a[:, 2:], box_b[:, 2:])
        empty = (high <= low).any(1, keepdim=True)
        extent = box_a[:, 2:] - box_a[:, :2]
        low, high = (low - box_a[:, :2]) / extent, (high - box_a[:, :2]) / extent
        x1, x2 = low[:, 0], high[:, 0]
        flip = self.flips[:, a]
        left, right = torch.where(flip, 1 - x2, x1), torch.where(flip, 1 - x1, x2)
        box = torch.stack([left, low[:, 1], right, high[:, 1]], 1)
        return torch.where(empty, torch.zeros_like(box), box)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GeometryBatch:
        return GeometryBatch(*(t.to(device, non_blocking=non_blocking) for t in self._tensors()))

    def rows(self, start: int, stop: int) -> GeometryBatch:
        """Geometry of images ``start`` .. ``stop`` (exclusive)."""
        return GeometryBatch(*(t[start:stop] for t in self._tensors()))

    def pin_memory(self) -> GeometryBatch:
        return GeometryBatch(*(t.pin_memory() for t in self._tensors()))

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.boxes, self.flips, self.source, self.met
