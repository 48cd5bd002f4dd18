"""Cut a box out of an image or a map and resize it: the pixel work of every crop."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.errors import ConfigError

INTERPOLATIONS = ("bilinear", "bicubic")

Box = tuple[int, int, int, int]


def check_interpolation(name: str) -> str:
    """Return ``name`` if it is a known interpolation, else raise."""
    if name not in INTERPOLATIONS:
        raise ConfigError(f"INTERPOLATION is '{name}'; expected one of {', '.join(INTERPOLATIONS)}")
    return name


def as_hwc(image: Tensor) -> np.ndarray:
    """View a uint8 tensor (C, H, W) as a contiguous array (H, W, C); free for channels-last memory."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def from_hwc(array: np.ndarray) -> Tensor:
    """View an array (H, W, C) as a tensor (C, H, W) in channels-last memory."""
    return torch.from_numpy(array).permute(2, 0, 1)


def crop_resize_image(image: Tensor, box: Box, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Crop ``box`` (integer XYXY, half-open) and resize with antialiasing -> uint8 (3, *size), channels-last memory.

    Torch's uint8 kernel on channels-last memory is the fastest antialiased resize measured. The explicit copy of the
    crop makes the result channels-last too, which every later step (OpenCV, flip) reads without a transposition.
    """
    x1, y1, x2, y2 = box
    crop = image[None, :, y1:y2, x1:x2].contiguous(memory_format=torch.channels_last)
    return F.interpolate(crop, size, mode=interpolation, align_corners=False, antialias=True)[0]


def crop_resize_mask(mask: Tensor, box: Box, source: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Crop ``box`` (in an image of ``source`` (H, W)) out of a map that may be smaller, and resize -> uint8 (1, *size).

    Averages where it shrinks and interpolates where it enlarges, so a binary map gets grey edges. The map's cells need
    not line up with the box: the cells around it are resized together and the box is cut out of the result, which
    places it to half a pixel of the *view*.
    """
    array = mask[0].numpy()
    (top, bottom), (out_top, out_h) = _axis(box[1], box[3], array.shape[0] / source[0], array.shape[0], size[0])
    (left, right), (out_left, out_w) = _axis(box[0], box[2], array.shape[1] / source[1], array.shape[1], size[1])
    shrinks = out_h < bottom - top or out_w < right - left
    cells = array[top:bottom, left:right]
    resized = cv2.resize(cells, (out_w, out_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    cut = resized[out_top : out_top + size[0], out_left : out_left + size[1]]
    return torch.from_numpy(np.ascontiguousarray(cut))[None]


def _axis(low: int, high: int, scale: float, cells: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Along one axis: range of cells around [low, high), and (offset, length) of those cells when resized."""
    first = min(int(low * scale), cells - 1)
    last = min(max(int(np.ceil(high * scale)), first + 1), cells)
    per_cell = size / ((high - low) * scale)
    length = max(round((last - first) * per_cell), size)
    offset = min(round((low * scale - first) * per_cell), length - size)
    return (first, last), (offset, length)
