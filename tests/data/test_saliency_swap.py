"""SaliencySwap: places by hand, draws against their distributions, and a geometry that tells the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.augment import SampleList, box_mask, make_cfg, make_sample

from ssl_loc.data.augmenters import Context, augment, build_pipelines
from ssl_loc.data.augmenters.object_box import largest_box, object_box
from ssl_loc.data.augmenters.paste_geometry import draw_patch, free_rectangle, over_box
from ssl_loc.data.collate import collate
from ssl_loc.data.donors import Donors
from ssl_loc.data.mapper import MappedImage
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Geometry, GeometryBatch, Sample, View, Views
from ssl_loc.utils.errors import ConfigError

BOX, BELOW = (30, 20, 90, 70), (64, 24, 96, 60)
SIZE = 32


def with_map(box: tuple[int, int, int, int], seed: int = 0, index: int = 0) -> Sample:
    sample = make_sample(mask=box_mask(96, 128, box), seed=seed)
    sample.graded, sample.index = sample.saliency, index
    return sample


def coordinates(index: int = 0) -> Sample:
    """Red is x, green is y, blue is 100: where a pixel of a view comes from can be read off."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    image = torch.stack([x, y, torch.full_like(x, 100)]).to(torch.uint8)
    mask = box_mask(96, 128, BOX)
    return Sample(image, mask, torch.tensor([BOX], dtype=torch.float32), index=index, graded=mask)


def plain(index: int, boxes: torch.Tensor | None = None) -> Sample:
    """A black background with an object at BELOW."""
    mask = box_mask(96, 128, BELOW)
    return Sample(torch.zeros(3, 96, 128, dtype=torch.uint8), mask, boxes, index=index, graded=mask)


def pool(*others: Sample, name: str = "train") -> Donors:
    return Donors({name: SampleList([coordinates(), *others] if name == "train" else others)})


def swapped(donors: Donors, index: int = 0, sample: Sample | None = None, steps: Any = (), **keys: Any) -> View:
    (pipeline,) = build_pipelines(make_cfg([[{"SaliencySwap": keys} if keys else "SaliencySwap", *steps]], SIZE))
    sample = sample or coordinates()
    return pipeline(View.whole(sample), Streams(0, 0, index), Context(sample, donors=donors))


def test_the_object_of_the_background_is_covered_exactly() -> None:
    for index in range(6):
        view = swapped(pool(plain(1)), index)
        # BELOW is (64, 24, 96, 60) of 128 x 96 px, and the view has 32 x 32.
        assert view.extra["paste_box"].tolist() == [16, 8, 24, 20]
        blue = view.image[2] == 100
        assert blue[8:20, 16:24].all() and blue.sum() == 96
        assert view.mask is not None and torch.equal(view.mask[0] == 255, blue)
        assert float(view.extra["pasted"]) == 1


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["same", "other"])
@pytest.mark.parametrize("keep", [False, True])
def test_geometry_maps_the_pasted_pixels_to_where_they_come_from(flip: float, mode: str, keep: bool) -> None:
    for index in range(4):
        steps = [{"RandomFlip": {"P": flip}}]
        view = swapped(pool(plain(1)), index, steps=steps, MODE=mode, BETA=0.2, KEEP_ASPECT=keep)
        x1, y1, x2, y2 = (int(v) for v in view.extra["paste_box"])
        inside = view.image[2] == 100
        assert inside[y1:y2, x1:x2].all() and int(inside.sum()) == (y2 - y1) * (x2 - x1)
        assert view.mask is not None and torch.equal(view.mask[0] == 255, inside)
        # Away from the edges of the patch, where resizing has full support, red and green are the source coordinates.
        rows, columns = torch.meshgrid(torch.arange(y1 + 2, y2 - 2), torch.arange(x1 + 2, x2 - 2), indexing="ij")
        points = torch.stack([columns, rows], -1).double() + 0.5
        source = view.geometry.to_source(points)
        shown = view.image[:2, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].permute(1, 2, 0).double() + 0.5
        assert (source - shown).abs().max() <= (2.5 if keep else 1.0)  # a cut patch is rounded to its whole px
        assert view.geometry.flip == bool(flip)
        left, top, right, bottom = view.geometry.visible
        assert BOX[0] <= left < right <= BOX[2] and BOX[1] <= top < bottom <= BOX[3]
        corners = view.geometry.to_view(torch.tensor([[left, top], [right, bottom]], dtype=torch.float64))
        assert torch.allclose(
            corners.sort(0).values, torch.tensor([[x1, y1], [x2, y2]], dtype=torch.float64), atol=1e-4
        )


