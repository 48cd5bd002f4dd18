"""Fusion: the sum by hand, the curve, and the guided filter against its definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ssl_loc.saliency.build import build_estimator
from ssl_loc.saliency.fusion import central, decide
from ssl_loc.saliency.refine import guided_coefficients, guided_upsample
from ssl_loc.saliency.region_graph import measure_regions


def unit(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / np.ptp(values)


def test_scores_are_the_weighted_sum_with_a_prior_on_the_place() -> None:
    greys = 0.3 + 0.1 * np.random.default_rng(0).random((9, 12))
    greys[3:6, 5:9] = 0.9
    labels = np.kron(np.arange(108).reshape(9, 12), np.ones((8, 8))).astype(np.int32)
    rgb = np.repeat(np.kron(greys, np.ones((8, 8)))[None], 3, axis=0).astype(np.float32)
    regions = measure_regions(rgb, labels, 108, 4)
    gs, rbd, mc = (build_estimator(name).scores(regions) for name in ("gs", "rbd", "mc"))
    rows, columns = np.divmod(np.arange(108), 12)
    away = ((rows + 0.5) / 9 - 0.5 - 0.5 / 72) ** 2 + ((columns + 0.5) / 12 - 0.5 - 0.5 / 96) ** 2
    expected = unit(unit(gs + rbd + 2 * mc) * np.exp(-away / 0.5))
    assert np.allclose(build_estimator("fusion").scores(regions), expected, atol=1e-4)


def test_the_prior_on_the_place_is_weak() -> None:
    assert np.allclose(central(np.array([[0.5, 0.5], [0.0, 0.0], [1.0, 0.5]])), [1, np.exp(-1), np.exp(-0.5)])


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
def test_the_curve_keeps_order_and_ends_and_moves_the_middle(power: float) -> None:
    values = (np.linspace(0, 1, 101) ** power).reshape(1, -1)
    curved = decide(values)
    assert curved.dtype == np.float32 and np.allclose(curved[0, [0, -1]], [0, 1], atol=1e-6)
    assert (np.diff(curved[0]) >= 0).all()
    middle = (0.5 + min(2 * values.mean(), 0.9)) / 2
    assert (curved[values < 0.8 * middle] <= values[values < 0.8 * middle] + 1e-6).all()


def slow_coefficients(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression in every window, then the mean over all windows that hold a pixel; windows inside only."""
    _, height, width = guide.shape
    side = 2 * radius + 1
    scale, offset = np.zeros((3, height, width)), np.zeros((height, width))
    for y in range(radius, height - radius):
        for x in range(radius, width - radius):
            window = (slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1))
            colours, target = guide[(slice(None), *window)].reshape(3, -1).astype(float), values[window].ravel()
            centred = colours - colours.mean(axis=1, keepdims=True)
            covariance = centred @ centred.T / side**2 + eps * np.eye(3)
            a = np.linalg.solve(covariance, centred @ (target - target.mean()) / side**2)
            scale[:, y, x], offset[y, x] = a, target.mean() - a @ colours.mean(axis=1)
    box = {"ksize": (side, side), "borderType": cv2.BORDER_REFLECT}
    return np.stack([cv2.boxFilter(p, -1, **box) for p in scale]), cv2.boxFilter(offset, -1, **box)


def test_guided_filter_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    guide, values = rng.random((3, 26, 31)).astype(np.float32), rng.random((26, 31)).astype(np.float32)
    scale, offset = guided_coefficients(guide, values, 3, 1e-2)
    slow_scale, slow_offset = slow_coefficients(guide, values, 3, 1e-2)
    inner = (slice(6, -6), slice(6, -6))
    assert np.allclose(scale[:, 6:-6, 6:-6], slow_scale[:, 6:-6, 6:-6], atol=1e-3)
    assert np.allclose(offset[inner], slow_offset[inner], atol=1e-3)


def test_a_coarse_map_takes_the_edge_of_the_photo() -> None:
    """An edge at column 43 of 80, which falls into a small pixel: enlarging blurs it, the guide does not."""
    image = np.full((64, 80, 3), (40, 90, 60), dtype=np.uint8)
    image[:, 43:] = (200, 80, 60)
    small = cv2.resize(image, (40, 32), interpolation=cv2.INTER_AREA).astype(np.float32).transpose(2, 0, 1) / 255
    coarse = np.zeros((32, 40), dtype=np.float32)
    coarse[:, 21] = 0.5
    coarse[:, 22:] = 1.0
    before = cv2.resize(coarse, (80, 64), interpolation=cv2.INTER_LINEAR)
    after = guided_upsample(image, np.ascontiguousarray(small), coarse, 4, 3e-4)
    assert np.abs(np.diff(before, axis=1)).max() < 0.3
    assert (np.diff(after, axis=1)[:, 42] > 0.9).all()
    assert after.min() >= 0 and after.max() <= 1


def test_a_flat_photo_leaves_the_map_smoothed() -> None:
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    guide = np.full((3, 20, 20), 100 / 255, dtype=np.float32)
    values = np.zeros((20, 20), dtype=np.float32)
    values[:, 10:] = 1.0
    side = {"ksize": (5, 5), "borderType": cv2.BORDER_REFLECT}
    twice = cv2.boxFilter(cv2.boxFilter(values, -1, **side), -1, **side)
    assert np.allclose(guided_upsample(image, guide, values, 2, 1e-3), twice, atol=1e-3)
