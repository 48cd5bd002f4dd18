"""Superpixels: covering, connected, consecutive, reproducible; and what is measured on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from ssl_loc.saliency.colour import to_planes
from ssl_loc.saliency.region_graph import (
    all_paths,
    measure_regions,
    nearest_difference,
    pair_distances,
    paths_from,
    torus_neighbours,
    two_rings,
)
from ssl_loc.saliency.superpixels import slic


def noise_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.random((height, width, 3)), (6, 6, 0))
    return np.uint8(255 * (values - values.min()) / np.ptp(values))


def partition(height: int, width: int, count: int, seed: int = 0) -> tuple[np.ndarray, int]:
    _, lab = to_planes(noise_picture(height, width, seed), (height, width))
    return slic(lab, count)


@pytest.mark.parametrize(("height", "width", "count"), [(60, 80, 40), (75, 50, 200), (1, 90, 9), (90, 1, 9), (3, 3, 1)])
def test_labels_cover_are_consecutive_and_connected(height: int, width: int, count: int) -> None:
    labels, n = partition(height, width, count)
    assert labels.shape == (height, width) and labels.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(n))
    assert all(ndimage.label(labels == k)[1] == 1 for k in range(n))
    # Reading order of the first pixels.
    firsts = [int(np.flatnonzero(labels.ravel() == k)[0]) for k in range(n)]
    assert firsts == sorted(firsts)


def test_about_as_many_as_asked_for_and_none_tiny() -> None:
    labels, n = partition(150, 200, 200)
    assert 150 <= n <= 240
    # A patch below a quarter of the mean size joins a neighbour; only the very first has none before it.
    assert np.sort(np.bincount(labels.ravel()))[1] >= 0.25 * 150 * 200 / 210


def test_two_colours_are_never_mixed() -> None:
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[:, 41:] = (255, 255, 255)
    _, lab = to_planes(image, (64, 96))
    labels, n = slic(lab, 40)
    assert all(len(np.unique(image[labels == k, 0])) == 1 for k in range(n))


def test_constant_picture_gives_a_grid() -> None:
    _, lab = to_planes(np.full((60, 60, 3), 77, dtype=np.uint8), (60, 60))
    labels, n = slic(lab, 9)
    assert n == 9
    assert np.array_equal(labels, np.kron(np.arange(9).reshape(3, 3), np.ones((20, 20), dtype=int)))


def test_small_patches_join_the_patch_before_them() -> None:
    from ssl_loc.saliency.superpixels import _connect

    labels = np.array([[0, 0, 1, 0], [0, 0, 2, 0], [3, 3, 3, 3]], dtype=np.int32)
    # By hand: 0 (left) has 4 px, the lone 1 joins it, the right 0 (2 px) joins what is left of it, 2 as well.
    joined, n = _connect(labels, 3)
    assert n == 2
    assert np.array_equal(joined, [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    apart, n = _connect(labels, 1)
    assert n == 5
    assert np.array_equal(apart, [[0, 0, 1, 2], [0, 0, 3, 2], [4, 4, 4, 4]])


def test_lab_is_the_standard_one() -> None:
    # sRGB red, white and a mid grey in CIE Lab (D65), from the standard's formulas.
    image = np.array([[[255, 0, 0], [255, 255, 255], [119, 119, 119]]], dtype=np.uint8)
    rgb, lab = to_planes(image, (1, 3))
    assert rgb.shape == lab.shape == (3, 1, 3)
    assert np.allclose(lab[:, 0].T, [[53.24, 80.09, 67.20], [100, 0, 0], [50.03, 0, 0]], atol=0.25)


def test_measures_of_regions_by_hand() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), 5)[None].repeat(12, axis=0)  # four columns of 5 x 12 px
    rgb = np.zeros((3, 12, 20), dtype=np.float32)
    rgb[:, :, 10:15] = 1.0
    regions = measure_regions(rgb, labels, 4, band=2)
    assert np.allclose(regions.colour[:, 0], [0, 0, 100, 0], atol=1e-3)
    assert np.allclose(regions.centre[:, 0], 5.5 / 12) and np.allclose(regions.centre[:, 1], [0.1, 0.35, 0.6, 0.85])
    assert np.array_equal(regions.adjacent, np.abs(np.subtract.outer(range(4), range(4))) <= 1)
    assert regions.border.all()  # every column reaches the top
    assert np.array_equal(regions.rings, np.abs(np.subtract.outer(range(4), range(4))) <= 2)
    # Nearest differences within two rings: 0, 0, 100, 0.
    assert regions.clip == pytest.approx(25.0, abs=1e-3)
    assert nearest_difference(np.eye(4, dtype=bool), regions.differences) == 0.0


def test_border_band() -> None:
    labels = np.ones((20, 20), dtype=np.int32)
    labels[:3] = 0
    labels[8:12, 8:12] = 2
    found = [measure_regions(np.zeros((3, 20, 20), np.float32), labels, 3, band).border.tolist() for band in (1, 8, 9)]
    assert found == [[True, True, False], [True, True, False], [True, True, True]]


def test_pair_distances_and_rings_against_slow_forms() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(23, 3)).astype(np.float32)
    assert np.allclose(pair_distances(points), np.linalg.norm(points[:, None] - points[None], axis=2), atol=1e-5)
    links = rng.random((23, 23)) < 0.1
    links |= links.T | np.eye(23, dtype=bool)
    assert np.array_equal(two_rings(links), np.linalg.matrix_power(links.astype(int), 2) > 0)


def random_lengths(seed: int) -> np.ndarray:
    """A connected graph with some edges of length 0, float32 (30, 30), inf where there is no edge."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random((30, 30)) < 0.15, rng.random((30, 30)) * 10, np.inf)
    lengths[np.arange(29), np.arange(1, 30)] = rng.integers(0, 3, 29)
    return np.minimum(lengths, lengths.T).astype(np.float32)


