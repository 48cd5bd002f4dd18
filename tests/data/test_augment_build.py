"""Pipelines from the config: overrides, errors, streams, recipes, and colour deferred to the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from helpers.augment import SampleList, box_mask, make_cfg, make_sample

from ssl_loc.data.augmenters import (
    AUGMENTER_REGISTRY,
    Augmenter,
    Context,
    augment,
    build_device_photometric,
    build_pipelines,
)
from ssl_loc.data.augmenters.deferred import blur_batch, blur_on_cpu
from ssl_loc.data.augmenters.recipes import recipe
from ssl_loc.data.collate import collate
from ssl_loc.data.donors import Donors
from ssl_loc.data.mapper import MappedImage
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View, Views
from ssl_loc.utils.errors import ConfigError

MOCO_V2 = ["RandomResizedCrop", "ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomFlip"]


def batch(cfg: Any, count: int = 6) -> Views:
    pipelines = build_pipelines(cfg)
    sample = make_sample(mask=box_mask(96, 128, (30, 20, 90, 70)))
    rows = [augment(sample, pipelines, Streams(0, 0, index)) for index in range(count)]
    return collate([MappedImage(i, -1, "a.jpg", row) for i, row in enumerate(rows)])


def test_override_changes_one_view_only() -> None:
    cfg = make_cfg([[{"RandomFlip": {"P": 1.0}}], [{"RandomFlip": {"P": 0.0}}], ["RandomFlip"]])
    first, second, third = build_pipelines(cfg)
    assert [p.steps[0].p for p in (first, second, third)] == [1.0, 0.0, 0.5]  # type: ignore[attr-defined]
    assert cfg.AUGMENT.FLIP.P == 0.5


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ([["RandomResizeCrop"]], "no AUGMENTER is called 'RandomResizeCrop'; did you mean RandomResizedCrop"),
        ([[{"ColorJitter": {"HEU": 0.1}}]], r"AUGMENT.COLOR_JITTER.HEU in AUGMENT.VIEWS\[0\]\[0\]; did you mean HUE"),
        ([[{"ColorJitter": {"HEU": 0.1}}]], "photometric.py"),
        ([[{"ColorJitter": {"HUE": "strong"}}]], "expected float"),
        ([[{"ColorJitter": 0.4}]], "expected a mapping"),
        ([[{"ColorJitter": {}, "RandomFlip": {}}]], "expected a name or"),
        ([["RandomFlip"], "RandomFlip"], r"AUGMENT.VIEWS\[1\] is 'RandomFlip'; expected a list"),
        ([], "AUGMENT.VIEWS is empty"),
    ],
)
def test_wrong_views_are_explained(views: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_pipelines(make_cfg(views))


RRC, JITTER, OFFICIAL = "RANDOM_RESIZED_CROP", "COLOR_JITTER", "CAST_OFFICIAL_JITTER"
TWO = r"expected two numbers, 0 < low <= high"


@pytest.mark.parametrize(
    ("entry", "keys", "words"),
    [
        ("RandomResizedCrop", {"SIZE": 0}, r"the side of the views is 0 px; expected 1 or more \(AUGMENT.SIZE, or"),
        ("SaliencyConstrainedCrop", {"SIZE": -3}, "the side of the views is -3 px; expected 1 or more"),
        (
            "RandomResizedCrop",
            {RRC: {"SIZE": -8}},
            "the side of the views is -8 px; .*AUGMENT.RANDOM_RESIZED_CROP.SIZE",
        ),
        ("RandomResizedCrop", {RRC: {"SCALE": [0.2]}}, rf"AUGMENT.{RRC}.SCALE is \[0.2\]; {TWO}"),
        ("SaliencyConstrainedCrop", {RRC: {"SCALE": [0.2, 0.3, 1.0]}}, rf"SCALE is \[0.2, 0.3, 1.0\]; {TWO}"),
        ("RandomResizedCrop", {RRC: {"SCALE": ["small", "large"]}}, rf"SCALE is \['small', 'large'\]; {TWO}"),
        ("RandomResizedCrop", {RRC: {"SCALE": [0.5, 0.2]}}, rf"SCALE is \[0.5, 0.2\]; {TWO}"),
        ("RandomResizedCrop", {RRC: {"RATIO": [1.0]}}, rf"AUGMENT.{RRC}.RATIO is \[1.0\]; {TWO}"),
        ("GaussianBlur", {"GAUSSIAN_BLUR": {"SIGMA": [2.0]}}, rf"AUGMENT.GAUSSIAN_BLUR.SIGMA is \[2.0\]; {TWO}"),
        (
            "GaussianBlur",
            {"GAUSSIAN_BLUR": {"P": 50.0}},
            "AUGMENT.GAUSSIAN_BLUR.P is 50.0; expected a probability, 0 to 1",
        ),
        ("RandomFlip", {"FLIP": {"P": -0.5}}, "AUGMENT.FLIP.P is -0.5; expected a probability, 0 to 1"),
        ("RandomGrayscale", {"GRAYSCALE": {"P": 2.0}}, "AUGMENT.GRAYSCALE.P is 2.0; expected a probability, 0 to 1"),
        ("Solarize", {"SOLARIZE": {"P": 2.0}}, "AUGMENT.SOLARIZE.P is 2.0; expected a probability, 0 to 1"),
        (
            "Solarize",
            {"SOLARIZE": {"THRESHOLD": 300}},
            "AUGMENT.SOLARIZE.THRESHOLD is 300; expected a grey value, 0 to 255",
        ),
        ("ColorJitter", {JITTER: {"P": 1.5}}, "AUGMENT.COLOR_JITTER.P is 1.5; expected a probability, 0 to 1"),
        ("ColorJitter", {JITTER: {"HUE": 0.6}}, "AUGMENT.COLOR_JITTER.HUE is 0.6; expected a part of .*, 0 to 0.5"),
        ("ColorJitter", {JITTER: {"HUE": -0.1}}, "AUGMENT.COLOR_JITTER.HUE is -0.1; expected a part of .*, 0 to 0.5"),
        (
            "ColorJitter",
            {JITTER: {"CONTRAST": -0.4}},
            "AUGMENT.COLOR_JITTER.CONTRAST is -0.4; expected a strength, 0 or more",
        ),
        (
            "CastOfficialColorJitter",
            {OFFICIAL: {"P": 4.0}},
            f"AUGMENT.{OFFICIAL}.P is 4.0; expected a probability, 0 to 1",
        ),
        ("CastOfficialColorJitter", {OFFICIAL: {"HUE": -1.0}}, f"AUGMENT.{OFFICIAL}.HUE is -1.0; .*, 0 or more"),
    ],
)
def test_values_that_cannot_work_name_their_key(entry: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_pipelines(make_cfg([[entry]], **keys))


def test_wrong_place_is_explained() -> None:
    with pytest.raises(ConfigError, match="PHOTOMETRIC_ON is 'gpu'; expected worker or device"):
        build_pipelines(make_cfg([MOCO_V2], PHOTOMETRIC_ON="gpu"))


def test_the_same_augmenter_twice_draws_twice() -> None:
    (pipeline,) = build_pipelines(make_cfg([["RandomFlip", "RandomFlip"]]))
    sample = make_sample()
    flips = [pipeline(View.whole(sample), Streams(0, 0, i), Context(sample)).geometry.flip for i in range(40)]
    assert any(flips) and not all(flips)


def test_switching_a_step_off_leaves_the_other_draws() -> None:
    sample = make_sample()
    for steps in (MOCO_V2, ["RandomResizedCrop", "RandomFlip"]):
        (pipeline,) = build_pipelines(make_cfg([steps]))
        geometry = pipeline(View.whole(sample), Streams(0, 0, 3), Context(sample)).geometry
        want = geometry if steps is MOCO_V2 else want  # noqa: F821 (set in the first turn)
        assert geometry == want


@pytest.mark.parametrize("name", ["moco_v1", "instdisc", "moco_v2", "simclr", "byol"])
@pytest.mark.parametrize("crop", ["RandomResizedCrop", "SaliencyConstrainedCrop"])
@pytest.mark.parametrize("place", ["worker", "device"])
def test_recipes_survive_yaml_and_make_batches(name: str, crop: str, place: str) -> None:
    views = yaml.safe_load(yaml.safe_dump(recipe(name, crop)))
    made = batch(make_cfg(views, PHOTOMETRIC_ON=place), 3)
    assert made.images[0].shape == (3, 3, 32, 32) and made.num_views == 2 and made.masks is not None
    assert made.extra["color_map"].shape == (3, 2, 3, 6)


def test_recipes_have_the_papers_values() -> None:
    """Crop area, jitter, blur and solarisation per view, read from the built augmenters."""

    def built(name: str) -> list[dict[str, Any]]:
        pipelines = build_pipelines(make_cfg(recipe(name)))
        steps = [[*(m for s in p.steps for m in getattr(s, "members", [s]))] for p in pipelines]
        return [{type(step).__name__: step for step in view} for view in steps]

    (v1, _), (simclr, _), (first, second) = built("instdisc"), built("simclr"), built("byol")
    assert recipe("instdisc") == recipe("moco_v1")
    assert (v1["ColorJitter"].p, v1["ColorJitter"].high[3], v1["RandomResizedCrop"].limits.scale) == (
        1.0,
        0.4,
        (0.2, 1),
    )
    assert simclr["ColorJitter"].high.tolist() == [1.8, 1.8, 1.8, 0.2] and simclr["GaussianBlur"].p == 0.5
    assert first["ColorJitter"].high.tolist() == [1.4, 1.4, 1.2, 0.1]
    assert first["RandomResizedCrop"].limits.scale == (0.08, 1.0)
    assert first["RandomResizedCrop"].interpolation == "bicubic"
    assert [view["GaussianBlur"].p for view in (first, second)] == [1.0, 0.1]
    assert [view["Solarize"].p for view in (first, second)] == [0.0, 0.2] and second["Solarize"].threshold == 128


@pytest.mark.parametrize("crop", ["SaliencyConstrainedCrop", "SaliencySwap"])
def test_recipes_take_another_crop_and_a_paste(crop: str) -> None:
    views = recipe("byol", crop, "CopyPaste")
    assert [steps[:3] for steps in views] == [["CopyPaste", crop, "RandomFlip"]] * 2
    build_pipelines(make_cfg(views, PHOTOMETRIC_ON="device"))


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="did you mean moco_v2"):
        recipe("moco_v3")


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "simclr", "byol"])
def test_deferred_equals_the_worker(name: str) -> None:
    """The same draws, applied to the batch: equal to the worker's pictures up to their rounding to uint8."""
    now = batch(make_cfg(recipe(name)), 16)
    later_cfg = make_cfg(recipe(name), PHOTOMETRIC_ON="device")
    photometric = build_device_photometric(later_cfg)
    assert photometric is not None and build_device_photometric(make_cfg(recipe(name))) is None
    raw = batch(later_cfg, 16)
    later = photometric(raw)
    for v in range(2):
        assert later.images[v].dtype == torch.float32
        assert torch.equal(now.geometry.boxes[:, v], later.geometry.boxes[:, v])
        for key in now.extra:
            assert torch.allclose(now.extra[key].float(), later.extra[key].float())
        difference = (now.images[v].float() - later.images[v]).abs()
        # Solarisation jumps at its threshold, so a rounding difference of 1 may become a large one at single pixels.
        assert difference.quantile(0.995) <= 1.6 and difference.median() <= 0.5
        assert (now.images[v].float() - raw.images[v].float()).abs().mean() > 5
        assert torch.equal(now.masks[v], later.masks[v])  # type: ignore[index]


