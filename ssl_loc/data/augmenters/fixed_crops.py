"""Crops of one size: in the middle, or at a random place (the first rows of DiLo's table 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.crops import RandomResizedCrop, crop_arguments
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.augmenters.resize import Box


@register_config("AUGMENT.FIXED_CROP")
def fixed_crop_config() -> CfgNode:
    node = CfgNode()
    # Side of the square crop as a share of the image's shorter side (.875: 224 px after a resize to 256).
    node.SHARE = 0.875
    return node


@AUGMENTER_REGISTRY.register()
class RandomCrop(RandomResizedCrop):
    """Square crop of one size at a random place, resized to the view.

    Args:
        share: side of the crop as a share of the image's shorter side, in (0, 1].
        size, interpolation: see :class:`RandomResizedCrop`.
    """

    node = "FIXED_CROP"

    def __init__(self, share: float = 0.875, size: int = 224, interpolation: str = "bilinear") -> None:
        super().__init__(size, interpolation=interpolation)
        self.share = check_within("FIXED_CROP.SHARE", share, low=0.01, meaning="share of the shorter side")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        shared = crop_arguments(cfg)
        return {
            "share": cfg.AUGMENT.FIXED_CROP.SHARE,
            "size": shared["size"],
            "interpolation": shared["interpolation"],
        }

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Box:
        side = max(round(self.share * min(height, width)), 1)
        u_x, u_y = rng.random(2)
        x, y = int(u_x * (width - side + 1)), int(u_y * (height - side + 1))
        return x, y, x + side, y + side


@AUGMENTER_REGISTRY.register()
class CenterCrop(RandomCrop):
    """Square crop of one size in the middle, resized to the view: every epoch sees the same pixels."""

    random = False

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Box:
        side = max(round(self.share * min(height, width)), 1)
        x, y = (width - side) // 2, (height - side) // 2
        return x, y, x + side, y + side
