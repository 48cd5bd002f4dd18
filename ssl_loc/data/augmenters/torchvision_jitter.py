"""Colour jitter by torchvision's own operations: the exact form of ColorJitter."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

_OPERATIONS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def jitter(image: Tensor, order: list[int], factors: list[float]) -> Tensor:
    """Apply brightness, contrast, saturation and hue ``factors`` to a uint8 image (3, h, w) in ``order``."""
    for i in order:
        image = _OPERATIONS[i](image, factors[i])
    return image
