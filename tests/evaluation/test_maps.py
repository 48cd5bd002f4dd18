"""Map measures by hand and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from ssl_loc.evaluation.maps import (
    binary_iou,
    density,
    energy_inside,
    histogram,
    normalize_map,
    pointing_hit,
    upsample_map,
)
from ssl_loc.utils.errors import ConfigError


def test_normalize_max_keeps_zero_where_it_was() -> None:
    cam = torch.tensor([[[0.0, 1.0], [2.0, 4.0]], [[3.0, 3.0], [3.0, 3.0]], [[0.0, 0.0], [0.0, 1e-13]]])
    out = normalize_map(cam)
    assert out[0].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert out[1].tolist() == [[1.0, 1.0], [1.0, 1.0]]  # active everywhere stays active everywhere
    assert out[2].abs().max() == 0  # at or below 1e-12: a zero map, not noise blown up


def test_normalize_minmax_moves_the_minimum_to_zero() -> None:
    cam = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[3.0, 3.0], [3.0, 3.0]]])
    out = normalize_map(cam, "minmax")
    assert out[0].tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert out[1].abs().max() == 0
    with pytest.raises(ConfigError, match="'max' or 'minmax'"):
        normalize_map(cam, "mean")


def test_upsampling_is_half_pixel_bilinear() -> None:
    # align_corners False: output pixel j samples input position (j + .5) / 2 - .5, clamped to [0, 1].
    out = upsample_map(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    assert out[0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    same = torch.rand(2, 3, 3)
    assert upsample_map(same, (3, 3)) is same


def test_iou_by_hand_and_empty_union() -> None:
    a = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]], dtype=torch.bool)
    b = torch.tensor([[[0, 1, 1], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    iou = binary_iou(a, b)
    assert iou[0] == pytest.approx(1 / 4)
    assert math.isnan(iou[1])
    assert iou[2] == 0


def test_pointing_and_energy() -> None:
    cam = torch.tensor([[[0.0, 0.2], [1.0, 0.3]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    mask = torch.tensor([[[0, 0], [1, 1]], [[1, 1], [1, 1]], [[0, 0], [0, 1]]], dtype=torch.bool)
    # Third: two equal maxima, the first in reading order (not on the mask) counts.
    assert pointing_hit(cam, mask).tolist() == [True, False, False]
    assert energy_inside(cam, mask).tolist() == pytest.approx([1.3 / 1.5, 0.0, 0.5])


def test_density_integrates_to_one_and_is_scipys_far_from_the_borders() -> None:
    rng = np.random.default_rng(0)
    x, y = density(rng.beta(0.6, 2.0, 400))  # piles up at 0, where an unreflected kernel would lose mass
    assert np.trapezoid(y, x) == pytest.approx(1.0, abs=2e-3)
    inside = 0.5 + 0.03 * rng.standard_normal(300)
    x, y = density(inside)
    np.testing.assert_allclose(y, gaussian_kde(inside, "scott")(x), atol=1e-8)


def test_density_at_the_border_is_twice_the_kernel() -> None:
    values = np.array([0.0, 0.0, 0.0, 0.1])
    bandwidth = values.std(ddof=1) * 4**-0.2
    kernel = np.exp(-0.5 * (np.array([0, 0, 0, 0.1]) / bandwidth) ** 2).sum() / (4 * bandwidth * np.sqrt(2 * np.pi))
    _, y = density(values)
    assert y[0] == pytest.approx(2 * kernel, rel=1e-9)


def test_no_density_of_equal_values() -> None:
    assert density(np.array([0.3])) == ([], [])
    assert density(np.array([0.3, 0.3])) == ([], [])


def test_histogram_puts_one_into_the_last_bin() -> None:
    counts, edges = histogram(np.array([0.0, 0.019, 0.02, 1.0]), 50)
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (2, 1, 1, 4)
    assert len(edges) == 51


def test_density_treats_both_borders_alike() -> None:
    values = np.array([0.0, 0.02, 0.1, 0.4])
    _, y = density(values)
    _, mirrored = density(1 - values)
    np.testing.assert_allclose(mirrored, y[::-1], rtol=1e-9)
