"""From a coarse map to one that follows the edges of the photo: the guided filter with colour.

He, Sun, Tang, "Guided image filtering", PAMI 2013; coefficients at low resolution as in He, Sun, "Fast guided filter",
2015.
"""

from __future__ import annotations

import cv2
import numpy as np

from ssl_loc.saliency.compiled import compiled


def guided_upsample(image: np.ndarray, guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Fit the map as a local linear function of colour at low resolution, and apply it at full resolution.

    Args:
        image: uint8 (H, W, 3) RGB.
        guide: float32 (3, h, w), the same picture, small, 0..1.
        values: float32 (h, w), the map.
        radius: half width of the windows in small pixels.
        eps: variance of a colour channel (0..1) below which a window counts as flat and is averaged.

    Returns:
        float32 (H, W), within the range of ``values``.
    """
    scale, offset = guided_coefficients(guide, values, radius, eps)
    size = image.shape[1], image.shape[0]
    coefficients = cv2.resize(np.dstack([*scale, offset]), size, interpolation=cv2.INTER_LINEAR)
    return _apply(image, coefficients, values.min(), values.max())


def guided_coefficients(
    guide: np.ndarray, values: np.ndarray, radius: int, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear coefficients of the guided filter: scale (3, h, w) and offset (h, w), averaged over the windows."""
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(plane: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(plane, -1, side, borderType=cv2.BORDER_REFLECT)

    means = np.stack([mean(plane) for plane in guide])
    average = mean(values)
    with_values = np.stack([mean(plane * values) for plane in guide])
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = np.stack([mean(guide[a] * guide[b]) for a, b in pairs])
    scale, offset = _fit(means, average, with_values, products, np.float32(eps))
    return np.stack([mean(plane) for plane in scale]), mean(offset)


@compiled
def _fit(means, average, with_values, products, eps):  # type: ignore[no-untyped-def]
    """Per pixel: (covariance of the colours + eps)^-1 covariance with the map, and the offset that goes with it."""
    _, height, width = means.shape
    scale = np.empty((3, height, width), dtype=np.float32)
    offset = np.empty((height, width), dtype=np.float32)
    for y in range(height):
        for x in range(width):
            r, g, b, v = means[0, y, x], means[1, y, x], means[2, y, x], average[y, x]
            rr, rg, rb = products[0, y, x] - r * r + eps, products[1, y, x] - r * g, products[2, y, x] - r * b
            gg, gb, bb = products[3, y, x] - g * g + eps, products[4, y, x] - g * b, products[5, y, x] - b * b + eps
            vr, vg, vb = with_values[0, y, x] - r * v, with_values[1, y, x] - g * v, with_values[2, y, x] - b * v
            # Cofactors of the symmetric matrix.
            c_rr, c_rg, c_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
            c_gg, c_gb, c_bb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
            share = 1 / (rr * c_rr + rg * c_rg + rb * c_rb)
            s_r = (c_rr * vr + c_rg * vg + c_rb * vb) * share
            s_g = (c_rg * vr + c_gg * vg + c_gb * vb) * share
            s_b = (c_rb * vr + c_gb * vg + c_bb * vb) * share
            scale[0, y, x], scale[1, y, x], scale[2, y, x] = s_r, s_g, s_b
            offset[y, x] = v - s_r * r - s_g * g - s_b * b
    return scale, offset


@compiled
def _apply(image, coefficients, low, high):  # type: ignore[no-untyped-def]
    height, width, _ = image.shape
    result = np.empty((height, width), dtype=np.float32)
    unit = np.float32(1 / 255)
    for y in range(height):
        for x in range(width):
            fit = coefficients[y, x]
            value = (fit[0] * image[y, x, 0] + fit[1] * image[y, x, 1] + fit[2] * image[y, x, 2]) * unit + fit[3]
            result[y, x] = min(max(value, low), high)
    return result
