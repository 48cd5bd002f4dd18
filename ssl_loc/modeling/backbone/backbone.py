"""What every trunk promises."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.utils.precision import full_precision


class Backbone(nn.Module):
    """A trunk: normalised images (N, 3, h, w) -> maps "res2" .. "res5", each (N, C, h', w').

    Its state dict is in torchvision's names (without ``fc``), so weights leave the house as they are.

    Attributes:
        channels: channels by level.
        strides: image px per map cell by level.
    """

    channels: dict[str, int]
    strides: dict[str, int]

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        """Global average of the last level: maps -> (N, C) float32, also under autocast."""
        return F.adaptive_avg_pool2d(full_precision(maps["res5"]), 1).flatten(1)

    @property
    def out_channels(self) -> int:
        """Length of the pooled vector."""
        return self.channels["res5"]

    def describe(self) -> dict[str, Any]:
        """``{"name", "kwargs"}``, plain values from which ``build_backbone_from_description`` makes an equal trunk."""
        raise NotImplementedError
