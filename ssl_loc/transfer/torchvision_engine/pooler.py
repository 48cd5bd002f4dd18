"""RoI pooling as detectron2 does it: aligned by half a pixel, adaptive sampling, fixed scales, levels by box size.

torchvision's MultiScaleRoIAlign has no alignment option, which alone changes RoI features by 7-8%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from ssl_loc.utils.errors import ConfigError

# A box of this size (px, square root of area) belongs to level 4, i.e. stride 16 (FPN paper, equation 1).
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4


class Pooler(nn.Module):
    """Called as (feature maps by name, boxes per image, image sizes) -> (R, C, resolution, resolution).

    Args:
        features: names of the maps to pool from, finest first.
        strides: px per cell of these maps; powers of two, each twice the one before.
        resolution: output cells per side.
        sampling_ratio: samples per cell and side; 0 adapts to the box.
        aligned: half-pixel shift (ROIAlignV2) or not (ROIAlign).
    """

    def __init__(
        self,
        features: Sequence[str],
        strides: Sequence[int],
        resolution: int,
        sampling_ratio: int = 0,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.features = list(features)
        self.strides = list(strides)
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.min_level = int(math.log2(self.strides[0]))
        if self.strides != [2 ** (self.min_level + i) for i in range(len(self.strides))]:
            raise ConfigError(
                f"MODEL.ROI_HEADS.IN_FEATURES {self.features} have strides {self.strides}; expected powers of two, "
                "each twice the one before"
            )

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        maps = [features[name] for name in self.features]
        index = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat([index, torch.cat(boxes)], 1)
        if len(maps) == 1:
            return self._pool(maps[0], rois, self.strides[0])
        level = self.assign(rois[:, 1:])
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], self.resolution, self.resolution)
        for i, (feature, stride) in enumerate(zip(maps, self.strides, strict=True)):
            chosen = (level == i).nonzero()[:, 0]
            # index_put (not masked assignment) also keeps the graph connected where a level got no box.
            pooled = self._pool(feature, rois[chosen], stride)
            out = out.to(pooled.dtype).index_put((chosen,), pooled)
        return out

    def assign(self, boxes: Tensor) -> Tensor:
        """Index of the map for each box (R, 4): floor(4 + log2(sqrt(area) / 224)), clamped to what there is."""
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        level = torch.floor(CANONICAL_LEVEL + torch.log2(torch.sqrt(area) / CANONICAL_SIZE + 1e-8))
        return level.clamp(self.min_level, self.min_level + len(self.strides) - 1).long() - self.min_level

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        # roi_align does not broadcast types, and autocast leaves boxes in fp32.
        return roi_align(
            feature,
            rois.to(feature.dtype),
            self.resolution,
            spatial_scale=1.0 / stride,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
