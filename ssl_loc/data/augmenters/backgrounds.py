"""What an object can be pasted on (DiLo paper, section 3.2): grey, textures, windows of photos, other photos."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ssl_loc.data.augmenters.resize import Box, as_hwc
from ssl_loc.data.augmenters.textures import TEXTURES, texture
from ssl_loc.structures import Sample

GRAY, TEXTURE = "gray", "texture"
GREY_LEVELS = 256


def constant_grey(u: float, box: Box) -> np.ndarray:
    """One level out of 0..255 on all channels, from a uniform number -> uint8 (h, w, 3) of the box.

    The official loader draws 0..254.
    """
    return np.full((box[3] - box[1], box[2] - box[0], 3), int(u * GREY_LEVELS), dtype=np.uint8)


def random_texture(u: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Part ``box`` of an image of ``size`` (H, W) filled by a procedural texture; ``u`` are three uniform numbers."""
    return covering_crop(texture(int(u[0] * TEXTURES)), u[1:], size, box)


def donor_crop(donor: Sample, u: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Part ``box`` of a random crop of ``size`` (H, W) of a donor; ``u`` are two uniform numbers."""
    return covering_crop(as_hwc(donor.image), u, size, box)


def covering_crop(picture: np.ndarray, u: np.ndarray, size: tuple[int, int], box: Box) -> np.ndarray:
    """Part ``box`` of a random crop of ``size`` (H, W) px out of a picture (h, w, 3).

    A picture that is too small is first enlarged, bilinearly, until it covers ``size``; a larger one keeps its scale.
    The offset is uniform over all that fit: the official loader draws it from the first half of them only, so that
    the far corner is never seen.
    """
    height, width = size
    scale = max(height / picture.shape[0], width / picture.shape[1])
    if scale > 1:
        # Rounded up, or a side could end up one pixel short.
        enlarged = tuple(
            max(side, math.ceil(own * scale - 1e-9))
            for side, own in zip((width, height), picture.shape[1::-1], strict=True)
        )
        picture = cv2.resize(picture, enlarged, interpolation=cv2.INTER_LINEAR)
    x = int(u[0] * (picture.shape[1] - width + 1))
    y = int(u[1] * (picture.shape[0] - height + 1))
    return picture[y + box[1] : y + box[3], x + box[0] : x + box[2]]
