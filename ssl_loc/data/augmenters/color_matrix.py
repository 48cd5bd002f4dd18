"""Colour operations as one affine map per image, so that many cost as much as one.

A map is a float64 array (3, 6) = [A | B]: a pixel x (RGB column, 0..255) of an image with mean colour m becomes
``A x + B m``. The mean is what contrast needs, and keeping it symbolic is what lets a worker draw a map before anybody
has computed a mean: m is the mean of the view as it is when the map is applied (after crop, resize and flip, before any
colour operation).

Approximations against torchvision, which applies the operations one after the other on uint8: values are rounded and
clamped to 0..255 once at the end, not after every operation; hue is a rotation of the chroma plane (YIQ), which keeps
luma, not a shift of the HSV hue, which keeps value and saturation. The two agree for small angles and muted colours.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

# Luma of PIL's "L" (ITU-R 601-2), which torchvision uses too.
LUMA = np.array([0.299, 0.587, 0.114])
GRAY = np.tile(LUMA, (3, 1))
IDENTITY = np.concatenate([np.eye(3), np.zeros((3, 3))], 1)
# RGB -> YIQ (NTSC 1953, FCC): its I-Q plane holds the chroma and is orthogonal to grey after removing luma.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)
# The rotation written as const + cos * C + sin * S, so a draw costs two multiplications.
_HUE_CONST = np.outer(_RGB[:, 0], _YIQ[0])
_HUE_COS = np.outer(_RGB[:, 1], _YIQ[1]) + np.outer(_RGB[:, 2], _YIQ[2])
_HUE_SIN = np.outer(_RGB[:, 1], _YIQ[2]) - np.outer(_RGB[:, 2], _YIQ[1])


def brightness(color_map: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by ``factor``."""
    return color_map * factor


def contrast(color_map: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean grey of the image by ``factor`` (1 = unchanged)."""
    changed = color_map * factor
    # The mean grey at this point is luma . (A + B) m.
    changed[:, 3:] += (1 - factor) * (LUMA @ (color_map[:, :3] + color_map[:, 3:]))
    return changed


def saturation(color_map: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey of each pixel by ``factor`` (1 = unchanged)."""
    return color_map * factor + (1 - factor) * (LUMA @ color_map)


def hue(color_map: np.ndarray, turn: float) -> np.ndarray:
    """Rotate the chroma plane by ``turn`` (in turns, -0.5..0.5; positive goes red -> green -> blue like HSV)."""
    angle = 2 * math.pi * turn
    return (_HUE_CONST + math.cos(angle) * _HUE_COS + math.sin(angle) * _HUE_SIN) @ color_map


def gray(color_map: np.ndarray) -> np.ndarray:
    """Replace all channels by the luma."""
    return GRAY @ color_map


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that does ``first``, then ``second``."""
    a, b = second[:, :3], second[:, 3:]
    mean = first[:, :3] + first[:, 3:]
    return np.concatenate([a @ first[:, :3], a @ first[:, 3:] + b @ mean], 1)


def apply_map(image: np.ndarray, color_map: np.ndarray) -> np.ndarray:
    """Apply a map to a uint8 image (H, W, 3), rounding and clamping once."""
    b = color_map[:, 3:]
    offset = b @ np.array(cv2.mean(image)[:3]) if b.any() else np.zeros(3)
    return cv2.transform(image, np.concatenate([color_map[:, :3], offset[:, None]], 1))
