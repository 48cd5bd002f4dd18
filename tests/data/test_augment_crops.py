"""Random resized crop, resize of image and map, geometry and flip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.augment import box_mask, make_cfg, make_sample, smooth_image
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from ssl_loc.data.augmenters import Context, augment, build_pipelines
from ssl_loc.data.augmenters.crops import (
    CropRange,
    RandomResizedCrop,
    centre_box,
    crop_view,
    draw_proposals,
    draw_rest,
    draw_single,
)
from ssl_loc.data.augmenters.flip import RandomFlip
from ssl_loc.data.augmenters.resize import crop_resize_image, crop_resize_mask
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View
from ssl_loc.utils.errors import ConfigError


def test_proposals_follow_torchvisions_distribution() -> None:
    height, width, count = 300, 400, 4000
    boxes, fits = draw_proposals(np.random.default_rng(0), count, height, width, CropRange())
    ours = boxes[fits].astype(float)
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    drawn = [TorchvisionCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array([(x, y, x + w, y + h) for y, x, h, w in drawn], float)

    def numbers(b: np.ndarray) -> np.ndarray:
        w, h = b[:, 2] - b[:, 0], b[:, 3] - b[:, 1]
        rows = [w * h / (height * width), np.log(w / h), b[:, 0] / width, b[:, 1] / height]
        return np.array([np.quantile(row, [0.1, 0.5, 0.9]) for row in rows])

    assert np.abs(numbers(ours) - numbers(theirs)).max() < 0.03


def test_more_proposals_do_not_change_the_first() -> None:
    few, _ = draw_proposals(np.random.default_rng(3), 10, 90, 70, CropRange())
    many, _ = draw_proposals(np.random.default_rng(3), 50, 90, 70, CropRange())
    assert (few == many[:10]).all()


@pytest.mark.parametrize("size", [(90, 70), (1, 9), (20, 300), (480, 640)])
def test_singles_and_rest_are_the_proposals(size: tuple[int, int]) -> None:
    for seed in range(50):
        want, fits = draw_proposals(np.random.default_rng(seed), 12, *size, CropRange())
        rng = np.random.default_rng(seed)
        singles = [draw_single(rng, *size, CropRange()) for _ in range(seed % 4)]
        for single, row, fit in zip(singles, want, fits, strict=False):
            assert (single is not None) == fit and (single is None or single == tuple(row))
        boxes, fitting = draw_rest(rng, 12, *size, CropRange(), singles)
        assert (fitting == fits).all() and (boxes[fits] == want[fits]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 500), (500, 3), (40, 2000), (2000, 40)])
def test_crops_of_odd_images_stay_inside(size: tuple[int, int]) -> None:
    height, width = size
    crop = RandomResizedCrop(size=8)
    for seed in range(40):
        x1, y1, x2, y2 = crop.draw(np.random.default_rng(seed), height, width)
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert x2 - x1 >= min(2, width) and y2 - y1 >= min(2, height)
    sample = make_sample(height, width, torch.full(size, 255, dtype=torch.uint8))
    view = crop(View.whole(sample), Streams(0, 0, 0), Context(sample))
    assert view.image.shape == (3, 8, 8) and view.mask is not None and (view.mask == 255).all()


@pytest.mark.parametrize("size", [(40, 400), (400, 40), (30, 50)])
def test_centre_box_is_torchvisions_fallback(size: tuple[int, int]) -> None:
    height, width = size
    # Scale 30 never fits, so torchvision must take its fallback.
    y, x, h, w = TorchvisionCrop.get_params(torch.zeros(3, height, width), [30.0, 31.0], [3 / 4, 4 / 3])
    assert centre_box(height, width, (3 / 4, 4 / 3)) == (x, y, x + w, y + h)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_is_antialiased(interpolation: str) -> None:
    image = smooth_image(97, 131)
    box = (11, 7, 120, 90)
    got = crop_resize_image(image, box, (24, 32), interpolation).float()
    crop = image[:, 7:90, 11:120].float()[None]
    want = F.interpolate(crop, (24, 32), mode=interpolation, antialias=True)[0].clamp(0, 255)
    assert (got - want).abs().max() <= 1.01
    assert got.dtype == torch.float32 and got.shape == (3, 24, 32)


def test_map_of_image_size_is_area_averaged() -> None:
    mask = box_mask(64, 80, (20, 10, 50, 40))
    got = crop_resize_mask(mask[None], (16, 8, 80, 56), (64, 80), (12, 16))
    # 48 x 64 px to 12 x 16 cells: every cell is the mean of 4 x 4 px.
    want = F.avg_pool2d(mask[None, None, 8:56, 16:80].float(), 4)[0]
    assert (got.float() - want).abs().max() <= 0.51


@pytest.mark.parametrize("box", [(0, 0, 640, 480), (33, 21, 507, 399), (401, 300, 639, 479), (6, 5, 11, 9)])
def test_small_map_lies_where_the_image_does(box: tuple[int, int, int, int]) -> None:
    """A map at 1/4 size goes through any box to the place where the full map goes, to about a view pixel."""
    x = torch.arange(640).float() / 640 * 255
    y = torch.arange(480).float()[:, None] / 480 * 255
    for full in (x.expand(480, 640), y.expand(480, 640)):
        small = F.avg_pool2d(full[None, None], 4)[0].round().to(torch.uint8)
        got = crop_resize_mask(small, box, (480, 640), (56, 56)).float()
        want = F.interpolate(full[None, None, box[1] : box[3], box[0] : box[2]], (56, 56), mode="area")[0]
        # A ramp of 255 over the image: half a view pixel and half a map cell are worth this much.
        tolerance = 0.5 * 255 / 56 * max((box[2] - box[0]) / 640, (box[3] - box[1]) / 480) + 0.5 * 255 / 120 + 1
        assert (got - want).abs().max() <= tolerance


@pytest.mark.parametrize("box", [(310, 222, 331, 251), (301, 203, 340, 277), (319, 239, 326, 246)])
def test_edge_of_a_small_map_is_placed_to_a_view_pixel(box: tuple[int, int, int, int]) -> None:
    """A map at 1/4 whose edges lie at x = 320 and y = 240; the boxes start inside a map cell."""
    small = box_mask(120, 160, (80, 60, 160, 120))[None]
    got = crop_resize_mask(small, box, (480, 640), (56, 56))[0].float()
    for profile, edge, low, high in ((got[-1], 320, box[0], box[2]), (got[:, -1], 240, box[1], box[3])):
        crossing = float((profile < 127.5).sum())
        assert abs(crossing - (edge - low) / (high - low) * 56) <= 1.0


def test_map_keeps_its_levels_when_enlarged() -> None:
    got = crop_resize_mask(torch.full((1, 3, 3), 77, dtype=torch.uint8), (0, 0, 2, 2), (12, 12), (9, 9))
    assert (got == 77).all()


@pytest.mark.parametrize("flip_first", [False, True])
def test_geometry_finds_the_pixels_again(flip_first: bool) -> None:
    """A crop of a (flipped) crop: a point of the source is found at to_view(point) in the picture."""
    height, width = 120, 160
    x = torch.arange(width).float().expand(height, width)
    y = torch.arange(height).float()[:, None].expand(height, width)
    sample = make_sample(height, width)
    sample.image = torch.stack([x, y, x * 0]).to(torch.uint8)
    context, streams = Context(sample), Streams(0, 0, 0)
    view = crop_view(View.whole(sample), (20, 10, 140, 110), 60, "bilinear")
    flip = RandomFlip(p=1.0)
    if flip_first:
        view = flip(view, streams, context)
    view = crop_view(view, (6, 9, 46, 39), 30, "bilinear")
    view = flip(view, streams, context)
    geometry = view.geometry
    assert geometry.flip is not flip_first
    points = torch.tensor([[4.5, 5.5], [20.5, 25.5], [27.5, 3.5]])
    source = geometry.to_source(points)
    assert torch.allclose(geometry.to_view(source), points, atol=1e-4)
    for (u, v), (sx, sy) in zip(points.tolist(), source.tolist(), strict=True):
        pixel = view.image[:, int(v), int(u)].float()
        # Pixel i has its centre at i + .5, and its value is i.
        assert abs(float(pixel[0]) - (sx - 0.5)) < 1.5 and abs(float(pixel[1]) - (sy - 0.5)) < 1.5


def test_flip_mirrors_image_mask_and_geometry() -> None:
    sample = make_sample(mask=box_mask(96, 128, (0, 0, 40, 96)))
    view = View.whole(sample)
    flipped = RandomFlip(p=1.0)(view, Streams(0, 0, 0), Context(sample))
    assert (flipped.image == view.image.flip(2)).all()
    assert flipped.mask is not None and (flipped.mask == view.mask.flip(2)).all()  # type: ignore[union-attr]
    assert flipped.geometry.flip and not view.geometry.flip
    assert RandomFlip(p=0.0)(view, Streams(0, 0, 0), Context(sample)) is view


def test_views_are_a_function_of_the_streams_alone() -> None:
    sample = make_sample(mask=box_mask(96, 128, (40, 30, 90, 70)))
    cfg = make_cfg([["SaliencyConstrainedCrop", "RandomFlip"], ["RandomResizedCrop", "ColorJitter", "RandomFlip"]])
    first = augment(sample, build_pipelines(cfg), Streams(7, 2, 5))
    again = augment(sample, build_pipelines(cfg), Streams(7, 2, 5))
    other = augment(sample, build_pipelines(cfg), Streams(7, 3, 5))
    assert all((a.image == b.image).all() and a.geometry == b.geometry for a, b in zip(first, again, strict=True))
    assert first[0].geometry != other[0].geometry
    assert first[0].geometry.box != first[1].geometry.box


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"scale": (0.5, 0.2)}, "SCALE"),
        ({"ratio": (0.0, 1.0)}, "RATIO"),
        ({"interpolation": "area"}, "bilinear, bicubic"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RandomResizedCrop(**arguments)


def test_fixed_crops_have_one_size_and_their_place() -> None:
    sample = make_sample(80, 120)
    centre, anywhere = (p.steps[0] for p in build_pipelines(make_cfg([["CenterCrop"], ["RandomCrop"]])))
    places = []
    for index in range(300):
        assert centre(View.whole(sample), Streams(0, 0, index), Context(sample)).geometry.box == (25, 5, 95, 75)
        x1, y1, x2, y2 = anywhere(View.whole(sample), Streams(0, 0, index), Context(sample)).geometry.box
        assert (x2 - x1, y2 - y1) == (70, 70)
        places.append((x1, y1))
    xs, ys = np.array(places).T
    # Uniform over 0..50 and 0..10.
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (0, 50, 0, 10)
    assert abs(xs.mean() - 25) < 3.5 and abs(ys.mean() - 5) < 0.75
