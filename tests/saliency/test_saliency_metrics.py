"""Metrics against a slow hand-written form, hand-made cases, and known sampling errors."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_loc.saliency.metrics import (
    METRICS,
    MapScores,
    f_measure,
    match_size,
    paired_differences,
    score_map,
    to_grey,
    weighted_metrics,
)
from ssl_loc.utils.errors import DataError


def slow(grey: np.ndarray, mask: np.ndarray) -> dict[str, object]:
    """The definitions, pixel by pixel."""
    pixels = [(int(v) / 255, bool(g)) for v, g in zip(grey.ravel(), mask.ravel(), strict=True)]

    def at(t: float) -> tuple[float, float, float]:
        both = sum(s >= t and g for s, g in pixels)
        said = sum(s >= t for s, _ in pixels)
        true = sum(g for _, g in pixels)
        return (both / said if said else 0.0), both / true, both / (said + true - both)

    def f(p: float, r: float) -> float:
        return 1.3 * p * r / (0.3 * p + r) if p + r else 0.0

    curve = [at(t / 255)[:2] for t in range(256)]
    p, r, iou = at(min(1.0, 2 * sum(s for s, _ in pixels) / len(pixels)))
    mae = sum(abs(s - g) for s, g in pixels) / len(pixels)
    return {"curve": curve, "adaptive": (p, r), "adaptive_f": f(p, r), "iou": iou, "mae": mae}


def photo(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    mask = rng.random((7, 9)) < rng.uniform(0.1, 0.6)
    mask[0, 0] = True
    noise = rng.integers(0, 256, mask.shape)
    return np.where(rng.random(mask.shape) < 0.6, mask * 200, noise).astype(np.uint8), mask


def test_one_image_equals_the_slow_form() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        grey, mask = photo(rng)
        fast, want = score_map(grey, mask), slow(grey, mask)
        np.testing.assert_allclose(np.stack([fast.precision, fast.recall], 1), want["curve"], atol=1e-12)
        assert (fast.adaptive_precision, fast.adaptive_recall) == pytest.approx(want["adaptive"], abs=1e-12)
        assert fast.iou == pytest.approx(want["iou"], abs=1e-12)
        assert fast.mae == pytest.approx(want["mae"], abs=1e-12)


def test_many_images_equal_the_slow_form() -> None:
    rng = np.random.default_rng(1)
    photos = [photo(rng) for _ in range(6)]
    scores = MapScores.collect([(str(i), score_map(g, m)) for i, (g, m) in enumerate(photos)])
    slows = [slow(g, m) for g, m in photos]
    curves = np.array([s["curve"] for s in slows])  # (N, 256, 2)
    p, r = curves.mean(0).T
    f = 1.3 * p * r / np.maximum(0.3 * p + r, 1e-300)
    each = 1.3 * curves[..., 0] * curves[..., 1] / np.maximum(0.3 * curves[..., 0] + curves[..., 1], 1e-300)
    want = {
        "max_f": f.max(),
        "mean_f": f.mean(),
        "max_f_per_image": each.mean(0).max(),
        "adaptive_f": float(f_measure(*np.mean([s["adaptive"] for s in slows], axis=0))),
        "adaptive_f_per_image": np.mean([s["adaptive_f"] for s in slows]),
        **{k: np.mean([s[k] for s in slows]) for k in ("iou", "mae")},
    }
    assert scores.metrics() == pytest.approx(want, abs=1e-6)
    assert set(want) == set(METRICS)


def test_cases_by_hand() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:, :2] = True
    perfect = score_map(mask.astype(np.float32), mask)
    # Mean .5, so the threshold is 1: exactly the object.
    assert (perfect.adaptive_precision, perfect.adaptive_recall, perfect.iou, perfect.mae) == (1.0, 1.0, 1.0, 0.0)
    assert perfect.precision[0] == 0.5 and perfect.precision[1:].tolist() == [1.0] * 255
    black = score_map(np.zeros((4, 4)), mask)
    # 2 x mean is 0 and every pixel is at least 0, yet a black map must not count as a white one.
    assert (black.iou, black.adaptive_recall, black.mae) == (0.0, 0.0, 0.5)
    assert black.precision[1:].sum() == 0 and black.recall[1:].sum() == 0
    white = score_map(np.full((4, 4), 255, dtype=np.uint8), mask)
    assert (white.iou, white.mae, white.recall.min()) == (0.5, 0.5, 1.0)
    half = score_map(mask * 0.4 + 0.1, mask)  # 2 x mean = .6 (26 + 128 levels): above every value
    assert (half.iou, half.adaptive_recall) == (0.0, 0.0)
    stretched = score_map(mask * 0.4 + 0.1, mask, stretch=True)
    assert (stretched.iou, stretched.mae) == (1.0, 0.0)


def test_an_empty_mask_is_left_out_and_counted() -> None:
    mask = np.eye(4, dtype=bool)
    rows = [("a", score_map(mask * 1.0, mask)), ("b", score_map(mask * 1.0, np.zeros((4, 4), np.uint8)))]
    scores = MapScores.collect(rows)
    assert (scores.names, scores.without_object) == (["a"], ["b"])
    assert scores.metrics()["max_f"] == 1.0
    with pytest.raises(DataError, match="none of 1 masks has an object"):
        MapScores.collect(rows[1:])


def test_mask_threshold_and_kinds_of_values() -> None:
    mask = np.array([[127, 128]], dtype=np.uint8)
    assert score_map(np.array([[0.0, 1.0]]), mask).iou == 1.0
    assert to_grey(np.array([[0.5, 0.002]])).tolist() == [[128, 1]]
    assert to_grey(np.array([[10, 30, 60]], dtype=np.uint8), stretch=True).tolist() == [[0, 102, 255]]
    assert to_grey(np.full((2, 2), 0.3), stretch=True).tolist() == [[76, 76], [76, 76]]
    for bad in (np.array([[np.nan, 0.0]]), np.array([[1.5, 0.0]]), np.array([[-0.1, 0.0]])):
        with pytest.raises(DataError, match="a map"):
            score_map(bad, mask)
    with pytest.raises(DataError, match=r"shape \(1, 3\), its mask \(1, 2\)"):
        score_map(np.zeros((1, 3)), mask)


def test_sizes_are_matched_bilinearly() -> None:
    grey = np.array([[0, 100]], dtype=np.uint8)
    same, changed = match_size(grey, (1, 2))
    assert same is grey and not changed
    wide, changed = match_size(grey, (1, 4))
    assert changed and wide.tolist() == [[0, 25, 75, 100]]  # pixel centres at -.25, .25, .75, 1.25


def test_f_measure_without_anything_is_zero() -> None:
    assert f_measure(np.array([0.0, 1.0]), np.array([0.0, 1.0])).tolist() == [0.0, 1.0]


def many(seed: int, images: int, skill: float) -> MapScores:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        mask = np.random.default_rng(1000 + i).random((12, 12)) < 0.4
        rows.append((f"{i}", score_map(np.clip(mask * skill + rng.random(mask.shape) * 0.5, 0, 1), mask)))
    return MapScores.collect(rows)


def test_bootstrap_error_of_a_mean_is_the_textbook_one() -> None:
    scores = many(0, 80, 0.3)
    errors = scores.standard_errors(samples=4000, seed=3)
    for name, each in (("mae", scores.mae), ("iou", scores.iou), ("adaptive_f_per_image", scores.adaptive_f)):
        textbook = each.std() / np.sqrt(80)
        assert errors[name] == pytest.approx(textbook, rel=0.05)
    assert scores.standard_errors(seed=5) == scores.standard_errors(seed=5) != scores.standard_errors(seed=6)


def test_a_resample_counts_images_as_if_they_were_repeated() -> None:
    scores = many(0, 4, 0.3)
    drawn = weighted_metrics(scores, np.array([[2, 0, 1, 1]]))
    again = scores.select(["0", "0", "2", "3"]).metrics()
    assert {k: float(v[0]) for k, v in drawn.items()} == pytest.approx(again, abs=1e-12)


def test_paired_differences_use_the_common_images_and_the_same_draws() -> None:
    good, bad = many(0, 30, 0.6), many(0, 30, 0.3)
    # Another order and an image less: names decide.
    shuffled = bad.select([n for n in reversed(bad.names) if n != "7"])
    differences, images = paired_differences(good, shuffled, seed=1)
    assert images == 29
    without = good.select([n for n in good.names if n != "7"])
    assert differences["mae"].value == pytest.approx(without.metrics()["mae"] - shuffled.metrics()["mae"], abs=1e-12)
    each = without.mae - bad.select(without.names).mae
    assert differences["mae"].error == pytest.approx(each.std() / np.sqrt(29), rel=0.1)
    assert differences["max_f"].value > 0
    nothing, _ = paired_differences(good, good)
    assert all(d.value == 0 and d.error == 0 for d in nothing.values())
    with pytest.raises(DataError, match="no image in common"):
        paired_differences(good, MapScores(["x"], *(np.zeros((1, 256)),) * 2, *(np.zeros(1),) * 4))
