"""RBD: the closed form against a slow minimisation of its energy; connectivity, kernels and contrast by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.optimize import minimize

from ssl_loc.saliency.build import SolveFailed
from ssl_loc.saliency.rbd import (
    PRESETS,
    RobustBackground,
    adaptive_widths,
    boundary_connectivity,
    kernel,
    optimise,
    otsu,
    smoothness,
)
from ssl_loc.saliency.region_graph import measure_regions


def test_the_closed_form_minimises_the_energy() -> None:
    rng = np.random.default_rng(0)
    background, foreground = rng.random(12) * 5, rng.random(12)
    weights = rng.random((12, 12)) * (rng.random((12, 12)) < 0.4)
    weights = weights + weights.T

    def energy(s: np.ndarray) -> float:
        total = 0.0
        for p in range(12):
            total += background[p] * s[p] ** 2 + foreground[p] * (s[p] - 1) ** 2
            for q in range(p):  # unordered pairs
                total += weights[p, q] * (s[p] - s[q]) ** 2
        return total

    slow = minimize(energy, np.full(12, 0.5), method="BFGS", options={"gtol": 1e-8}).x
    assert np.allclose(optimise(background, foreground, weights), slow, atol=1e-5)


def test_one_region_by_hand_and_the_diagonal_does_not_count() -> None:
    # min 3 s^2 + (s - 1)^2: s = 1 / 4.
    assert np.allclose(optimise(np.array([3.0]), np.array([1.0]), np.array([[7.0]])), [0.25])


def test_nothing_to_solve_is_an_error() -> None:
    with pytest.raises(SolveFailed, match="rbd found no solution"):
        optimise(np.full(3, np.nan), np.zeros(3), np.zeros((3, 3)))
    with pytest.raises(SolveFailed):
        optimise(np.full(3, -1.0), np.zeros(3), np.zeros((3, 3)))


def test_connectivity_of_a_square_and_of_a_border_strip() -> None:
    # Regions 0..3 alike, of which two lie on the border; 4 alone inside; 5 alone on the border.
    alike = np.zeros((6, 6), dtype=np.float32)
    alike[:4, :4] = 1
    alike[4, 4] = alike[5, 5] = 1
    border = np.array([True, True, False, False, False, True])
    assert np.allclose(boundary_connectivity(alike, border), [2 / 2] * 4 + [0, 1])


def test_kernel_and_its_cut() -> None:
    d = np.array([[0.0, 2.0], [6.0, 6.1]])
    assert np.allclose(kernel(d, 2.0, False), np.exp(-(d**2) / 8))
    assert np.allclose(kernel(d, 2.0, True), [[1, np.exp(-0.5)], [np.exp(-4.5), 0]])
    assert np.array_equal(d, [[0.0, 2.0], [6.0, 6.1]])  # the argument is left alone


def test_otsu_separates_two_groups() -> None:
    assert 0.1 <= otsu(np.array([0.0, 0.05, 0.1, 0.8, 0.9, 1.0])) < 0.8


def grid(colours: np.ndarray) -> object:
    """Regions of 8 x 8 px on a grid of grey levels."""
    rows, columns = colours.shape
    labels = np.kron(np.arange(rows * columns).reshape(rows, columns), np.ones((8, 8))).astype(np.int32)
    rgb = np.repeat(np.kron(colours, np.ones((8, 8)))[None], 3, axis=0).astype(np.float32)
    return measure_regions(rgb, labels, rows * columns, 4)


def test_smoothness_against_its_formula() -> None:
    regions = grid(np.random.default_rng(0).random((5, 6)))
    d = regions.differences.astype(np.float64)
    linked = regions.rings | np.outer(regions.border, regions.border)
    expected = np.where(linked & (d <= 3 * 9.0), np.exp(-(d**2) / (2 * 81)), 0) + 0.1 * regions.adjacent
    np.fill_diagonal(expected, 0)
    found = smoothness(regions.differences, regions.adjacent, regions.rings, regions.border, 9.0, 3.0)
    assert np.allclose(found, expected, atol=1e-6)


def test_adaptive_widths_stay_within_their_limits() -> None:
    flat, steep = grid(np.full((6, 6), 0.5)), grid(np.indices((6, 6)).sum(axis=0) % 2 * 1.0)
    assert adaptive_widths(flat)[0] == 5.0
    # A chess board: every neighbour differs by 100: 3 x 100 and 100 / 10 for paths; .2 x 100 for smoothness.
    assert adaptive_widths(steep) == pytest.approx((10.0, 20.0), rel=1e-4)


def slow_scores(regions: object, preset: str) -> np.ndarray:
    """RBD once more, written from its formulas in float64 with scipy's paths."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    c, n, border = PRESETS[preset], regions.count, regions.border
    colours = np.linalg.norm(regions.colour[:, None].astype(float) - regions.colour[None], axis=2)
    places = np.linalg.norm(regions.centre[:, None].astype(float) - regions.centre[None], axis=2)
    rings = (regions.adjacent.astype(int) @ regions.adjacent.astype(int)) > 0

    def nearest(links: np.ndarray) -> float:
        return float(np.mean([min(colours[i, j] for j in range(n) if links[i, j] and j != i) for i in range(n)]))

    ordered = sorted((colours[i, j] for i in range(n) for j in range(i) if regions.adjacent[i, j]), reverse=True)
    top = np.mean(ordered[: max(1, round(0.01 * len(ordered)))])
    geo = c.geodesic or max(5, min(10, 3 * nearest(regions.adjacent), top / 10))
    nei = c.neighbour or min(3 * nearest(regions.adjacent), 0.2 * top, 20)

    def w(d: np.ndarray, sigma: float) -> np.ndarray:
        return np.where(c.cut & (d > 3 * sigma), 0, np.exp(-(d**2) / (2 * sigma**2)))

    links = regions.adjacent | np.outer(border, border)
    lengths = np.where(links, np.maximum(0, colours - (nearest(rings) if c.clip else 0)) + 1e-6, 0)
    alike = w(dijkstra(csr_matrix(lengths), directed=False), geo)
    connectivity = alike[:, border].sum(axis=1) / np.sqrt(alike.sum(axis=1))
    background = 1 - np.exp(-(connectivity**2) / 2)
    contrast = (colours * w(places, c.place) * background[None]).sum(axis=1)
    contrast = (contrast - contrast.min()) / np.ptp(contrast)
    if c.cut:
        level = cv2.threshold(np.rint(contrast * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)[0] / 255
        contrast[contrast < level] = 0
    weight = c.background * np.where(connectivity > c.sure, 1000, background)
    smooth = np.where(rings | np.outer(border, border), w(colours, nei), 0) + 0.1 * regions.adjacent
    np.fill_diagonal(smooth, 0)
    system = np.diag(smooth.sum(axis=1) + weight + contrast + 1e-8) - smooth
    s = np.linalg.solve(system, contrast)
    return (s - s.min()) / np.ptp(s)


@pytest.mark.parametrize("preset", ["matlab", "paper"])
def test_the_whole_method_against_its_formulas(preset: str) -> None:
    rng = np.random.default_rng(3)
    greys = 0.3 + 0.05 * rng.random((8, 11))
    greys[2:5, 3:7] = 0.8 + 0.1 * rng.random((3, 4))
    regions = grid(greys)
    assert np.allclose(RobustBackground(preset).scores(regions), slow_scores(regions, preset), atol=2e-4)
