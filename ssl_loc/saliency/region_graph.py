"""What the graph estimators know about superpixels: colours, places, neighbours, distances along paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from ssl_loc.saliency.compiled import compiled


@dataclass(frozen=True)
class Regions:
    """The superpixels of one image; n of them.

    Attributes:
        labels: int32 (h, w), 0..n-1.
        colour: float32 (n, 3), Lab of the mean RGB.
        centre: float32 (n, 2), (y / h, x / w).
        adjacent: bool (n, n), share an edge of a pixel; the diagonal is set.
        border: bool (n,), reach into the outer band of the image.
    """

    labels: np.ndarray
    colour: np.ndarray
    centre: np.ndarray
    adjacent: np.ndarray
    border: np.ndarray

    @property
    def count(self) -> int:
        return len(self.colour)

    @cached_property
    def differences(self) -> np.ndarray:
        """Colour distances, float32 (n, n)."""
        return pair_distances(self.colour)

    @cached_property
    def rings(self) -> np.ndarray:
        """Neighbours and their neighbours, bool (n, n)."""
        return two_rings(self.adjacent)

    @cached_property
    def linked_border(self) -> np.ndarray:
        """Pairs of border regions, bool (n, n)."""
        return self.border[:, None] & self.border[None, :]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Edges of the path graph, float32 (n, n): colour distances of neighbours and border pairs; inf elsewhere."""
        return np.where(self.adjacent | self.linked_border, self.differences, np.float32(np.inf))

    @cached_property
    def clip(self) -> float:
        """Colour difference that is free on a path: the usual one to the most alike region in two rings (GS paper)."""
        return nearest_difference(self.rings, self.differences)


def measure_regions(rgb: np.ndarray, labels: np.ndarray, count: int, band: int) -> Regions:
    """Describe superpixels.

    Args:
        rgb: float32 (3, h, w), 0..1.
        labels: int32 (h, w), 0..count-1.
        count: n.
        band: width in px of the outer band that makes a superpixel a border one.
    """
    colour, centre, adjacent, border = _measure(rgb, labels, count, band)
    lab = cv2.cvtColor(colour[None], cv2.COLOR_RGB2LAB)[0]
    return Regions(labels, lab, centre, adjacent, border)


@compiled
def _measure(rgb, labels, count, band):  # type: ignore[no-untyped-def]
    height, width = labels.shape
    sums = np.zeros((count, 6), dtype=np.float64)
    adjacent = np.zeros((count, count), dtype=np.bool_)
    border = np.zeros(count, dtype=np.bool_)
    for y in range(height):
        edge_row = y < band or y >= height - band
        for x in range(width):
            k = labels[y, x]
            total = sums[k]
            total[0] += rgb[0, y, x]
            total[1] += rgb[1, y, x]
            total[2] += rgb[2, y, x]
            total[3] += y
            total[4] += x
            total[5] += 1
            if edge_row or x < band or x >= width - band:
                border[k] = True
            if x + 1 < width and labels[y, x + 1] != k:
                adjacent[k, labels[y, x + 1]] = adjacent[labels[y, x + 1], k] = True
            if y + 1 < height and labels[y + 1, x] != k:
                adjacent[k, labels[y + 1, x]] = adjacent[labels[y + 1, x], k] = True
    colour = np.empty((count, 3), dtype=np.float32)
    centre = np.empty((count, 2), dtype=np.float32)
    for k in range(count):
        adjacent[k, k] = True
        for i in range(3):
            colour[k, i] = sums[k, i] / sums[k, 5]
        centre[k, 0] = sums[k, 3] / sums[k, 5] / height
        centre[k, 1] = sums[k, 4] / sums[k, 5] / width
    return colour, centre, adjacent, border


@compiled
def pair_distances(points):  # type: ignore[no-untyped-def]
    """Euclidean distances between all rows: float32 (n, d) -> (n, n)."""
    n, size = points.shape
    columns = points.T.copy()
    result = np.zeros((n, n), dtype=np.float32)
    for i in range(n):
        row = result[i]
        for k in range(size):
            here, column = columns[k, i], columns[k]
            for j in range(n):
                row[j] += (here - column[j]) ** 2
        for j in range(n):
            row[j] = np.sqrt(row[j])
    return result


@compiled
def two_rings(adjacent):  # type: ignore[no-untyped-def]
    """Neighbours and neighbours' neighbours: bool (n, n) -> bool (n, n)."""
    n = adjacent.shape[0]
    result = np.zeros((n, n), dtype=np.bool_)
    for i in range(n):
        row = result[i]
        for j in range(n):
            if adjacent[i, j]:
                other = adjacent[j]
                for k in range(n):
                    row[k] |= other[k]
    return result