def test_blur_of_a_batch_has_each_images_own_sigma() -> None:
    images = torch.zeros(3, 3, 31, 31)
    images[:, :, 15, 15] = 1
    sigma = torch.tensor([0.0, 1.0, 2.0])
    got = blur_batch(images, sigma)
    assert torch.allclose(got, blur_on_cpu(images, sigma), atol=1e-6)
    assert torch.equal(got[0], images[0])
    offset = torch.arange(31) - 15.0
    for i in (1, 2):
        variance = (got[i, 0].sum(0) * offset**2).sum()
        # Cutting at 3 sigma takes about 3% of the variance.
        assert float(variance) == pytest.approx(float(sigma[i]) ** 2, rel=0.04)
        assert float(got[i].sum()) == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["Solarize", "ColorJitter"], "'color_map' after a solarisation"),
        (["GaussianBlur", "GaussianBlur"], "'blur_sigma' twice"),
        ([{"ColorJitter": {"MODE": "exact"}}], "ColorJitter, which cannot run on the device"),
        (["CastOfficialColorJitter"], "CastOfficialColorJitter, which cannot run on the device"),
        (["ColorJitter", "RandomResizedCrop"], "RandomResizedCrop after a colour operation"),
    ],
)
def test_what_cannot_be_deferred_is_refused(steps: list[Any], words: str) -> None:
    build_pipelines(make_cfg([steps]))
    with pytest.raises(ConfigError, match=words):
        build_pipelines(make_cfg([steps], PHOTOMETRIC_ON="device"))


