"""Colour, blur and solarisation in the worker, against torchvision and PIL."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from helpers.augment import make_sample, smooth_image
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as tv

from ssl_loc.data.augmenters import Context, color_matrix
from ssl_loc.data.augmenters.base import Augmenter
from ssl_loc.data.augmenters.blur import GaussianBlur
from ssl_loc.data.augmenters.color_chain import ColorChain
from ssl_loc.data.augmenters.official_jitter import CastOfficialColorJitter, official_jitter
from ssl_loc.data.augmenters.photometric import ColorJitter, RandomGrayscale, Solarize
from ssl_loc.data.augmenters.resize import as_hwc, from_hwc
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View
from ssl_loc.utils.errors import ConfigError

PEERS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
MAPS = (color_matrix.brightness, color_matrix.contrast, color_matrix.saturation, color_matrix.hue)


def apply(augmenter: Augmenter, index: int = 0, image: torch.Tensor | None = None) -> View:
    sample = make_sample(48, 64)
    if image is not None:
        sample.image = image
    return augmenter(View.whole(sample), Streams(0, 0, index), Context(sample))


def mapped(image: torch.Tensor, color_map: np.ndarray) -> torch.Tensor:
    return from_hwc(color_matrix.apply_map(as_hwc(image), color_map))


@pytest.mark.parametrize("operation", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.6, 0.9, 1.4])
def test_single_operations_equal_torchvision(operation: int, factor: float) -> None:
    image = smooth_image(40, 50)
    got = mapped(image, MAPS[operation](color_matrix.IDENTITY, factor)).float()
    assert (got - PEERS[operation](image, factor).float()).abs().max() <= 2


def test_hue_rotation_keeps_the_sum_and_goes_the_way_of_hsv() -> None:
    image = smooth_image(40, 50)
    for turn in (-0.4, -0.2, -0.1, 0.1, 0.2, 0.4):
        got = mapped(image, color_matrix.hue(color_matrix.IDENTITY, turn)).float()
        assert (got.sum(0) - image.float().sum(0)).abs().max() <= 2
        want = tv.adjust_hue(image, turn).float()
        wrong = tv.adjust_hue(image, -turn).float()
        # An approximation: closer to the shift of the same sign than the unchanged and the opposite picture are.
        error = (got - want).abs().mean()
        assert error < 0.9 * (image.float() - want).abs().mean() and error < 0.5 * (got - wrong).abs().mean()
    for turn, channel in ((1 / 3, 1), (-1 / 3, 2)):
        red = torch.tensor([120, 40, 40], dtype=torch.uint8)[:, None, None].expand(3, 4, 4).contiguous()
        got = mapped(red, color_matrix.hue(color_matrix.IDENTITY, turn))[:, 0, 0]
        assert int(got.argmax()) == channel


def test_a_full_turn_is_the_identity() -> None:
    assert np.allclose(color_matrix.hue(color_matrix.IDENTITY, 1.0), color_matrix.IDENTITY)


def test_matrix_jitter_is_close_to_exact_jitter() -> None:
    """Same draws, MoCo v2 strengths, muted picture: the named approximation, in numbers."""
    fast, exact = ColorJitter(p=1.0), ColorJitter(p=1.0, mode="exact")
    image = smooth_image(48, 64)
    errors, changes = [], []
    for index in range(40):
        a, b = apply(fast, index).image.float(), apply(exact, index).image.float()
        errors.append(float((a - b).abs().mean()))
        changes.append(float((b - image.float()).abs().mean()))
    assert np.mean(errors) < 0.2 * np.mean(changes)
    assert np.median(errors) < 4


def test_without_hue_matrix_jitter_equals_torchvision_up_to_rounding() -> None:
    fast, exact = ColorJitter(p=1.0, hue=0.0), ColorJitter(p=1.0, hue=0.0, mode="exact")
    muted = (smooth_image(48, 64).float() / 3 + 60).to(torch.uint8)
    for index in range(20):
        difference = (apply(fast, index, muted).image.float() - apply(exact, index, muted).image.float()).abs()
        assert difference.max() <= 4


def test_draws_follow_torchvisions_ranges() -> None:
    jitter = ColorJitter(p=0.7, brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    rng = np.random.default_rng(0)
    drawn = [jitter.draw(rng) for _ in range(4000)]
    taken = [d for d in drawn if d is not None]
    assert len(taken) / 4000 == pytest.approx(0.7, abs=0.03)
    factors = np.array([f for _, f in taken])
    assert np.allclose(factors.min(0), [0.6, 0, 0.8, -0.1], atol=0.01)
    assert np.allclose(factors.max(0), [1.4, 2.5, 1.2, 0.1], atol=0.01)
    orders = {tuple(order): 0 for order, _ in taken}
    for order, _ in taken:
        orders[tuple(order)] += 1
    assert len(orders) == 24 and min(orders.values()) > len(taken) / 24 * 0.6


def test_grayscale_equals_pil() -> None:
    view = apply(RandomGrayscale(p=1.0))
    grey = Image.fromarray(as_hwc(smooth_image(48, 64))).convert("L")
    assert (view.image.float() - torch.from_numpy(np.array(grey)).float()).abs().max() <= 1
    assert (view.image[0] == view.image[1]).all() and (view.image[0] == view.image[2]).all()


def test_chain_equals_one_after_the_other() -> None:
    members = [RandomGrayscale(p=0.5), ColorJitter(p=0.9, hue=0.3)]
    for index in range(20):
        chained = apply(ColorChain(members), index)
        single = apply(members[0], index)
        sample = make_sample(48, 64)
        single = members[1](single, Streams(0, 0, index), Context(sample))
        assert (chained.image.float() - single.image.float()).abs().max() <= 2
        if "color_map" in chained.extra:
            assert torch.allclose(chained.extra["color_map"], single.extra["color_map"], atol=1e-5)


def test_compose_is_doing_one_after_the_other() -> None:
    a = color_matrix.contrast(color_matrix.hue(color_matrix.IDENTITY, 0.07), 0.8)
    b = color_matrix.saturation(color_matrix.contrast(color_matrix.IDENTITY, 0.6), 1.3)
    want = color_matrix.saturation(color_matrix.contrast(a, 0.6), 1.3)
    assert np.allclose(color_matrix.compose(b, a), want)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_closed_form_is_the_four_operations_in_order(order: tuple[int, ...]) -> None:
    factors = [1.3, 0.7, 0.4, 0.13]
    want = color_matrix.IDENTITY
    for i in order:
        want = MAPS[i](want, factors[i])
    assert np.allclose(color_matrix.jitter(order, factors), want)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.0])
def test_blur_is_pils(sigma: float) -> None:
    view = apply(GaussianBlur(p=1.0, sigma=(sigma, sigma)))
    pil = Image.fromarray(as_hwc(smooth_image(48, 64))).filter(ImageFilter.GaussianBlur(sigma))
    difference = (view.image.float() - torch.from_numpy(np.array(pil)).permute(2, 0, 1).float()).abs()
    assert difference.mean() < 0.9 and difference.max() <= 4
    assert view.extra["blur_sigma"] == pytest.approx(sigma)


def test_tiny_sigma_changes_nothing() -> None:
    noise = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (apply(GaussianBlur(p=1.0, sigma=(0.27, 0.27)), image=noise).image == noise).all()
    assert (apply(GaussianBlur(p=1.0, sigma=(0.4, 0.4)), image=noise).image != noise).any()


def test_solarize_is_pils() -> None:
    view = apply(Solarize(p=1.0, threshold=120))
    want = np.array(ImageOps.solarize(Image.fromarray(as_hwc(smooth_image(48, 64))), 120))
    assert (as_hwc(view.image) == want).all() and view.extra["solarize_at"] == 120


def test_official_jitter_drives_saturation_to_its_ceiling() -> None:
    view = apply(CastOfficialColorJitter(p=1.0, brightness=0.0, contrast=0.0))
    pixels = as_hwc(view.image).reshape(-1, 3).astype(float)
    saturation = 1 - pixels.min(1) / pixels.max(1)
    before = as_hwc(smooth_image(48, 64)).reshape(-1, 3).astype(float)
    assert saturation.mean() > 0.7 > 0.4 > (1 - before.min(1) / before.max(1)).mean()


def test_official_jitter_turns_grey_red() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    got = official_jitter(grey, bias=0.0, gain=1.0, saturation_shift=255, hue_shift=0)
    # Hue 0, full saturation, value 100.
    assert (got == [100, 0, 0]).all()
    # A shift of 90 of 180 steps is half the circle: cyan.
    assert (official_jitter(grey, 0.0, 1.0, 255, 90) == [0, 100, 100]).all()
    # Brightness adds (b - 1) times the mean: 100 * 0.8 + 0.4 * 100.
    assert (official_jitter(grey, 0.4, 0.8, 0, 0) == 120).all()


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (ColorJitter, {"mode": "fast"}, "expected matrix or exact"),
        (ColorJitter, {"hue": 0.6}, "HUE is 0.6"),
        (GaussianBlur, {"sigma": (0.0, 2.0)}, "SIGMA"),
    ],
)
def test_wrong_arguments_are_named(make: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**arguments)