def test_a_crop_after_the_swap_keeps_geometry_and_paste_box() -> None:
    for index in range(6):
        view = swapped(pool(plain(1)), index, steps=["RandomResizedCrop"], MODE="other")
        shown = view.image[2] == 100  # up to the antialiased rim
        rows, columns = (torch.nonzero(shown.any(d)).flatten() for d in (1, 0))
        got = [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
        box = view.extra["paste_box"].tolist()
        # Pixels that are partly of the patch are darker, so what is fully blue lies inside of the box, by up to 2 px.
        assert all(0 <= sign * (a - b) <= 2.01 for sign, a, b in zip((1, 1, -1, -1), got, box, strict=True))


def test_views_overlap_only_where_both_show_the_source() -> None:
    a = Geometry((0.0, 0.0, 100.0, 100.0), (10, 10), (100, 100), shown=(20.0, 20.0, 60.0, 60.0))
    b = Geometry((30.0, 0.0, 80.0, 100.0), (10, 10), (100, 100))
    assert a.intersect(b) == (30.0, 20.0, 60.0, 60.0) == b.intersect(a)
    batch = GeometryBatch.stack([[a, b]])
    assert batch.overlap(0, 1)[0].tolist() == pytest.approx([0.3, 0.2, 0.6, 0.6])
    assert batch.overlap(1, 0)[0].tolist() == pytest.approx([0.0, 0.2, 0.6, 0.6])
    assert GeometryBatch.stack([[b, b]]).shown is None


def test_patches_follow_their_distribution() -> None:
    u = np.random.default_rng(0).random((4000, 4))
    box = (100, 50, 500, 450)
    patches = np.array([draw_patch(row, box, 0.2, (3 / 4, 4 / 3)) for row in u])
    w, h = patches[:, 2] - patches[:, 0], patches[:, 3] - patches[:, 1]
    assert patches[:, :2].min() >= 0 and (patches[:, 0] >= 100).all() and (patches[:, 3] <= 450).all()
    free = (w < 400) & (h < 400)
    share = (w * h / 160000)[u[:, 0] < 0.6]  # U(.2, 1) up to .68: no side reaches the box
    assert free[u[:, 0] < 0.6].all()
    assert abs(share.mean() - 0.44) < 0.012 and share.min() < 0.21 and 0.66 < share.max() < 0.69
    log_ratio = np.log(w / h)[u[:, 0] < 0.6]
    limit = np.log(4 / 3)
    assert abs(log_ratio.mean()) < 0.02 and abs(log_ratio.std() - limit / np.sqrt(3)) < 0.01
    # Uniform offsets: the mean of offset / slack is a half.
    slack = np.maximum(400 - w, 1)[free]
    assert abs(((patches[free, 0] - 100) / slack).mean() - 0.5) < 0.03


def test_lambda_is_of_the_crop_and_beta_of_the_paste() -> None:
    """Each at 1 with the other small: all of the object's box, or all of the view."""
    for index in range(4):
        whole = swapped(pool(plain(1)), index, MODE="other", LAMBDA=1.0, BETA=0.05)
        left, top, right, bottom = whole.geometry.visible
        # The box has 60 x 50 px; a crop of its whole area in another shape is clipped to it, so one side is the box's.
        assert right - left == 60 or bottom - top == 50
        part = swapped(pool(plain(1)), index, MODE="other", LAMBDA=0.05, BETA=1.0)
        x1, y1, x2, y2 = part.extra["paste_box"].tolist()
        assert (x2 - x1) * (y2 - y1) > 0.9 * SIZE**2 or SIZE in (x2 - x1, y2 - y1)
    many = [swapped(pool(plain(1)), i, MODE="other", LAMBDA=1.0, BETA=0.05).extra["paste_box"] for i in range(40)]
    shares = [float((b[2] - b[0]) * (b[3] - b[1])) / SIZE**2 for b in many]
    crops = [swapped(pool(plain(1)), i, MODE="other", LAMBDA=0.05, BETA=1.0).geometry.visible for i in range(40)]
    areas = [(b[2] - b[0]) * (b[3] - b[1]) / 3000 for b in crops]
    # U(.05, 1) has a fifth of its draws below .24; with the two exchanged nothing would be.
    assert min(shares) < 0.25 and min(areas) < 0.25


def test_thin_boxes_give_patches_of_8_px_where_they_can() -> None:
    u = np.full(4, 0.5)
    for box in ((0, 0, 9, 300), (0, 0, 300, 9)):
        x1, y1, x2, y2 = draw_patch(u, box, 0.01, (3 / 4, 4 / 3))
        assert 8 <= x2 - x1 and 8 <= y2 - y1 and min(x2 - x1, y2 - y1) <= 9
    x1, y1, x2, y2 = draw_patch(u, (5, 5, 9, 105), 0.01, (1.0, 1.0))
    assert (x1, x2) == (5, 9) and y2 - y1 >= 8


def test_free_rectangles_follow_their_distribution() -> None:
    u = np.random.default_rng(1).random((4000, 3))
    for patch in ((0, 0, 60, 60), (0, 0, 80, 60), (0, 0, 200, 20)):
        boxes = np.array([free_rectangle(row, patch, 224, 0.25).rectangle for row in u])
        w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        area = w * h / 224**2
        assert np.abs(area - (0.25 + 0.75 * u[:, 0])).max() < 0.012  # sides are whole px
        assert boxes.min() >= 0 and boxes.max() <= 224
        shape = (patch[2] - patch[0]) / (patch[3] - patch[1])
        fits = (w < 224) & (h < 224)
        assert np.abs(w[fits] / h[fits] / shape - 1).max() < 0.03 if fits.any() else shape == 10
        slack = 224 - h
        assert abs((boxes[slack > 20, 1] / slack[slack > 20]).mean() - 0.5) < 0.03


def test_keeping_the_shape_covers_the_target_and_cuts_at_the_border() -> None:
    background = Sample(torch.zeros(3, 100, 200, dtype=torch.uint8))
    # A square of 20 px over a target of 40 x 20: scaled by 2 to 40 x 40, centred on (100, 50).
    placed = over_box((0, 0, 20, 20), (80, 40, 120, 60), background, 100, keep_aspect=True)
    assert placed.patch == (0, 0, 20, 20) and placed.rectangle == (40, 30, 60, 70)
    # At the upper border the lower three quarters are left: 10 of 40 px leave the picture.
    placed = over_box((0, 0, 20, 20), (80, 0, 120, 20), background, 100, keep_aspect=True)
    assert placed.patch == (0, 5, 20, 20) and placed.rectangle == (40, 0, 60, 30)
    # Stretched, and rounded outwards.
    placed = over_box((0, 0, 20, 20), (81, 41, 119, 59), background, 100, keep_aspect=False)
    assert placed.patch == (0, 0, 20, 20) and placed.rectangle == (40, 41, 60, 59)
    assert over_box((0, 0, 9, 9), None, background, 100, True).rectangle == (0, 0, 100, 100)
    assert over_box((0, 0, 9, 9), (198, 98, 200, 100), background, 100, False).rectangle == (92, 92, 100, 100)


def test_mode_auto_covers_own_images_and_places_freely_in_others() -> None:
    donors = Donors({"train": SampleList([coordinates(), plain(1)]), "dataset:x": SampleList([plain(0)])})
    own = swapped(donors, BACKGROUND_SETS=["train"])
    assert own.extra["paste_box"].tolist() == [16, 8, 24, 20]
    boxes = {tuple(swapped(donors, i, BACKGROUND_SETS=["dataset:x"]).extra["paste_box"].tolist()) for i in range(8)}
    assert len(boxes) == 8
    free = swapped(donors, BACKGROUND_SETS=["train"], MODE="other")
    assert free.extra["paste_box"].tolist() != [16, 8, 24, 20]


def test_the_mask_may_be_the_saliency_inside_the_rectangle() -> None:
    sample = coordinates()
    sample.saliency = sample.graded = box_mask(96, 128, (30, 20, 60, 70))  # left half of BOX
    sample.boxes = torch.tensor([BOX], dtype=torch.float32)
    donor = plain(1, torch.tensor([BELOW], dtype=torch.float32))
    seen = 0
    for index in range(12):
        view = swapped(pool(donor), index, sample, BOX_SOURCE="gt_box", MASK="saliency")
        x1, y1, x2, y2 = (int(v) for v in view.extra["paste_box"])
        assert view.mask is not None and view.mask[0, :y1].sum() == 0 and view.mask[0, :, x2:].sum() == 0
        left, _, right, _ = view.geometry.visible
        want = float(np.clip((60 - left) / (right - left), 0, 1))
        got = float(view.mask[0, y1:y2, x1:x2].float().mean()) / 255
        assert got == pytest.approx(want, abs=0.04)
        seen += 0.2 < want < 0.8
    assert seen > 5
    assert (
        swapped(pool(donor), 0, Sample(sample.image, boxes=sample.boxes), BOX_SOURCE="gt_box", MASK="saliency").mask
        is None
    )


def test_without_an_object_a_crop_of_the_whole_image_has_no_mask() -> None:
    empty = coordinates()
    empty.saliency = empty.graded = torch.zeros(96, 128, dtype=torch.uint8)
    bare = Sample(coordinates().image)
    boxless = Sample(coordinates().image, boxes=torch.zeros(0, 4))
    for sample, keys in (
        (empty, {}),
        (bare, {}),
        (boxless, {"BOX_SOURCE": "gt_box"}),
        (bare, {"BOX_SOURCE": "maxsum"}),
    ):
        view = swapped(pool(plain(1)), 3, sample, **keys)
        assert view.mask is None and (view.image[2] == 100).all() and view.geometry.shown is None
        assert (float(view.extra["pasted"]), float(view.extra["paste_refused"])) == (0, 1)
        assert view.extra["paste_box"].tolist() == [0, 0, 0, 0]


def test_a_background_without_an_object_vanishes_altogether() -> None:
    donor = plain(1)
    donor.saliency = donor.graded = torch.zeros(96, 128, dtype=torch.uint8)
    view = swapped(pool(donor))
    assert view.extra["paste_box"].tolist() == [0, 0, 32, 32] and (view.mask == 255).all()  # type: ignore[union-attr]
    assert view.geometry.box == view.geometry.shown


def test_off_is_random_resized_crop_bit_for_bit() -> None:
    sample = with_map(BOX)
    for index in range(12):
        base, off = (
            augment(sample, build_pipelines(make_cfg([[crop, "ColorJitter", "RandomFlip"]] * 2)), Streams(0, 0, index))
            for crop in ("RandomResizedCrop", {"SaliencySwap": {"PROB": 0.0}})
        )
        for a, b in zip(base, off, strict=True):
            assert torch.equal(a.image, b.image) and torch.equal(a.mask, b.mask) and a.geometry == b.geometry  # type: ignore[arg-type]
    (pipeline,) = build_pipelines(make_cfg([[{"SaliencySwap": {"PROB": 0.0}}]]))
    assert not pipeline.needs and not pipeline.donor_sets


def test_probability_and_independence_of_views() -> None:
    sample, donors = with_map(BOX), Donors({"train": SampleList([with_map(BOX, i, i) for i in range(5)])})
    pipelines = build_pipelines(make_cfg([[{"SaliencySwap": {"PROB": 0.3, "MODE": "other"}}]] * 2))
    done = np.array(
        [[float(v.extra["pasted"]) for v in augment(sample, pipelines, Streams(0, 0, i), donors)] for i in range(600)]
    )
    assert np.abs(done.mean(0) - 0.3).max() < 0.075 and abs((done[:, 0] * done[:, 1]).mean() - 0.09) < 0.05


def test_views_of_swaps_make_batches() -> None:
    donors = pool(plain(1))
    pipelines = build_pipelines(make_cfg([["SaliencySwap", "RandomFlip"], ["RandomResizedCrop"]]))
    rows = [augment(coordinates(), pipelines, Streams(0, 0, i), donors) for i in range(3)]
    views = collate([MappedImage(i, -1, "a.jpg", row) for i, row in enumerate(rows)])
    assert views.extra["paste_box"].shape == (3, 2, 4) and views.geometry.shown is not None
    part = views.rows(1, 3).to("cpu")
    assert isinstance(part, Views) and part.geometry.shown is not None
    assert torch.equal(part.geometry.shown, views.geometry.shown[1:])
    # Nothing outside of the rectangle is shared with the other view.
    outside = views.masks[0] == 0  # type: ignore[index]
    assert views.overlap(0, 1, (32, 32))[outside].max() < 1e-5


def test_boxes_of_annotations_are_clipped_and_the_largest_is_taken() -> None:
    size = (96, 128)
    boxes = np.array([[10.5, 10.2, 30.1, 30.9], [100, 60, 500, 500], [90, 40, 80, 20]], dtype=np.float32)
    assert largest_box(boxes, size) == (100, 60, 128, 96)
    assert largest_box(boxes[:1], size) == (10, 10, 31, 31)
    assert largest_box(boxes[2:], size) == (80, 20, 90, 40)  # swapped corners
    assert largest_box(np.array([[200.0, 0, 300, 50]]), size) is None  # outside
    assert largest_box(np.array([[3.0, 3, 6, 6]]), size) is None  # below 16 px
    assert largest_box(np.zeros((0, 4)), size) is None


def test_boxes_of_reduced_maps_are_in_px_of_the_image() -> None:
    sample = make_sample(mask=box_mask(48, 64, (15, 10, 45, 35)))
    for source in ("threshold_cc", "maxsum"):
        assert object_box(sample, source) == BOX


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"PROB": -1.0}, "SALIENCY_SWAP.PROB is -1.0; expected a probability"),
        ({"MODE": "swap"}, "SALIENCY_SWAP.MODE is 'swap'.* choices: auto, same, other"),
        ({"BOX_SOURCE": "gt"}, "BOX_SOURCE is 'gt'.*gt_box"),
        ({"MASK": "box"}, "MASK is 'box'.* choices: rect, saliency"),
        ({"LAMBDA": 0.0}, "LAMBDA is 0.0; expected a share above 0, up to 1"),
        ({"BETA": 1.1}, "BETA is 1.1; expected a share above 0, up to 1"),
        ({"BACKGROUND_SETS": []}, "BACKGROUND_SETS is empty"),
        (
            {"BACKGROUND_SETS": ["coco_2017_train"]},
            "BACKGROUND_SETS names the donors 'coco_2017_train'; expected train",
        ),
        ({"MODE": "same", "BACKGROUND_SETS": ["dataset:x"]}, "needs the box of every background's own object"),
    ],
)
def test_values_that_cannot_work_name_their_key(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_pipelines(make_cfg([["SaliencySwap"]], SALIENCY_SWAP=keys))


def test_places_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="has SaliencySwap after RandomFlip; SaliencySwap needs the whole image"):
        build_pipelines(make_cfg([["RandomFlip", "SaliencySwap"]]))
    with pytest.raises(ConfigError, match="has CopyPaste after SaliencySwap"):
        build_pipelines(make_cfg([["SaliencySwap", "CopyPaste"]]))
    with pytest.raises(ConfigError, match="views of 4 px; expected at least 8"):
        build_pipelines(make_cfg([["SaliencySwap"]], 4))
    (pipeline,) = build_pipelines(make_cfg([["CopyPaste", "SaliencySwap"]]))
    assert [type(step).__name__ for step in pipeline.steps] == ["CopyPaste", "SaliencySwap"]
    donors = Donors({"dataset:x": SampleList([plain(0)])})
    with pytest.raises(ConfigError, match="needs boxes, but the backgrounds of 'dataset:x' have none"):
        swapped(donors, MODE="same", BOX_SOURCE="gt_box", BACKGROUND_SETS=["dataset:x"])
