"""Masks and boxes of maps: hand-made cases, and slow searches over every rectangle and every threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ssl_loc.saliency.binarize import binarize, largest_component, threshold_of
from ssl_loc.saliency.boxes import BOX_METHODS, best_rectangle, largest_sum_rectangle, saliency_box
from ssl_loc.utils.errors import ConfigError


def blob(height: int = 40, width: int = 60, *boxes: tuple[int, int, int, int], value: float = 1.0) -> np.ndarray:
    saliency = np.zeros((height, width), dtype=np.float32)
    for x1, y1, x2, y2 in boxes:
        saliency[y1:y2, x1:x2] = value
    return saliency


def test_adaptive_threshold_is_twice_the_mean_and_stays_below_the_maximum() -> None:
    saliency = np.array([[0.1, 0.2, 0.3, 0.6]])  # mean .3
    assert threshold_of(saliency) == pytest.approx(0.54)  # 2 x .3 = .6, capped at .9 x .6
    assert binarize(saliency).tolist() == [[False, False, False, True]]
    saliency = np.array([[0.0, 0.0, 0.2, 0.6]])  # mean .2
    assert threshold_of(saliency) == pytest.approx(0.4)
    assert threshold_of(np.array([[0.0, 0.4, 0.4, 0.8]])) == pytest.approx(0.72)
    assert binarize(np.array([[0.0, 0.4, 0.4, 0.8]])).sum() == 1


def test_otsu_maximises_the_variance_between_the_classes() -> None:
    rng = np.random.default_rng(0)
    saliency = np.concatenate([rng.normal(60, 12, 500), rng.normal(170, 20, 200)]).clip(0, 255).astype(np.uint8)
    mask = binarize(saliency.reshape(20, 35), "otsu")

    def between(level: int) -> float:
        low, high = saliency[saliency <= level], saliency[saliency > level]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(range(256), key=between)
    assert np.array_equal(mask.ravel(), saliency > best)
    assert binarize(np.array([[100, 100, 101]], np.uint8), "otsu").tolist() == [[False, False, True]]


def test_fixed_threshold_and_wrong_rules() -> None:
    saliency = np.array([[127, 128, 129]], dtype=np.uint8)
    assert binarize(saliency, "fixed:0.503").tolist() == [[False, False, True]]
    for rule in ("fixed:0", "fixed:2", "fixed:x", "fixed", "ada"):
        with pytest.raises(ConfigError, match="threshold is"):
            binarize(saliency, rule)


@pytest.mark.parametrize("rule", ["adaptive", "otsu", "fixed:0.5"])
def test_a_black_map_gives_an_empty_mask_never_a_full_one(rule: str) -> None:
    assert not binarize(np.zeros((5, 6)), rule).any()
    assert not binarize(np.zeros((5, 6)), rule, opening=3, fill_holes=True, largest=True).any()
    assert not binarize(np.zeros((5, 6), np.uint8), rule).any()


def test_tidying() -> None:
    saliency = blob(20, 30, (2, 2, 12, 12), (20, 3, 26, 9), (15, 15, 16, 16))
    saliency[5:7, 5:7] = 0
    mask = saliency > 0
    assert np.array_equal(binarize(saliency), mask)
    opened = binarize(saliency, opening=3)
    assert not opened[15, 15] and opened[3, 3] and opened[8, 20]
    assert binarize(saliency, fill_holes=True).sum() == mask.sum() + 4
    largest = binarize(saliency, largest=True)
    assert largest.sum() == 96 and not largest[:, 15:].any()
    # Diagonal neighbours belong together; of equal parts the first in reading order stays.
    eye = np.eye(4, dtype=bool)
    assert np.array_equal(largest_component(eye), eye)
    two = np.array([[1, 0, 1]], dtype=bool)
    assert largest_component(two).tolist() == [[True, False, False]]


def test_box_of_the_largest_part() -> None:
    saliency = blob(40, 60, (10, 5, 30, 25), (45, 30, 55, 38))
    assert saliency_box(saliency) == (10, 5, 30, 25)
    assert saliency_box((saliency * 255).astype(np.uint8)) == (10, 5, 30, 25)


@pytest.mark.parametrize("method", BOX_METHODS)
def test_no_object_no_box(method: str) -> None:
    assert saliency_box(np.zeros((40, 60)), method) is None
    assert saliency_box(blob(40, 60, (7, 7, 10, 12)), method) is None  # 15 px
    assert saliency_box(blob(40, 60, (7, 7, 11, 11)), method) == (7, 7, 11, 11)  # 16 px
    with pytest.raises(ConfigError, match="choices: threshold_cc, maxsum"):
        saliency_box(np.zeros((4, 4)), "gt_box")


def slow_rectangle(values: np.ndarray) -> float:
    h, w = values.shape
    return max(
        values[y1:y2, x1:x2].sum()
        for y1, y2 in itertools.combinations(range(h + 1), 2)
        for x1, x2 in itertools.combinations(range(w + 1), 2)
    )


def test_the_rectangle_equals_a_search_over_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.normal(-0.3, 1, (int(rng.integers(1, 8)), int(rng.integers(1, 9))))
        x1, y1, x2, y2 = largest_sum_rectangle(values)
        assert values[y1:y2, x1:x2].sum() == pytest.approx(slow_rectangle(values), abs=1e-12)
    assert largest_sum_rectangle(np.array([[-3.0, -1.0, -2.0]])) == (1, 0, 2, 1)


def test_maxsum_joins_near_parts_and_leaves_far_ones() -> None:
    near = blob(40, 60, (10, 10, 20, 30), (22, 10, 40, 30))
    assert saliency_box(near, "maxsum") == (10, 10, 40, 30)  # a gap of 40 px against parts of 200 and 360
    far = blob(40, 60, (0, 0, 10, 10), (35, 25, 60, 40))
    assert saliency_box(far, "maxsum") == (35, 25, 60, 40)


def test_maxsum_on_large_maps_is_right_to_a_cell() -> None:
    saliency = blob(480, 640, (100, 60, 420, 333))
    box = best_rectangle(saliency)
    assert np.abs(np.subtract(box, (100, 60, 420, 333))).max() <= 10  # a cell is 10 px