@compiled
def nearest_difference(links, differences):  # type: ignore[no-untyped-def]
    """Mean over regions of the smallest difference to another linked one; 0 where nothing is linked."""
    n = links.shape[0]
    total, found = 0.0, 0
    for i in range(n):
        nearest = np.inf
        for j in range(n):
            if links[i, j] and j != i and differences[i, j] < nearest:
                nearest = differences[i, j]
        if nearest < np.inf:
            total += nearest
            found += 1
    return total / max(1, found)


@compiled
def all_paths(lengths, clip):  # type: ignore[no-untyped-def]
    """Shortest paths between all pairs (Floyd-Warshall on one triangle).

    Args:
        lengths: float32 (n, n), symmetric, inf where there is no edge.
        clip: what each edge is shortened by, at most to 0.

    Returns:
        float32 (n, n), symmetric, 0 on the diagonal.
    """
    n = lengths.shape[0]
    result = np.empty((n, n), dtype=np.float32)
    free, nothing = np.float32(clip), np.float32(0)
    for i in range(n):
        for j in range(i):
            result[i, j] = max(lengths[i, j] - free, nothing)
        result[i, i] = 0
    through = np.empty(n, dtype=np.float32)
    for k in range(n):
        through[:k] = result[k, :k]
        through[k:] = result[k:, k]
        for i in range(n):
            first, row = through[i], result[i]
            if first < np.inf:
                for j in range(i):
                    path = first + through[j]
                    row[j] = path if path < row[j] else row[j]
    for i in range(n):
        for j in range(i):
            result[j, i] = result[i, j]
    return result


@compiled
def paths_from(lengths, clip, start):  # type: ignore[no-untyped-def]
    """Shortest paths from anywhere outside (Dijkstra on the dense graph).

    Args:
        lengths, clip: as in :func:`all_paths`.
        start: float32 (n,), what it costs to enter at each region, inf where there is no entrance.

    Returns:
        float32 (n,).
    """
    n = lengths.shape[0]
    result, done = start.copy(), np.zeros(n, dtype=np.bool_)
    free, nothing = np.float32(clip), np.float32(0)
    for _ in range(n):
        nearest, k = np.float32(np.inf), -1
        for j in range(n):
            if not done[j] and result[j] < nearest:
                nearest, k = result[j], j
        if k < 0:
            break
        done[k] = True
        row = lengths[k]
        for j in range(n):
            path = nearest + max(row[j] - free, nothing)
            result[j] = path if path < result[j] else result[j]
    return result


@compiled
def torus_neighbours(labels, count, wrap):  # type: ignore[no-untyped-def]
    """8-connected neighbours of the labels, opposite image borders linked if ``wrap``; and who is on a border."""
    height, width = labels.shape
    linked = np.zeros((count, count), dtype=np.bool_)
    border = np.zeros(count, dtype=np.bool_)
    for y in range(height):
        for x in range(width):
            k = labels[y, x]
            if y == 0 or x == 0 or y == height - 1 or x == width - 1:
                border[k] = True
            # Most neighbours are the region itself, and writing to the large table is what costs.
            if x + 1 < width and labels[y, x + 1] != k:
                linked[k, labels[y, x + 1]] = linked[labels[y, x + 1], k] = True
            if y + 1 < height:
                for u in range(max(0, x - 1), min(width, x + 2)):
                    if labels[y + 1, u] != k:
                        linked[k, labels[y + 1, u]] = linked[labels[y + 1, u], k] = True
    if wrap:
        for x in range(width):
            top, bottom = labels[0, x], labels[height - 1, x]
            linked[top, bottom] = linked[bottom, top] = True
        for y in range(height):
            left, right = labels[y, 0], labels[y, width - 1]
            linked[left, right] = linked[right, left] = True
    for k in range(count):
        linked[k, k] = True
    return linked, border


def solve_positive(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric positive definite system; ``system`` is overwritten.

    Args:
        system: float64 (n, n), contiguous.
        right: (n,) or (n, k).

    Raises:
        ArithmeticError: it is not positive definite, or not finite.
    """
    try:
        # Its transpose is what LAPACK takes without a copy.
        factor = cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError as error:
        raise ArithmeticError(str(error)) from None
    solution = cho_solve(factor, right, check_finite=False)
    if not np.isfinite(solution).all():
        raise ArithmeticError("the solution is not finite")
    return solution
