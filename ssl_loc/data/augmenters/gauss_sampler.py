"""The crop sampler of the official CAST code: centres drawn around the mask, and a box around the mask as fallback."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from ssl_loc.data.augmenters.crops import CropRange, draw_sizes
from ssl_loc.data.augmenters.resize import Box


def draw_gauss_proposals(
    rng: np.random.Generator, count: int, height: int, width: int, limits: CropRange, centroid: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Crops whose centre is Normal(``centroid``, image side), truncated so that they stay inside the image.

    Returns boxes int64 (count, 4) XYXY, corners truncated to whole pixels as in the official code, and ``fits``.
    """
    u = rng.random((count, 4))
    w, h = draw_sizes(u, height, width, limits)
    fits = (w <= width) & (h <= height)
    x = _truncated_normal(u[:, 2], centroid[0], width, w)
    y = _truncated_normal(u[:, 3], centroid[1], height, h)
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    # Rounding of the normal's inverse may leave the image by 1e-12; truncation to int must not give -1.
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.int64)
    return boxes, fits & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _truncated_normal(u: np.ndarray, mean: float, sigma: float, length: np.ndarray) -> np.ndarray:
    """Centre of a crop of ``length`` on an axis of ``sigma`` px: normal with that sigma, inside the axis."""
    low, high = ndtr((length / 2 - mean) / sigma), ndtr((sigma - length / 2 - mean) / sigma)
    return mean + sigma * ndtri(low + (high - low) * u)


def enlarged_box(rng: np.random.Generator, bounds: Box, height: int, width: int, ratio: tuple[float, float]) -> Box:
    """The official fallback: ``bounds`` of the mask enlarged at random on each side, then cut to the ratio limits.

    Too wide: the right side moves in, and the box shifts right until it ends where ``bounds`` end; too tall: the same
    downwards. Where ``bounds`` themselves exceed the ratio limits, part of the mask is lost (the official comment
    promises full coverage; that is not so).
    """
    u = rng.random(4)
    bx1, by1, bx2, by2 = bounds
    x1, y1 = bx1 - int(u[0] * (bx1 + 1)), by1 - int(u[1] * (by1 + 1))
    x2, y2 = bx2 + int(u[2] * (width - bx2 + 1)), by2 + int(u[3] * (height - by2 + 1))
    shape = (x2 - x1) / (y2 - y1)
    if shape > ratio[1]:
        x2 = x1 + max(int((y2 - y1) * ratio[1]), 1)
        shift = max(bx2 - x2, 0)
        x1, x2 = x1 + shift, x2 + shift
    elif shape < ratio[0]:
        y2 = y1 + max(int((x2 - x1) / ratio[0]), 1)
        shift = max(by2 - y2, 0)
        y1, y2 = y1 + shift, y2 + shift
    return x1, y1, x2, y2
