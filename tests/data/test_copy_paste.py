"""CopyPaste: the composite by hand, the draws against their distributions, and what may not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.augment import SampleList, box_mask, make_cfg, make_sample
from PIL import Image, ImageFilter

from ssl_loc.data.augmenters import Context, Pipeline, augment, build_pipelines
from ssl_loc.data.augmenters.copy_paste import CopyPaste, Paste, blur_alpha, composite
from ssl_loc.data.augmenters.crops import RandomResizedCrop
from ssl_loc.data.donors import Donors
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import ConfigError

BOX = (30, 20, 90, 70)
BASE = ["RandomResizedCrop", "ColorJitter", "RandomFlip"]


def graded_sample(seed: int = 0) -> Sample:
    """128 x 96 px; opaque left half of the box, half-opaque right half."""
    sample = make_sample(mask=box_mask(96, 128, BOX), seed=seed)
    assert sample.saliency is not None
    sample.graded = sample.saliency.clone()
    sample.graded[20:70, 60:90] = 128
    return sample


def run(augmenter: Any, sample: Sample, index: int = 0, donors: Donors | None = None) -> View:
    return augmenter(View.whole(sample), Streams(0, 0, index), Context(sample, donors=donors))


def test_composite_by_hand() -> None:
    front = np.array([[[200, 100, 0], [200, 100, 0], [255, 1, 7]]], dtype=np.uint8)
    back = np.array([[[0, 50, 250], [0, 50, 250], [0, 255, 9]]], dtype=np.uint8)
    got = composite(front, back, np.array([[255, 51, 0]], dtype=np.uint8))
    # 51 is a fifth: 200 / 5, 100 / 5 + 50 * 4 / 5, 250 * 4 / 5.
    assert got.tolist() == [[[200, 100, 0], [40, 60, 200], [0, 255, 9]]]


def test_composite_has_the_bits_of_pil() -> None:
    front, back = (np.repeat(a[..., None], 3, 2).astype(np.uint8) for a in np.mgrid[:256, :256])
    for alpha in (0, 1, 2, 37, 127, 128, 200, 254, 255):
        mask = np.full((256, 256), alpha, dtype=np.uint8)
        want = Image.composite(Image.fromarray(front), Image.fromarray(back), Image.fromarray(mask))
        assert np.array_equal(composite(front, back, mask), np.asarray(want))


def test_opaque_parts_stay_and_the_rest_is_one_grey() -> None:
    sample = graded_sample()
    view = run(CopyPaste(prob=1.0), sample)
    image, source = view.image, sample.image
    assert torch.equal(image[:, 20:70, 30:60], source[:, 20:70, 30:60])
    grey = int(image[0, 0, 0])
    outside = box_mask(96, 128, BOX) == 0
    assert (image[:, outside] == grey).all()
    want = (128 * source[:, 20:70, 60:90].double() + 127 * grey) / 255
    assert (image[:, 20:70, 60:90].double() - want).abs().max() <= 0.5
    # The object does not move.
    assert view.mask is not None and sample.saliency is not None and torch.equal(view.mask[0], sample.saliency)
    assert view.geometry == View.whole(sample).geometry
    assert float(view.extra["pasted"]) == 1 and "paste_refused" not in view.extra


def test_binary_masks_have_no_half_opaque_part() -> None:
    sample = graded_sample()
    for threshold, kept in (("fixed:0.4", 60), ("fixed:0.6", 30)):
        view = run(CopyPaste(prob=1.0, mask_mode="binary", mask_threshold=threshold), sample)
        grey, same = view.image[0, 0, 0], (view.image == sample.image).all(0)
        assert same[20:70, 30 : 30 + kept].all()
        assert (view.image[:, 20:70, 30 + kept : 90] == grey).all()


def test_reduced_maps_cover_the_same_place() -> None:
    sample = graded_sample()
    sample.saliency = box_mask(48, 64, (15, 10, 45, 35))
    sample.graded = sample.saliency
    view = run(CopyPaste(prob=1.0), sample)
    grey, same = view.image[0, 0, 0], (view.image == sample.image).all(0)
    # Bilinear enlargement by 2 softens one pixel on both sides of an edge.
    assert same[21:69, 31:89].all() and (view.image[:, :19] == grey).all() and (view.image[:, :, 91:] == grey).all()


def test_probability_level_and_blend_follow_their_distributions() -> None:
    sample, count = graded_sample(), 4000
    assert sample.graded is not None
    blurred, hard, levels = blur_alpha(sample.graded.numpy(), 3.0), sample.graded.numpy(), []
    augmenter, blends = CopyPaste(prob=0.3, blend="mix", blur_radius=3.0), []
    view, context = View.whole(sample), Context(sample)
    for index in range(count):
        paste = augmenter.draw(view, Streams(0, 0, index), context)
        if isinstance(paste, Paste):
            levels.append(int(augmenter.compose(view, paste, (0, 0, 1, 1))[0, 0, 0]))
            blends.append(np.array_equal(paste.alpha, blurred))
            assert blends[-1] or np.array_equal(paste.alpha, hard)
    # Four standard deviations of each estimate.
    assert abs(len(levels) / count - 0.3) < 0.03
    assert abs(np.mean(blends) - 0.5) < 0.06
    assert abs(np.mean(levels) - 127.5) < 4 * 73.9 / np.sqrt(len(levels)) and min(levels) < 4 and max(levels) > 251


def test_blur_is_that_of_pil_up_to_its_box_approximation() -> None:
    mask = box_mask(96, 128, BOX).numpy()
    want = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(5))).astype(int)
    assert np.abs(blur_alpha(mask, 5.0) - want).max() <= 4
    # Straight edge, far from corners: the error function, 1 px outside of the edge (centre at half a pixel).
    assert blur_alpha(mask, 5.0)[45, 30] == pytest.approx(255 * 0.5398, abs=1.5)


@pytest.mark.parametrize("background", ["gray", "texture", "train"])
@pytest.mark.parametrize("crop", ["RandomResizedCrop", "SaliencyConstrainedCrop"])
def test_composing_only_the_crop_gives_the_same_bits(background: str, crop: str) -> None:
    settings = {"CopyPaste": {"PROB": 0.8, "BACKGROUND": background, "BLEND": "mix"}}
    (joined,) = build_pipelines(make_cfg([[settings, crop, "RandomFlip"]]))
    assert [type(step).__name__ for step in joined.steps] == ["PastedCrop", "RandomFlip"]
    paste, (plain,) = joined.steps[0].paste, build_pipelines(make_cfg([[crop]]))  # type: ignore[attr-defined]
    sample, small = graded_sample(), make_sample(50, 60, seed=3)
    donors = Donors({"train": SampleList([sample, small, make_sample(200, 300, seed=4)])})
    apart = Pipeline([paste, *plain.steps, *joined.steps[1:]], joined.neutral)
    for index in range(20):
        a, b = (p(View.whole(sample), Streams(0, 0, index), Context(sample, donors=donors)) for p in (joined, apart))
        assert torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and a.geometry == b.geometry  # type: ignore[arg-type]
        assert {k: float(v) for k, v in a.extra.items()} == {k: float(v) for k, v in b.extra.items()}


def test_off_is_the_base_bit_for_bit_and_a_paste_moves_nothing_else() -> None:
    sample = graded_sample()
    views = {
        prob: [
            augment(sample, build_pipelines(make_cfg([steps, steps])), Streams(0, 0, index))
            for index in range(12)
            for steps in [[*([{"CopyPaste": {"PROB": prob}}] if prob is not None else []), *BASE]]
        ]
        for prob in (None, 0.0, 1.0)
    }
    differ = 0
    for base, off, on in zip(views[None], views[0.0], views[1.0], strict=True):
        for a, b, c in zip(base, off, on, strict=True):
            assert torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and a.geometry == b.geometry  # type: ignore[arg-type]
            assert a.geometry == c.geometry and torch.equal(a.mask, c.mask)  # type: ignore[arg-type]
            assert torch.equal(a.extra["color_map"], c.extra["color_map"])
            differ += not torch.equal(a.image, c.image)
    assert differ == 24
    assert not CopyPaste(prob=0.0).needs and CopyPaste(background="train").needs == {"saliency", "graded", "donor"}


@pytest.mark.parametrize("kind", ["none", "black"])
def test_without_an_object_the_original_stays_and_is_counted(kind: str) -> None:
    sample = make_sample()
    if kind == "black":
        sample.saliency = sample.graded = torch.zeros(96, 128, dtype=torch.uint8)
    (pipeline,) = build_pipelines(make_cfg([["CopyPaste", "RandomResizedCrop"]]))
    (base,) = build_pipelines(make_cfg([["RandomResizedCrop"]]))
    refused = 0.0
    for index in range(40):
        view = run(pipeline, sample, index)
        assert torch.equal(view.image, run(base, sample, index).image) and float(view.extra["pasted"]) == 0
        refused += float(view.extra["paste_refused"])
    assert 8 < refused < 32  # PROB is .5
    assert float(run(CopyPaste(prob=1.0), sample).extra["paste_refused"]) == 1


def test_crops_that_miss_the_object_are_not_pasted() -> None:
    sample = make_sample(mask=box_mask(96, 128, (60, 40, 70, 50)))
    sample.graded = sample.saliency
    settings = {"CopyPaste": {"PROB": 1.0, "MIN_FG_IN_CROP": 0.6}}
    crop = {"RandomResizedCrop": {"SCALE": [0.2, 0.4]}}
    (pipeline,) = build_pipelines(make_cfg([[settings, crop]]))
    kinds = set()
    for index in range(60):
        view = run(pipeline, sample, index)
        x1, y1, x2, y2 = view.geometry.box
        shown = max(0, min(x2, 70) - max(x1, 60)) * max(0, min(y2, 50) - max(y1, 40)) / 100
        pasted = float(view.extra["pasted"])
        assert pasted == (shown >= 0.6) and float(view.extra["paste_refused"]) == 1 - pasted
        kinds.add(pasted)
    assert kinds == {0.0, 1.0}


def test_donors_are_the_background() -> None:
    sample = graded_sample()
    pixels = torch.randint(0, 256, (3, 120, 150), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    donor = Sample(pixels, index=1)
    donors = Donors({"dataset:x": SampleList([donor])})
    paste = CopyPaste(prob=1.0, background="dataset:x")
    places = set()
    for index in range(12):
        view = run(paste, sample, index, donors)
        corner = view.image[:, :15, :20]
        found = [
            (y, x)
            for y in range(25)
            for x in range(23)
            if torch.equal(donor.image[:, y : y + 15, x : x + 20], corner)
            and torch.equal(donor.image[:, y + 71 : y + 96, x : x + 128], view.image[:, 71:])
        ]
        assert len(found) == 1
        places.add(found[0])
    # Offsets reach beyond the first half of the slack (24 x 22), where the official loader stops.
    assert len(places) > 8 and max(y for y, _ in places) > 12 and max(x for _, x in places) > 11


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"PROB": 1.5}, "COPY_PASTE.PROB is 1.5; expected a probability"),
        ({"BACKGROUND": "grey"}, "BACKGROUND is 'grey'; expected gray, texture, windows:FILE"),
        (
            {"BACKGROUND": "sets"},
            r"BACKGROUND is 'sets' and .*_SETS \[\]; expected a list of sets with BACKGROUND sets",
        ),
        ({"BACKGROUND_SETS": ["train"]}, r"BACKGROUND is 'gray' and .*_SETS \['train'\]; expected .* an empty one"),
        ({"BACKGROUND": "sets", "BACKGROUND_SETS": ["trains"]}, "BACKGROUND_SETS names the donors 'trains'; expected"),
        ({"BLEND": "gaus"}, "BLEND is 'gaus'; did you mean gauss"),
        ({"BLUR_RADIUS": 0.0}, "BLUR_RADIUS is 0.0; expected a radius in px"),
        ({"MASK_MODE": "hard"}, "MASK_MODE is 'hard'.* choices: soft, binary"),
        ({"MASK_THRESHOLD": "0.5"}, "MASK_THRESHOLD: threshold is '0.5'; expected adaptive, otsu, or fixed:V"),
        ({"MIN_FG_IN_CROP": -0.1}, "MIN_FG_IN_CROP is -0.1; expected a share, 0 to 1"),
    ],
)
def test_values_that_cannot_work_name_their_key(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_pipelines(make_cfg([["CopyPaste"]], COPY_PASTE=keys))


def test_places_that_cannot_work_are_refused_at_build() -> None:
    with pytest.raises(ConfigError, match="has CopyPaste after RandomResizedCrop; CopyPaste needs the whole image"):
        build_pipelines(make_cfg([["RandomResizedCrop", "CopyPaste"]]))
    with pytest.raises(ConfigError, match="MIN_FG_IN_CROP is 0.2, but no crop follows CopyPaste directly"):
        build_pipelines(make_cfg([[{"CopyPaste": {"MIN_FG_IN_CROP": 0.2}}, "RandomFlip", "RandomResizedCrop"]]))
    build_pipelines(make_cfg([["ColorJitter", "CopyPaste", "RandomFlip", "RandomResizedCrop"]]))
    assert isinstance(CopyPaste().joined(RandomResizedCrop()), object) and CopyPaste().joined(None) is None
