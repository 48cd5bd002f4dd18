"""Artificial frames around photos: a border estimator would take them for the background."""

from __future__ import annotations

import cv2
import numpy as np

# Published RBD code: a line is part of a frame where over 60% of it is edge, looked for in the outer 30 lines.
EDGE_SHARE, REACH = 0.6, 30
# Below this the outer lines would be a large part of the picture.
SMALLEST_SIDE = 120


def photo_inside_frame(image: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the photo inside its frame; everything where there is none.

    A frame of one side counts for all four, as wide as the widest (published RBD code).
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        return slice(0, height), slice(0, width)
    edges = edge_map(image)
    rows, columns = edges.mean(axis=1), edges.mean(axis=0)
    widths = [frame_width(line) for line in (rows, rows[::-1], columns, columns[::-1])]
    widest = max(widths)
    top, bottom, left, right = (found or widest for found in widths)
    return slice(top, height - bottom), slice(left, width - right)


def edge_map(image: np.ndarray) -> np.ndarray:
    """bool (H, W): Sobel gradient above twice its root mean square (the usual automatic threshold)."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = cv2.Sobel(grey, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(grey, cv2.CV_32F, 0, 1) ** 2
    return strength > 4 * strength.mean()


def frame_width(share: np.ndarray) -> int:
    """Lines up to the innermost one that is mostly edge, from a side's edge shares in order from outside; 0 if none."""
    lines = np.flatnonzero(share[:REACH] > EDGE_SHARE)
    return int(lines[-1]) + 1 if len(lines) else 0
