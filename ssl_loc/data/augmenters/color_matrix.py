"""Colour operations as one affine map per image, so that many cost as much as one.

A map is a float64 array (3, 6) = [A | B]: a pixel x (RGB column, 0..255) of an image with mean colour m becomes
``A x + B m``. The mean is what contrast needs, and keeping it symbolic is what lets a worker draw a map before anybody
has computed a mean: m is the mean of the view as it is when the map is applied (after crop, resize and flip, before any
colour operation).

Approximations against torchvision, which applies the operations one after the other on uint8: values are rounded and
clamped to 0..255 once at the end, not after every operation (mean difference on photos, without hue: 1.5 grey values);
and hue is a rotation of RGB around the grey axis, which keeps R + G + B, not a shift of the HSV hue, which keeps the
largest and the smallest channel. On photos a turn of .1 changes pixels by 7 grey values in the mean and the two differ
by 5; a turn of .4 by 28 and 4. Over MoCo v2's jitter the mean change is 21 and the mean difference 3.2 grey values.
AUGMENT.COLOR_JITTER.MODE "exact" does without both approximations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

# Luma of PIL's "L" (ITU-R 601-2), which torchvision uses too.
_LUMA = [0.299, 0.587, 0.114]
LUMA = np.array(_LUMA)
GRAY = np.tile(LUMA, (3, 1))
IDENTITY = np.concatenate([np.eye(3), np.zeros((3, 3))], 1)
# Rotation around (1, 1, 1) by Rodrigues' formula: const + cos * C + sin * S. It is closer to the HSV shift than a
# rotation in YIQ (mean difference on photos at a turn of .1: 4.8 against 7.9 grey values): HSV ignores luma too.
_HUE_CONST = np.full((3, 3), 1 / 3)
_HUE_COS = np.eye(3) - 1 / 3
_HUE_SIN = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)


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
    """Rotate around the grey axis by ``turn`` (in turns, -0.5..0.5; positive goes red -> green -> blue like HSV)."""
    angle = 2 * math.pi * turn
    return (_HUE_CONST + math.cos(angle) * _HUE_COS + math.sin(angle) * _HUE_SIN) @ color_map


def gray(color_map: np.ndarray) -> np.ndarray:
    """Replace all channels by the luma."""
    return GRAY @ color_map


# Positions of the operations in ``order`` of :func:`jitter`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter(order: Sequence[int], factors: Sequence[float]) -> np.ndarray:
    """Brightness, contrast, saturation and hue ``factors`` done in ``order``, as one map.

    Equal to applying the four functions above one after the other, in closed form: with 1 a column of ones, l the luma,
    H the hue rotation (H 1 = 1) and S = s I + (1 - s) 1 l' the saturation, all products reduce to

        A = b c (s H + (1 - s) 1 r'),   r = H'l if hue comes before saturation, else l
        B = b (1 - c) 1 q',             q' = l' times what of S and H comes before contrast

    Scalars, because a dozen calls on 3 x 6 arrays cost more than the pixels.
    """
    b, c, s, turn = factors
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn) / math.sqrt(3)
    near, far = (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    same = cos + (1 - cos) / 3
    rotation = ((same, near, far), (far, same, near), (near, far, same))
    luma = _LUMA
    rotated = [sum(luma[i] * rotation[i][j] for i in range(3)) for j in range(3)]
    at = {operation: place for place, operation in enumerate(order)}
    r = rotated if at[HUE] < at[SATURATION] else luma
    if at[HUE] > at[CONTRAST]:
        q = luma
    elif at[SATURATION] < at[HUE]:
        q = [s * x + (1 - s) * y for x, y in zip(rotated, luma, strict=True)]
    else:
        q = rotated
    keep, blend = b * c * s, b * c * (1 - s)
    mean_row = [b * (1 - c) * x for x in q]
    return np.array([[keep * row[j] + blend * r[j] for j in range(3)] + mean_row for row in rotation])


def compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The map that does ``first``, then ``second``."""
    a, b = second[:, :3], second[:, 3:]
    mean = first[:, :3] + first[:, 3:]
    return np.concatenate([a @ first[:, :3], a @ first[:, 3:] + b @ mean], 1)


def apply_map(image: np.ndarray, color_map: np.ndarray) -> np.ndarray:
    """Apply a map to a uint8 image (H, W, 3), rounding and clamping once."""
    affine = np.empty((3, 4))
    affine[:, :3] = color_map[:, :3]
    affine[:, 3] = color_map[:, 3:] @ cv2.mean(image)[:3]
    return cv2.transform(image, affine)