@pytest.mark.parametrize(("seed", "clip"), itertools.product(range(3), (0.0, 1.5)))
def test_paths_against_scipy(seed: int, clip: float) -> None:
    lengths = random_lengths(seed)
    clipped = np.maximum(lengths - clip, 0)
    # Sparse graphs drop zeros: a little is added to each edge, far less than the tolerance.
    graph = csr_matrix(np.where(np.isfinite(clipped), clipped + 1e-7, 0))
    expected = dijkstra(graph, directed=False)
    assert np.allclose(all_paths(lengths, clip), expected, atol=1e-4)
    start = np.full(30, np.inf, dtype=np.float32)
    start[[3, 17]] = 0.5, 2.0
    assert np.allclose(paths_from(lengths, clip, start), np.minimum(expected[3] + 0.5, expected[17] + 2.0), atol=1e-4)


def test_paths_where_nothing_leads() -> None:
    lengths = np.full((3, 3), np.inf, dtype=np.float32)
    lengths[0, 1] = lengths[1, 0] = 2.0
    assert np.array_equal(all_paths(lengths, 0.0), [[0, 2, np.inf], [2, 0, np.inf], [np.inf, np.inf, 0]])
    assert np.array_equal(paths_from(lengths, 0.0, np.array([0, np.inf, np.inf], np.float32)), [0, 2, np.inf])


def test_torus_neighbours_by_hand() -> None:
    labels = np.arange(9, dtype=np.int32).reshape(3, 3)
    linked, border = torus_neighbours(labels, 9, False)
    rows, columns = np.divmod(np.arange(9), 3)
    near = np.maximum(np.abs(np.subtract.outer(rows, rows)), np.abs(np.subtract.outer(columns, columns))) <= 1
    assert np.array_equal(linked, near)
    assert np.array_equal(np.flatnonzero(~border), [4])
    wrapped, _ = torus_neighbours(labels, 9, True)
    opposite = [(0, 6), (1, 7), (2, 8), (0, 2), (3, 5), (6, 8)]
    expected = near.copy()
    for a, b in opposite:
        expected[a, b] = expected[b, a] = True
    assert np.array_equal(wrapped, expected)
