"""The batch: N images x V views with masks and geometry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.structures.checks import check_tensor
from ssl_loc.structures.geometry import GeometryBatch


@dataclass
class Views:
    """A batch of views.

    Attributes:
        images: V tensors (N, 3, h_v, w_v), uint8; float32 in 0..255 after deferred photometric operations.
        masks: V tensors uint8 (N, 1, h_v, w_v) with 0..255, or None if no image of the batch has a mask. An image
            without a mask holds zeros there *and* ``has_mask`` False: never read a mask without ``has_mask``.
        has_mask: bool (N, V).
        geometry: see :class:`GeometryBatch`.
        index: int64 (N,), position in the dataset.
        label: int64 (N,), -1 unknown.
        extra: tensors with leading N.
        paths: N file names, for messages.
    """

    images: list[Tensor]
    masks: list[Tensor] | None
    has_mask: Tensor
    geometry: GeometryBatch
    index: Tensor
    label: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("Views.images is empty; expected at least one view")
        n, v = self.images[0].shape[0], len(self.images)
        for i, image in enumerate(self.images):
            check_tensor("Views", f"images[{i}]", image, (n, 3, None, None), (torch.uint8, torch.float32))
        if self.masks is not None:
            if len(self.masks) != v:
                raise ValueError(f"Views.masks has {len(self.masks)} entries, expected one per view ({v})")
            for i, (mask, image) in enumerate(zip(self.masks, self.images, strict=True)):
                check_tensor("Views", f"masks[{i}]", mask, (n, 1, *image.shape[2:]), (torch.uint8,))
        check_tensor("Views", "has_mask", self.has_mask, (n, v), (torch.bool,))
        if self.masks is None and bool(self.has_mask.any()):
            raise ValueError("Views.has_mask is True somewhere but Views.masks is None")
        check_tensor("Views", "geometry.boxes", self.geometry.boxes, (n, v, 4), (torch.float32,))
        check_tensor("Views", "index", self.index, (n,), (torch.int64,))
        check_tensor("Views", "label", self.label, (n,), (torch.int64,))
        for name, value in self.extra.items():
            if value.shape[:1] != (n,):
                raise ValueError(f"Views.extra['{name}'] has shape {tuple(value.shape)}, expected leading length {n}")

    @property
    def batch_size(self) -> int:
        return self.images[0].shape[0]

    @property
    def num_views(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Views:
        return self._map(lambda t: t.to(device, non_blocking=non_blocking), self.geometry.to(device, non_blocking))

    def pin_memory(self) -> Views:
        return self._map(lambda t: t.pin_memory(), self.geometry.pin_memory())

    def rows(self, start: int, stop: int) -> Views:
        """Images ``start`` .. ``stop`` (exclusive) of the batch; the tensors are views, nothing is copied."""
        geometry = self.geometry.rows(start, stop)
        part = self._map(lambda t: t[start:stop], geometry)
        part.paths = self.paths[start:stop]
        return part

    def mask_at(self, view: int, size: tuple[int, int], mode: str = "area") -> Tensor:
        """Mask of ``view`` in [0, 1] at ``size`` -> float32 (N, 1, *size).

        ``mode="area"`` averages (never loses a small object); ``mode="point"`` samples at align-corners positions, as
        the official CAST code does (cast.md D8: small objects can vanish).
        """
        if self.masks is None:
            raise ValueError("Views.masks is None; this batch carries no masks (DATA.MASKS.SOURCE is 'none'?)")
        return resize_mask(self.masks[view].float() / 255, size, mode)

    def overlap(self, a: int, b: int, size: tuple[int, int]) -> Tensor:
        """Share of each cell of view ``a`` that view ``b`` also sees -> float32 (N, 1, *size) in [0, 1]."""
        box = self.geometry.overlap(a, b)
        h, w = size

        def cover(low: Tensor, high: Tensor, cells: int) -> Tensor:
            edge = torch.arange(cells + 1, device=box.device, dtype=box.dtype) / cells
            length = torch.minimum(edge[1:], high[:, None]) - torch.maximum(edge[:-1], low[:, None])
            return length.clamp(min=0) * cells

        return (cover(box[:, 1], box[:, 3], h)[:, :, None] * cover(box[:, 0], box[:, 2], w)[:, None, :])[:, None]

    def _map(self, f: Callable[[Tensor], Tensor], geometry: GeometryBatch) -> Views:
        return Views(
            images=[f(x) for x in self.images],
            masks=None if self.masks is None else [f(x) for x in self.masks],
            has_mask=f(self.has_mask),
            geometry=geometry,
            index=f(self.index),
            label=f(self.label),
            extra={k: f(x) for k, x in self.extra.items()},
            paths=self.paths,
        )


def resize_mask(mask: Tensor, size: tuple[int, int], mode: str = "area") -> Tensor:
    """Resize float masks (N, 1, h, w) to ``size`` by area averaging, point sampling (see :meth:`Views.mask_at`) or
    bilinear interpolation at the cells' centres."""
    if mode == "area":
        return F.adaptive_avg_pool2d(mask, size)
    if mode == "point":
        return F.interpolate(mask, size, mode="bilinear", align_corners=True)
    if mode == "bilinear":
        return F.interpolate(mask, size, mode="bilinear", align_corners=False)
    raise ValueError(f"mask resize mode '{mode}' is unknown; expected 'area', 'point' or 'bilinear'")
