"""Stages of the saliency estimators as one would write them without a compiler: what the compiled ones are beside."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from ssl_loc.saliency.superpixels import ROUNDS


def slic_numpy(lab: np.ndarray, count: int, compactness: float) -> np.ndarray:
    """SLIC's clustering (without joining patches): float32 (3, h, w) -> labels int32 (h, w)."""
    _, height, width = lab.shape
    spacing = np.sqrt(height * width / count)
    rows, columns = round(height / spacing), round(width / spacing)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    labels = (y * rows / height).astype(np.int32) * columns + (x * columns / width).astype(np.int32)
    pixels = np.stack([*lab, y, x])
    scale = np.array([1, 1, 1, compactness / spacing, compactness / spacing], dtype=np.float32)
    for _ in range(ROUNDS):
        sizes = np.maximum(np.bincount(labels.ravel(), minlength=rows * columns), 1)
        centres = [np.bincount(labels.ravel(), p.ravel(), minlength=rows * columns) / sizes for p in pixels]
        best = np.full((height, width), np.inf, dtype=np.float32)
        for k, centre in enumerate(np.array(centres, dtype=np.float32).T):
            top, left = max(0, int(centre[3] - height / rows)), max(0, int(centre[4] - width / columns))
            bottom, right = int(centre[3] + height / rows) + 2, int(centre[4] + width / columns) + 2
            window = (slice(top, bottom), slice(left, right))
            far = (((pixels[(slice(None), *window)] - centre[:, None, None]) * scale[:, None, None]) ** 2).sum(axis=0)
            closer = far < best[window]
            best[window][closer] = far[closer]
            labels[window][closer] = k
    return labels


def measure_numpy(rgb: np.ndarray, labels: np.ndarray, count: int, band: int) -> tuple[np.ndarray, ...]:
    """Mean colours (n, 3), centres (n, 2), adjacency (n, n) and border (n,) of regions."""
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count)
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    colours = np.stack([np.bincount(flat, plane.ravel(), minlength=count) / sizes for plane in rgb], axis=1)
    centres = np.stack([np.bincount(flat, p.ravel(), minlength=count) / sizes for p in (y / height, x / width)], axis=1)
    adjacent = np.eye(count, dtype=bool)
    for a, b in ((labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])):
        adjacent[a.ravel(), b.ravel()] = adjacent[b.ravel(), a.ravel()] = True
    border = np.zeros(count, dtype=bool)
    for side in (labels[:band], labels[-band:], labels[:, :band], labels[:, -band:]):
        border[side.ravel()] = True
    return colours, centres, adjacent, border


def paths_scipy(lengths: np.ndarray, clip: float) -> np.ndarray:
    """Shortest paths between all pairs; a little is added to each edge, since sparse graphs drop zeros."""
    edges = np.where(np.isfinite(lengths), np.maximum(lengths - clip, 0) + 1e-6, 0)
    return dijkstra(csr_matrix(edges), directed=False)
