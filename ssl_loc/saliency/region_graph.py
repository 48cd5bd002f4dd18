"""What the graph estimators know about superpixels: colours, places, neighbours, distances along paths."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ssl_loc.saliency.compiled import compiled


@dataclass(frozen=True)
class Regions:
    """The superpixels of one image; n of them.

    Attributes:
        labels: int32 (h, w), 0..n-1.
        colour: float64 (n, 3), Lab of the mean RGB.
        centre: float64 (n, 2), (y / h, x / w).
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
    return Regions(labels, lab.astype(np.float64), centre, adjacent, border)


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
            if x + 1 < width:
                adjacent[k, labels[y, x + 1]] = True
            if y + 1 < height:
                adjacent[k, labels[y + 1, x]] = True
    colour = np.empty((count, 3), dtype=np.float32)
    centre = np.empty((count, 2), dtype=np.float64)
    for k in range(count):
        adjacent[k, k] = True
        for i in range(3):
            colour[k, i] = sums[k, i] / sums[k, 5]
        centre[k, 0] = sums[k, 3] / sums[k, 5] / height
        centre[k, 1] = sums[k, 4] / sums[k, 5] / width
        for j in range(count):
            adjacent[k, j] = adjacent[k, j] or adjacent[j, k]
            adjacent[j, k] = adjacent[k, j]
    return colour, centre, adjacent, border


@compiled
def pair_distances(points):  # type: ignore[no-untyped-def]
    """Euclidean distances between all rows: float64 (n, d) -> (n, n)."""
    n, size = points.shape
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            total = 0.0
            for k in range(size):
                total += (points[i, k] - points[j, k]) ** 2
            result[i, j] = result[j, i] = np.sqrt(total)
    return result


@compiled
def two_rings(adjacent):  # type: ignore[no-untyped-def]
    """Neighbours and neighbours' neighbours: bool (n, n) -> bool (n, n)."""
    n = adjacent.shape[0]
    result = np.zeros((n, n), dtype=np.bool_)
    for i in range(n):
        for j in range(n):
            if adjacent[i, j]:
                for k in range(n):
                    result[i, k] |= adjacent[j, k]
    return result


@compiled
def all_paths(length):  # type: ignore[no-untyped-def]
    """Shortest paths between all pairs (Floyd-Warshall): float32 (n, n), inf where there is no edge -> the same."""
    n = length.shape[0]
    result = length.copy()
    for i in range(n):
        result[i, i] = 0
    for k in range(n):
        through = result[k].copy()
        for i in range(n):
            row = result[i]
            first = row[k]
            if first < np.inf:
                for j in range(n):
                    path = first + through[j]
                    row[j] = path if path < row[j] else row[j]
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
            if x + 1 < width:
                linked[k, labels[y, x + 1]] = True
            if y + 1 < height:
                linked[k, labels[y + 1, x]] = True
                if x + 1 < width:
                    linked[k, labels[y + 1, x + 1]] = True
                if x > 0:
                    linked[k, labels[y + 1, x - 1]] = True
    if wrap:
        for x in range(width):
            linked[labels[0, x], labels[height - 1, x]] = True
        for y in range(height):
            linked[labels[y, 0], labels[y, width - 1]] = True
    for k in range(count):
        linked[k, k] = True
        for j in range(k):
            both = linked[k, j] or linked[j, k]
            linked[k, j] = both
            linked[j, k] = both
    return linked, border


def nearest_difference(links: np.ndarray, colours: np.ndarray) -> float:
    """Mean over regions of the smallest colour distance to a linked one; 0 where nothing is linked."""
    others = links.copy()
    np.fill_diagonal(others, False)
    nearest = np.where(others, colours, np.inf).min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(nearest.mean()) if len(nearest) else 0.0


def clip_value(regions: Regions, colours: np.ndarray) -> float:
    """Colour difference that is free on a path: the usual one to the most alike region within two rings (GS paper)."""
    return nearest_difference(two_rings(regions.adjacent), colours)


def ring_differences(adjacent: np.ndarray, colours: np.ndarray) -> tuple[float, float]:
    """Usual difference to the most alike neighbour, and mean of the largest 1% of all neighbours' differences."""
    differences = np.sort(colours[np.triu(adjacent, 1)])
    top = differences[-max(1, round(0.01 * len(differences))) :].mean() if len(differences) else 0.0
    return nearest_difference(adjacent, colours), float(top)


def path_lengths(regions: Regions, colours: np.ndarray, clip: float) -> np.ndarray:
    """Lengths of the graph's edges, float32 (n, n): neighbours, and all pairs of border regions; inf elsewhere."""
    linked = regions.adjacent | np.outer(regions.border, regions.border)
    return np.where(linked, np.maximum(colours - clip, 0.0), np.inf).astype(np.float32)
