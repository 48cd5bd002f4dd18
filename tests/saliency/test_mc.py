"""MC: absorption times of small chains by hand and by simulation, and the published code's tests on them."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_loc.saliency.mc import AbsorbingChain, affinities, expected_stay, is_frame, middle_mass, walk
from ssl_loc.saliency.region_graph import measure_regions

ALL4 = np.ones(4, dtype=bool)


def line_of_four(weight: float = 1.0) -> np.ndarray:
    """Nodes 0 - 1 - 2 - 3 in a row, every affinity ``weight``, 1 to itself."""
    return np.eye(4) + weight * (np.eye(4, k=1) + np.eye(4, k=-1))


def test_a_line_of_four_by_hand() -> None:
    # Border: both ends; a double has its original's links. Ends: 1 (stay) + 1 (inwards) + 1 (own double) = 3; middles:
    # 1 + 1 + 1 + 1 (the end's double) = 4. Times: t0 = 1 + (t0 + t1) / 3 and, as t1 = t2, t1 = 1 + (t0 + 2 t1) / 4:
    # 2 t0 = 3 + t1 and t1 = 2 + t0 / 2  =>  t0 = 10 / 3, t1 = 11 / 3.
    border = np.array([True, False, False, True])
    times = expected_stay(line_of_four(), border, ALL4, np.ones((4, 1)))[:, 0]
    assert np.allclose(times, [10 / 3, 11 / 3, 11 / 3, 10 / 3])


def test_times_agree_with_a_simulated_walk() -> None:
    rng = np.random.default_rng(0)
    affinity = rng.random((4, 4))
    affinity = (affinity + affinity.T) / 2
    np.fill_diagonal(affinity, 1.0)
    border, worth = np.array([True, False, False, True]), np.array([1.0, 2.0, 0.5, 3.0])
    absorbing = affinity[:, border]
    chances = np.concatenate([affinity, absorbing], axis=1)
    chances = np.cumsum(chances / chances.sum(axis=1, keepdims=True), axis=1)
    collected = np.zeros(20000)
    place = np.full(20000, 2)
    while (walking := place < 4).any():
        collected[walking] += worth[place[walking]]
        place[walking] = (rng.random((walking.sum(), 1)) > chances[place[walking]]).sum(axis=1)
    expected = expected_stay(affinity, border, ALL4, worth[:, None])[2, 0]
    assert collected.mean() == pytest.approx(expected, abs=5 * collected.std() / 20000**0.5)


def test_removed_regions_absorb() -> None:
    # Without node 3, node 2 keeps its link to it in the total: a third of its walks ends there.
    kept, border = np.array([True, True, True, False]), np.array([True, False, False, False])
    times = expected_stay(line_of_four(), border, kept, np.ones((3, 1)))[:, 0]
    transition = np.array([[1 / 3, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4], [0, 1 / 3, 1 / 3]])
    assert np.allclose(times, np.linalg.solve(np.eye(3) - transition, np.ones(3)))


def test_affinities_by_hand() -> None:
    colours = np.array([[0, 2, 9], [2, 0, 4], [9, 4, 0]], dtype=np.float32)
    edges = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=bool)
    expected = np.array([[1, 1 + 1e-5, 0], [1 + 1e-5, 1, np.exp(-10) + 1e-5], [0, np.exp(-10) + 1e-5, 1]])
    assert np.allclose(affinities(colours, edges), expected, rtol=1e-6)


def test_middle_mass_by_hand() -> None:
    # Bins 1 and 10 have weight 1, bins 5 and 6 weight 5.
    assert middle_mass(np.array([0.0, 1.0, 0.02, 0.99])) == pytest.approx(1.0)
    assert middle_mass(np.array([0.45, 0.55])) == pytest.approx(5.0)
    assert middle_mass(np.array([0.0, 0.25])) == pytest.approx((1 + 3) / 2)


def test_a_frame_is_what_is_unlike_its_inside() -> None:
    affinity = np.full((4, 4), 0.5)
    neighbours = np.ones((4, 4), dtype=bool)
    border = np.array([True, True, False, False])
    # 2 border x 2 inner neighbours x 0.5 = 2.
    assert not is_frame(affinity, neighbours, border, ALL4, 1.9)
    assert is_frame(affinity, neighbours, border, ALL4, 2.0)
    # A region that is not kept does not count.
    assert is_frame(affinity, neighbours, border, np.array([True, True, True, False]), 1.0)


def test_rare_places_weigh_more_where_the_times_say_little() -> None:
    rng = np.random.default_rng(1)
    affinity = rng.random((8, 8)) * 0.5
    affinity = (affinity + affinity.T) / 2
    np.fill_diagonal(affinity, 1.0)
    border = np.zeros(8, dtype=bool)
    border[0] = True
    kept = np.ones(8, dtype=bool)
    total = affinity.sum(axis=1) + affinity[:, 0]
    stays = np.linalg.inv(np.eye(8) - affinity / total[:, None])
    plain = stays.sum(axis=1)
    plain = (plain - plain.min()) / np.ptp(plain)
    weighted = stays @ (1 / affinity.sum(axis=1))
    weighted = (weighted - weighted.min()) / np.ptp(weighted)
    share = np.bincount(np.minimum((plain * 10).astype(int), 9), minlength=10) / 8
    score = sum(share[b] * min(b + 1, 10 - b) for b in range(10))
    assert np.allclose(walk(affinity, border, kept), weighted if score >= 2 else plain)


def grid_regions(colours: np.ndarray) -> tuple[np.ndarray, object]:
    """Regions of 8 x 8 px on a grid with the given grey levels (rows, columns)."""
    rows, columns = colours.shape
    labels = np.kron(np.arange(rows * columns).reshape(rows, columns), np.ones((8, 8))).astype(np.int32)
    rgb = np.repeat(np.kron(colours, np.ones((8, 8)))[None], 3, axis=0).astype(np.float32)
    return labels, measure_regions(rgb, labels, rows * columns, 4)


@pytest.mark.parametrize("preset", ["matlab", "paper"])
def test_an_object_in_a_frame(preset: str) -> None:
    """A black frame around a grey photo with a white object: the published test removes the frame."""
    colours = np.full((14, 18), 0.5)
    colours[[0, -1]] = colours[:, [0, -1]] = 0.0
    colours[5:8, 7:10] = 1.0
    _, regions = grid_regions(colours)
    scores = AbsorbingChain(preset).scores(regions).reshape(14, 18)
    inside, ring, photo = scores[5:8, 7:10].mean(), scores[1, 1:-1].mean(), scores[2:4, 2:-2].mean()
    assert inside > 0.8
    if preset == "matlab":
        assert photo < 0.3 and scores[0].max() == 0.0 and ring < 0.2
    else:
        assert photo > 0.3  # the paper's text knows no frames: the photo stands out from its frame
