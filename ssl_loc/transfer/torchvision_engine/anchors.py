"""Anchors as detectron2 lays them: exact cells, size-major, at fixed strides.

torchvision's own generator rounds the cells to integers, orders them by ratio, and derives the stride from the padded
image size, which is wrong whenever that is no multiple of the stride.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ssl_loc.utils.errors import ConfigError


class Anchors(nn.Module):
    """Called as (image list, feature maps) -> one (sum of H W A, 4) XYXY tensor per image.

    Args:
        sizes: square roots of the anchor areas in px, one list per level; a single list serves all levels.
        ratios: height / width, one list per level; a single list serves all levels.
        strides: px per map cell, one per level.
        offset: centre of the first anchor, in strides.
    """

    def __init__(
        self, sizes: Sequence[Any], ratios: Sequence[Any], strides: Sequence[int], offset: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            raise ConfigError(f"MODEL.ANCHOR_GENERATOR.OFFSET is {offset}; expected a number in [0, 1)")
        self.strides = list(strides)
        self.offset = offset
        size_rows = per_level("SIZES", sizes, len(self.strides))
        ratio_rows = per_level("ASPECT_RATIOS", ratios, len(self.strides))
        for i, (row, aspect) in enumerate(zip(size_rows, ratio_rows, strict=True)):
            # Not persistent: anchors follow from the recipe and have no place in a checkpoint.
            self.register_buffer(f"cell{i}", cell_anchors(row, aspect), persistent=False)

    @property
    def per_location(self) -> list[int]:
        """Anchors per map cell, by level."""
        return [len(self.get_buffer(f"cell{i}")) for i in range(len(self.strides))]

    def forward(self, images: ImageList, features: list[Tensor]) -> list[Tensor]:
        anchors = torch.cat([self.grid(level, feature.shape[-2:]) for level, feature in enumerate(features)])
        return [anchors] * len(images.image_sizes)

    def grid(self, level: int, size: Sequence[int]) -> Tensor:
        """Anchors of one level for a map of ``size`` (h, w): row by row, then column, then cell -> (h w A, 4)."""
        cell, stride = self.get_buffer(f"cell{level}"), self.strides[level]
        y, x = ((torch.arange(n, dtype=torch.float32, device=cell.device) + self.offset) * stride for n in size)
        shift_y, shift_x = torch.meshgrid(y, x, indexing="ij")
        shift = torch.stack([shift_x, shift_y, shift_x, shift_y], -1).reshape(-1, 1, 4)
        return (shift + cell).reshape(-1, 4)


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors around the origin, all ratios of the first size first -> (len(sizes) len(ratios), 4)."""
    cells = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size * size / ratio)
            height = ratio * width
            cells.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(cells, dtype=torch.float32)


def per_level(name: str, rows: Sequence[Any], levels: int) -> list[list[float]]:
    """One row per level; a flat list or a single row is repeated."""
    if not rows:
        raise ConfigError(f"MODEL.ANCHOR_GENERATOR.{name} is empty")
    if not isinstance(rows[0], (list, tuple)):
        return [list(rows)] * levels
    if len(rows) == 1:
        return [list(rows[0])] * levels
    if len(rows) != levels:
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.{name} has {len(rows)} rows but MODEL.RPN.IN_FEATURES names {levels} levels"
        )
    return [list(row) for row in rows]
