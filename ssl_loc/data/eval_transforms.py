"""How a photo becomes the network's square input outside of training: no randomness."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.errors import check_choice

# Test transform of the ImageNet protocols: shorter side 256, centre crop 224; other sizes keep the proportion.
RESIZE_RATIO = 256 / 224


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, height, width), bilinear and antialiased; the same size is the same bits."""
    if tuple(image.shape[1:]) == (height, width):
        return image
    x = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    return x.round().clamp(0, 255).to(torch.uint8)


def eval_transform(image: Tensor, size: int) -> Tensor:
    """Shorter side to ``size * 256 / 224``, then the central square: uint8 (3, H, W) -> uint8 (3, size, size)."""
    return _central(image, round(size * RESIZE_RATIO), size)


def whole(image: Tensor, size: int) -> Tensor:
    """Shorter side to ``size``, then the central square; a picture that is ``size`` x ``size`` stays as it is."""
    return _central(image, size, size)


def squash(image: Tensor, size: int) -> Tensor:
    """Both sides to ``size``, whatever the shape was: nothing is cut off, circles become ellipses."""
    return resize(image, size, size)


def _central(image: Tensor, short: int, size: int) -> Tensor:
    h, w = image.shape[1:]
    scale = short / min(h, w)
    x = resize(image, max(short, round(h * scale)), max(short, round(w * scale)))
    top, left = (x.shape[1] - size) // 2, (x.shape[2] - size) // 2
    return x[:, top : top + size, left : left + size]


TRANSFORMS: dict[str, Callable[[Tensor, int], Tensor]] = {"center": eval_transform, "square": squash, "whole": whole}


def find_transform(name: str, key: str = "TRANSFORM") -> Callable[[Tensor, int], Tensor]:
    """``(uint8 (3, H, W), size) -> uint8 (3, size, size)`` by name; ``key`` is the option to name in the error."""
    return TRANSFORMS[check_choice(key, name, tuple(TRANSFORMS))]