def test_device_step_refuses_a_foreign_batch() -> None:
    photometric = build_device_photometric(make_cfg([MOCO_V2], PHOTOMETRIC_ON="device"))
    assert photometric is not None
    with pytest.raises(ConfigError, match="no 'blur_sigma' in Views.extra"):
        photometric(batch(make_cfg([["RandomResizedCrop"]])))


@pytest.mark.parametrize("view", [[], ["CenterCrop"]], ids=["nothing", "centre"])
def test_two_views_that_are_the_same_picture_are_warned_of(view: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    build_pipelines(make_cfg([view, view]))
    assert "the 2 views of an image are the same picture" in caplog.text
    caplog.clear()
    # One view is compared with other images or with its own past, and one random view suffices to make a difference.
    assert len(build_pipelines(make_cfg([view]))) == 1
    assert len(build_pipelines(make_cfg([view, ["RandomResizedCrop"]]))) == 2
    assert not caplog.text


@pytest.mark.parametrize("name", AUGMENTER_REGISTRY.names())
def test_every_augmenter_keeps_its_promise(name: str) -> None:
    target = AUGMENTER_REGISTRY.get(name)
    cfg = make_cfg([[name, "RandomResizedCrop"] if target.wants_whole else ["RandomResizedCrop", name]])
    (pipeline,) = build_pipelines(cfg)
    sample = make_sample(mask=box_mask(96, 128, (30, 20, 90, 70)))
    sample.graded = sample.saliency
    other = make_sample(70, 90, mask=box_mask(70, 90, (5, 5, 50, 60)), seed=1)
    other.graded = other.saliency
    before, donors = [sample.image.clone(), other.image.clone()], Donors({"train": SampleList([sample, other])})
    for index in range(8):
        view = pipeline(View.whole(sample), Streams(0, 0, index), Context(sample, donors=donors))
        assert view.image.dtype == torch.uint8 and view.image.shape == (3, 32, 32)
        assert view.mask is not None and view.mask.shape == (1, 32, 32)
        assert set(pipeline.neutral) == set(view.extra)
        again = pipeline(View.whole(sample), Streams(0, 0, index), Context(sample, donors=donors))
        assert again.mask is not None and torch.equal(view.image, again.image) and torch.equal(view.mask, again.mask)
        assert view.geometry == again.geometry
    assert torch.equal(sample.image, before[0]) and torch.equal(other.image, before[1])
    assert issubclass(target, Augmenter) and target.needs <= {"saliency", "graded", "boxes", "donor"}
    assert target.__doc__
