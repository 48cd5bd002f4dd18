"""From a map to the box of its object, for methods that crop or swap foregrounds (CVSA paper, equation 2).

The paper's box maximises the mean saliency inside, which the single most salient pixel already does; so there are two
readings that give a box: the largest part above a threshold, and the rectangle of the largest sum over a threshold.
"""

from __future__ import annotations

import cv2
import numpy as np

from ssl_loc.saliency.binarize import binarize
from ssl_loc.utils.errors import check_choice

BOX_METHODS = ("threshold_cc", "maxsum")
# A smaller box (px) holds no object.
MIN_AREA = 16
# The rectangle is searched on a map of at most this side: the search is cubic.
SEARCH_SIDE = 64
# Level that a pixel has to exceed to be worth including, as a share of the maximum.
TAU = 0.5

Box = tuple[int, int, int, int]


def saliency_box(saliency: np.ndarray, method: str = "threshold_cc") -> Box | None:
    """Box (x1, y1, x2, y2) in px, half-open, of a map (H, W), float in [0, 1] or uint8; None where there is no object.

    Args:
        saliency: the map.
        method: "threshold_cc": bounding box of the largest 8-connected part at the adaptive threshold; "maxsum":
            rectangle with the largest sum of S - .5 max(S).
    """
    check_choice("box source", method, BOX_METHODS)
    values = saliency / np.float32(255) if saliency.dtype == np.uint8 else saliency
    box = component_box(values) if method == "threshold_cc" else best_rectangle(values)
    if box is None or (box[2] - box[0]) * (box[3] - box[1]) < MIN_AREA:
        return None
    return box


def component_box(saliency: np.ndarray) -> Box | None:
    """Bounding box of the largest part of the adaptive mask."""
    part = binarize(saliency, "adaptive", largest=True)
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def best_rectangle(saliency: np.ndarray, side: int = SEARCH_SIDE) -> Box | None:
    """Rectangle with the largest sum of S - .5 max(S), found on a map of at most ``side`` px by area averaging."""
    height, width = saliency.shape
    scale = min(1.0, side / max(height, width))
    small: np.ndarray = saliency.astype(np.float64)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    top = float(small.max())
    if top <= 0:
        return None
    x1, y1, x2, y2 = largest_sum_rectangle(small - TAU * top)
    sx, sy = width / small.shape[1], height / small.shape[0]
    return round(x1 * sx), round(y1 * sy), round(x2 * sx), round(y2 * sy)


def largest_sum_rectangle(values: np.ndarray) -> Box:
    """Half-open rectangle with the largest sum of (h, w) values: Kadane's scan over columns, for all pairs of rows."""
    height, width = values.shape
    sums = np.vstack([np.zeros(width), np.cumsum(values, axis=0)])
    first, last = np.triu_indices(height + 1, k=1)
    strips = sums[last] - sums[first]  # (pairs, w): column sums of the rows first..last-1
    best = np.full(len(first), -np.inf)
    box = np.zeros((len(first), 2), dtype=np.int64)
    running, start = np.zeros(len(first)), np.zeros(len(first), dtype=np.int64)
    for x in range(width):
        fresh = running <= 0
        start[fresh] = x
        running = np.where(fresh, 0.0, running) + strips[:, x]
        better = running > best
        best[better] = running[better]
        box[better, 0], box[better, 1] = start[better], x + 1
    pair = int(best.argmax())
    return int(box[pair, 0]), int(first[pair]), int(box[pair, 1]), int(last[pair])
