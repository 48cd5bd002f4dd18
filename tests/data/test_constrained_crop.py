"""The saliency-constrained crop against slow counting, statistics and its edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.augment import box_mask, make_cfg, make_sample
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from ssl_loc.data.augmenters import Context, augment, build_pipelines
from ssl_loc.data.augmenters.base import Augmenter
from ssl_loc.data.augmenters.build import Pipeline
from ssl_loc.data.augmenters.constrained_crop import SaliencyConstrainedCrop
from ssl_loc.data.augmenters.crops import CropRange, RandomResizedCrop, draw_proposals
from ssl_loc.data.augmenters.gauss_sampler import draw_gauss_proposals, enlarged_box
from ssl_loc.data.augmenters.summed_area import SummedArea
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import ConfigError


def crop_of(augmenter: Augmenter, sample: Sample, index: int = 0) -> View:
    return augmenter(View.whole(sample), Streams(0, 0, index), Context(sample))


def counted(mask: np.ndarray, box: tuple[float, ...]) -> float:
    x1, y1, x2, y2 = (int(v) for v in box)
    return float(mask[y1:y2, x1:x2].astype(np.int64).sum())


@pytest.mark.parametrize("depth", ["int32", "float64"])
def test_coverage_equals_counting(depth: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if depth == "float64":
        monkeypatch.setattr("ssl_loc.data.augmenters.summed_area._INT32_LIMIT", 0)
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (45, 61), dtype=np.uint8)
    area = SummedArea(mask, (45, 61))
    assert area.table.dtype == np.dtype(depth)
    boxes, fits = draw_proposals(rng, 200, 45, 61, CropRange())
    boxes = boxes[fits]
    within = np.array([10, 5, 40, 44])
    for box, whole, part in zip(boxes, area.coverage(boxes), area.coverage(boxes, within), strict=True):
        assert whole == pytest.approx(counted(mask, box) / mask.sum(dtype=np.int64))
        assert area.coverage_of(tuple(box.tolist())) == pytest.approx(whole)
        low, high = np.maximum(box[:2], within[:2]), np.minimum(box[2:], within[2:])
        common = counted(mask, (*low, *high)) if (high > low).all() else 0.0
        assert part == pytest.approx(common / counted(mask, tuple(within)))


def test_bounds_and_centroid() -> None:
    area = SummedArea(box_mask(40, 60, (10, 5, 31, 16)).numpy(), (40, 60))
    assert area.bounding_box() == (10, 5, 31, 16)
    assert area.centroid() == pytest.approx((20.0, 10.0))
    # The same map at 1/4 of a larger image.
    large = SummedArea(box_mask(40, 60, (10, 5, 31, 16)).numpy(), (160, 240))
    assert large.bounding_box() == (40, 20, 124, 64)
    assert large.centroid() == pytest.approx((20.5 * 4 - 0.5, 10.5 * 4 - 0.5))


@pytest.mark.parametrize("mask_box", [(60, 40, 70, 50), (0, 0, 128, 96), (0, 0, 6, 6)])
def test_phi_0_is_random_resized_crop_bit_for_bit(mask_box: tuple[int, int, int, int]) -> None:
    plain, constrained = RandomResizedCrop(size=32), SaliencyConstrainedCrop(phi=0.0, size=32)
    for sample in (
        make_sample(mask=box_mask(96, 128, mask_box)),
        make_sample(20, 300, box_mask(20, 300, (1, 2, 9, 8))),
        make_sample(),
    ):
        for index in range(25):
            a, b = crop_of(plain, sample, index), crop_of(constrained, sample, index)
            assert a.geometry == b.geometry and (a.image == b.image).all()
            assert a.mask is b.mask is None or (a.mask == b.mask).all()  # type: ignore[union-attr]


def centred_mask(height: int, width: int, share: float) -> torch.Tensor:
    w, h = round(width * share**0.5), round(height * share**0.5)
    x, y = (width - w) // 2, (height - h) // 2
    return box_mask(height, width, (x, y, x + w, y + h))


@pytest.mark.parametrize(("phi", "expected"), [(0.2, 0.93), (0.5, 0.77), (0.8, 0.54)])
def test_acceptance_rate_of_one_candidate(phi: float, expected: float) -> None:
    """Rates measured with other code: one uniform proposal of scale (.08, 1), a centred mask of 20% of the image."""
    area = SummedArea(centred_mask(480, 640, 0.2).numpy(), (480, 640))
    boxes, fits = draw_proposals(np.random.default_rng(0), 20000, 480, 640, CropRange((0.08, 1.0)))
    rate = (area.coverage(boxes[fits]) >= phi).mean()
    assert rate == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize("phi", [0.2, 0.5, 0.8])
def test_acceptance_rate_equals_torchvisions_crops_counted(phi: float) -> None:
    mask = centred_mask(120, 160, 0.2).numpy()
    torch.manual_seed(0)
    drawn = [TorchvisionCrop.get_params(torch.zeros(3, 120, 160), [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(6000)]
    peer = np.mean([counted(mask, (x, y, x + w, y + h)) >= phi * mask.sum(dtype=np.int64) for y, x, h, w in drawn])
    boxes, fits = draw_proposals(np.random.default_rng(0), 20000, 120, 160, CropRange())
    rate = (SummedArea(mask, (120, 160)).coverage(boxes[fits]) >= phi).mean()
    assert rate == pytest.approx(peer, abs=0.02)


@pytest.mark.parametrize("sampler", ["uniform", "gauss"])
@pytest.mark.parametrize("mask_box", [(50, 40, 80, 60), (0, 0, 12, 12), (64, 0, 66, 96)])
def test_met_crops_cover_the_mask(sampler: str, mask_box: tuple[int, int, int, int]) -> None:
    sample = make_sample(mask=box_mask(96, 128, mask_box))
    crop = SaliencyConstrainedCrop(phi=0.6, sampler=sampler, size=16)
    assert sample.saliency is not None
    mask = sample.saliency.numpy()
    for index in range(40):
        geometry = crop_of(crop, sample, index).geometry
        covered = counted(mask, geometry.box) / mask.sum(dtype=np.int64)
        assert geometry.constraint_met == (covered >= 0.6)
        if sampler == "uniform" and mask_box != (0, 0, 12, 12):
            # In the corner about one proposal in twenty covers enough, so 50 can all miss it.
            assert geometry.constraint_met


def test_first_good_proposal_is_taken() -> None:
    """Among the proposals of the stream, in order: a slow re-count."""
    sample = make_sample(mask=box_mask(96, 128, (0, 70, 30, 96)))
    assert sample.saliency is not None
    mask = sample.saliency.numpy()
    for index in range(30):
        boxes, fits = draw_proposals(Streams(0, 0, index)("crop"), 50, 96, 128, CropRange())
        share = [counted(mask, b) / mask.sum(dtype=np.int64) if f else -1.0 for b, f in zip(boxes, fits, strict=True)]
        good = [k for k, s in enumerate(share) if s >= 0.5]
        geometry = crop_of(SaliencyConstrainedCrop(phi=0.5, size=8), sample, index).geometry
        want = good[0] if good else int(np.argmax(share))
        assert geometry.box == tuple(float(v) for v in boxes[want]) and geometry.constraint_met == bool(good)


def test_threshold_is_lowered_for_large_masks() -> None:
    crop = SaliencyConstrainedCrop(phi=0.5, size=8, ratio=(1.0, 1.0))
    full = SummedArea(np.full((100, 100), 255, np.uint8), (100, 100))
    half = SummedArea(box_mask(100, 100, (0, 0, 100, 50)).numpy(), (100, 100))
    # The smallest crop, .2 of the image, is a square of sqrt(2000) px; rounding takes up to half a pixel per side.
    smallest = (2000**0.5 - 0.5) ** 2 / 10000
    assert crop.threshold(full) == pytest.approx(smallest) and crop.threshold(half) == pytest.approx(2 * smallest)
    small_mask = SummedArea(centred_mask(100, 100, 0.3).numpy(), (100, 100))
    assert crop.threshold(small_mask) == 0.5 and SaliencyConstrainedCrop(phi=0.2).threshold(half) == 0.2


@pytest.mark.parametrize("reduce", [1, 4])
@pytest.mark.parametrize("size", [(48, 64), (96, 96), (427, 640), (100, 130)])
def test_every_crop_passes_on_a_full_mask(size: tuple[int, int], reduce: int) -> None:
    """phi .2 and crops of .2 of the image: rounded to whole pixels (or cells) some are smaller than .2."""
    cells = tuple(-(-side // reduce) for side in size)
    area = SummedArea(np.full(cells, 255, np.uint8), size)
    boxes, fits = draw_proposals(np.random.default_rng(0), 20000, *size, CropRange())
    coverage = area.coverage(boxes[fits])
    crop = SaliencyConstrainedCrop(phi=0.2)
    assert (coverage < 0.2).any(), "the plain minimum of the paper fails some of them"
    assert (coverage >= crop.threshold(area)).all()
    assert crop.choose(np.random.default_rng(3), *size, area)[1]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("phi", [0.0, 0.2, 0.5, 0.8])
def test_rounding_changes_no_other_decision(phi: float, share: float) -> None:
    """Against min(phi, .2 / salient share): equal where phi is the smaller; else within one pixel row and column."""
    area = SummedArea(centred_mask(120, 160, share).numpy(), (120, 160))
    plain, threshold = min(phi, 0.2 / area.area_frac), SaliencyConstrainedCrop(phi=phi).threshold(area)
    boxes, fits = draw_proposals(np.random.default_rng(0), 20000, 120, 160, CropRange())
    coverage = area.coverage(boxes[fits])
    changed = coverage[(coverage >= threshold) != (coverage >= plain)]
    if phi < 0.19 / area.area_frac:
        assert threshold == plain == phi
    # A crop of .2 * 120 * 160 = 3840 px has sides of 54 to 72 px: half a pixel on each is at most 1.7 % of its area.
    assert plain * 0.983 <= threshold <= plain and len(changed) < 0.02 * len(coverage)
    assert (changed >= plain * 0.983).all() and (changed < plain).all()


@pytest.mark.parametrize("attempts", [1, 3, 7, 12])
def test_only_as_many_proposals_as_asked_for_are_tested(attempts: int) -> None:
    """A mask in the corner that few proposals cover: the best of the first ``attempts`` is taken, and no later one."""
    mask = box_mask(96, 128, (0, 0, 12, 12))
    sample = make_sample(mask=mask)
    limits, late = CropRange(), 0
    for index in range(60):
        boxes, fits = draw_proposals(Streams(0, 0, index)("crop"), max(attempts, 10), 96, 128, limits)
        share = [counted(mask.numpy(), b) / mask.numpy().sum() if f else -1.0 for b, f in zip(boxes, fits, strict=True)]
        good = [k for k, s in enumerate(share) if s >= 0.6]
        late += bool(good and good[0] >= attempts)
        if fits[:attempts].any():
            tested = share[:attempts]
            want = good[0] if good and good[0] < attempts else int(np.argmax(tested))
        else:  # what RandomResizedCrop takes
            want = int(fits.argmax())
        geometry = crop_of(SaliencyConstrainedCrop(phi=0.6, attempts=attempts, size=8), sample, index).geometry
        assert geometry.box == tuple(float(v) for v in boxes[want])
        assert geometry.constraint_met == (share[want] >= 0.6)
    assert late > 2 or attempts == 12


@pytest.mark.parametrize("attempts", [1, 2, 6, 50])
def test_phi_0_is_random_resized_crop_with_any_number_of_attempts(attempts: int) -> None:
    plain = RandomResizedCrop(size=8, scale=(0.7, 1.0))
    constrained = SaliencyConstrainedCrop(phi=0.0, attempts=attempts, size=8, scale=(0.7, 1.0))
    sample = make_sample(40, 90, box_mask(40, 90, (3, 3, 12, 12)))
    for index in range(200):
        assert crop_of(plain, sample, index).geometry == crop_of(constrained, sample, index).geometry


def test_full_mask_passes_with_the_first_crop() -> None:
    sample = make_sample(mask=torch.full((96, 128), 255, dtype=torch.uint8))
    for index in range(200):
        view = crop_of(SaliencyConstrainedCrop(phi=0.9, size=16), sample, index)
        assert view.geometry.constraint_met and view.mask is not None and (view.mask == 255).all()
        assert view.geometry == crop_of(RandomResizedCrop(size=16), sample, index).geometry


def test_panorama_that_no_crop_can_cover_takes_the_best_and_says_so() -> None:
    sample = make_sample(20, 400, torch.full((20, 400), 255, dtype=torch.uint8))
    assert sample.saliency is not None
    sample.saliency[:, 30:370] = 0
    view = crop_of(SaliencyConstrainedCrop(phi=0.8, size=16), sample)
    # A crop is at most 4/3 * 20 px wide, so it never holds more than one end (half of the mask).
    assert not view.geometry.constraint_met
    boxes, fits = draw_proposals(Streams(0, 0, 0)("crop"), 50, 20, 400, CropRange())
    best = max([counted(sample.saliency.numpy(), b) for b, f in zip(boxes, fits, strict=True) if f] or [0.0])
    assert counted(sample.saliency.numpy(), view.geometry.box) >= best


def test_no_mask_or_empty_mask_is_not_constrained() -> None:
    crop, plain = SaliencyConstrainedCrop(phi=0.9, sampler="gauss", size=16), RandomResizedCrop(size=16)
    bare = make_sample()
    view = crop_of(crop, bare)
    assert view.mask is None and view.geometry == crop_of(plain, bare).geometry and view.geometry.constraint_met
    empty = make_sample(mask=torch.zeros(96, 128, dtype=torch.uint8))
    view = crop_of(crop, empty)
    assert view.mask is not None and view.geometry.constraint_met
    assert view.geometry == crop_of(plain, empty).geometry


@pytest.mark.parametrize("sampler", ["uniform", "gauss"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (5, 300)])
def test_tiny_images(sampler: str, size: tuple[int, int]) -> None:
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[-1, -1] = 255
    view = crop_of(SaliencyConstrainedCrop(sampler=sampler, size=8), make_sample(*size, mask))
    x1, y1, x2, y2 = view.geometry.box
    assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0] and view.image.shape == (3, 8, 8)


def test_second_constraint_covers_the_part_in_the_first_crop() -> None:
    sample = make_sample(mask=box_mask(96, 128, (10, 10, 120, 90)))
    assert sample.saliency is not None
    mask = sample.saliency.numpy()
    shares: dict[str, list[float]] = {"ref": [], "all": []}
    for second in shares:
        crop = SaliencyConstrainedCrop(phi=0.5, second_constraint=second, size=8)
        for index in range(60):
            first, view = augment(sample, [Pipeline([crop]), Pipeline([crop])], Streams(0, 0, index))
            a, b = first.geometry.box, view.geometry.box
            common = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
            inside = counted(mask, common) if common[2] > common[0] and common[3] > common[1] else 0.0
            if view.geometry.constraint_met:
                shares[second].append(inside / counted(mask, a))
    phi_eff = crop.threshold(SummedArea(mask, (96, 128)))
    assert min(shares["all"]) >= phi_eff > min(shares["ref"])


def test_map_is_summed_once_for_both_views(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = SummedArea.__init__

    def count(self: SummedArea, *args: Any) -> None:
        made.append(1)
        real(self, *args)

    monkeypatch.setattr(SummedArea, "__init__", count)
    sample = make_sample(mask=box_mask(96, 128, (10, 10, 60, 60)))
    crop = SaliencyConstrainedCrop(size=8)
    augment(sample, [Pipeline([crop]), Pipeline([crop])], Streams(0, 0, 0))
    assert len(made) == 1


def test_second_constraint_needs_the_whole_image_not_the_first_place() -> None:
    """What leaves every pixel in its place may come before; what cuts or moves is refused at build."""
    sample = make_sample(mask=box_mask(96, 128, (10, 10, 120, 90)))
    sample.graded = sample.saliency
    keys = {"SECOND_CONSTRAINT": "all", "PHI": 0.5}
    plain = [["SaliencyConstrainedCrop"]] * 2
    for before in (["ColorJitter"], [{"CopyPaste": {"PROB": 1.0}}], ["CopyPaste", "ColorJitter"]):
        mixed = [[*before, "SaliencyConstrainedCrop"]] * 2
        for index in range(5):
            views = [
                augment(sample, build_pipelines(make_cfg(steps, CONSTRAINED_CROP=keys)), Streams(0, 0, index))
                for steps in (plain, mixed)
            ]
            assert [view.geometry for view in views[0]] == [view.geometry for view in views[1]]
    for before in ("RandomFlip", "RandomResizedCrop"):
        cfg = make_cfg([[before, "SaliencyConstrainedCrop"]] * 2, CONSTRAINED_CROP=keys)
        words = f"SaliencyConstrainedCrop after {before}; .* whole image .as AUGMENT.CONSTRAINED_CROP.SECOND_CONSTRAINT"
        with pytest.raises(ConfigError, match=words):
            build_pipelines(cfg)
        build_pipelines(make_cfg([[before, "SaliencyConstrainedCrop"]] * 2))


def test_small_map_gives_nearly_the_same_choice() -> None:
    full = box_mask(480, 640, (200, 120, 420, 340))
    small = full[2::4, 2::4].contiguous()
    crop = SaliencyConstrainedCrop(phi=0.5, size=8)
    a, b = make_sample(480, 640, full), make_sample(480, 640, small)
    same = [crop_of(crop, a, i).geometry == crop_of(crop, b, i).geometry for i in range(60)]
    assert np.mean(same) > 0.95


def test_gauss_proposals_gather_around_the_mask() -> None:
    u = np.random.default_rng(0)
    boxes, fits = draw_gauss_proposals(u, 4000, 300, 400, CropRange((0.2, 0.3)), (20.0, 280.0))
    boxes = boxes[fits]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    # Position in the free range: below the middle in x, above it in y, and not at the ends (sigma is the image side).
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] / (400 - w), boxes[:, 1] / (300 - h)
    assert 0.4 < x.mean() < 0.49 and 0.51 < y.mean() < 0.6


def test_gauss_centres_equal_scipys_truncated_normal() -> None:
    from scipy.stats import truncnorm

    u = np.random.default_rng(1).random((50, 4))
    boxes, _ = draw_gauss_proposals(
        np.random.default_rng(1), 50, 300, 400, CropRange((0.25, 0.25), (1.0, 1.0)), (90, 40)
    )
    side = round((0.25 * 120000) ** 0.5)
    centre = truncnorm.ppf(u[:, 2], (side / 2 - 90) / 400, (400 - side / 2 - 90) / 400, loc=90, scale=400)
    assert (boxes[:, 0] == (centre - side / 2).astype(int)).all()


@pytest.mark.parametrize("bounds", [(30, 20, 90, 60), (0, 40, 128, 50), (60, 0, 64, 96), (127, 95, 128, 96)])
def test_official_fallback_encloses_what_the_ratio_allows(bounds: tuple[int, int, int, int]) -> None:
    for seed in range(50):
        x1, y1, x2, y2 = enlarged_box(np.random.default_rng(seed), bounds, 96, 128, (3 / 4, 4 / 3))
        assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 96
        assert (x2 - x1) <= (y2 - y1) * 4 / 3 + 1 and (y2 - y1) <= (x2 - x1) * 4 / 3 + 1
        if bounds == (30, 20, 90, 60):
            assert x2 >= 90 and y2 >= 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"phi": 1.0}, r"PHI is 1.0; expected a share in \[0, 1\)"),
        ({"sampler": "normal"}, "expected uniform or gauss"),
        ({"second_constraint": "key"}, "expected ref or all"),
        ({"attempts": 0}, "ATTEMPTS is 0"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SaliencyConstrainedCrop(**arguments)


def test_pipeline_asks_for_saliency() -> None:
    plain, constrained = build_pipelines(make_cfg([["RandomResizedCrop"], ["SaliencyConstrainedCrop"]]))
    assert plain.needs == frozenset() and constrained.needs == {"saliency"}
