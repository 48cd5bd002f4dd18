"""Grounding against closed forms, a slow Grad-CAM, and its own promises (same crops for everybody)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.crops import CropBatch, GroundingCrops
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding, similarity_maps
from ssl_loc.modeling import build_method
from ssl_loc.utils.errors import ConfigError, DataError


def half_red(red: float, size: int = 224) -> CropBatch:
    """Left ``red`` share of the picture red, the rest blue; the red part is the mask."""
    edge = round(red * size)
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    image[:, 0, :, :edge], image[:, 2, :, edge:] = 255, 255
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., :edge] = True
    return CropBatch(image, image, mask, mask, ["x"], ["x.png"], torch.zeros(1, 2, 4), torch.ones(1, 2).bool())


class Fake:
    """Weights that hold a ready method."""

    label, device = "fake", torch.device("cpu")

    def __init__(self, method: Any, size: int = 224) -> None:
        self._method, self._size = method, size

    def method(self) -> Any:
        return self._method

    def input_size(self) -> int:
        return self._size


def test_map_of_the_masked_key_in_closed_form(color_method: Any) -> None:
    batch = half_red(3 / 7)
    # k_m = mean of the masked key = (3/7, 0, 0), so G = 3/7 on the three red columns of cells and 0 elsewhere.
    cam = similarity_maps(color_method, batch)
    expected = torch.zeros(1, 7, 7)
    expected[..., :3] = 3 / 7
    torch.testing.assert_close(cam, expected)
    numbers = Grounding().measure(cam, batch.query_mask[:, 0])
    # The edge lies on a cell border, where the bilinear map passes .5 exactly: the object is found to the pixel.
    assert numbers["iou"].tolist() == [1.0]
    assert numbers["pointing"].tolist() == [True]
    assert numbers["zero"].tolist() == [False]
    # Linear ramp of 32 px around the edge: an eighth of a cell of energy (1/8 of 3 columns' worth) lies outside.
    assert numbers["energy"][0] == pytest.approx((3 - 1 / 8) / 3, abs=1e-3)
    assert numbers["mask_share"][0] == pytest.approx(3 / 7)


@pytest.mark.parametrize(("red", "iou"), [(2 / 7, 11 / 224), (3 / 7, 3 / 7), (5 / 7, 160 / 171)])
def test_the_whole_key_also_lights_the_background(color_method: Any, red: float, iou: float) -> None:
    """k = (a, 0, 1 - a): object cells get a, the others 1 - a, and at least half the maximum counts as looked at.

    a = 2/7: the ramp from .4 to 1 passes .5 a sixth of the way, 11 px before the object's edge at 64: 11 / 224.
    a = 3/7: everything is above half: the object's share. a = 5/7: by the same sixth 171 columns, the object has 160.
    """
    batch = half_red(red)
    cam = similarity_maps(color_method, batch, "key")
    assert cam[0, 0, 0] == pytest.approx(red) and cam[0, 0, -1] == pytest.approx(1 - red)
    assert Grounding(pair="key").measure(cam, batch.query_mask[:, 0])["iou"][0] == pytest.approx(iou)


def test_grid_map_compares_at_the_maps_size() -> None:
    cam = torch.zeros(1, 7, 7)
    cam[..., :3] = 1.0
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[..., : 3 * 32 + 15] = True  # covers 15 / 32 of the fourth column: below half, not salient at 7 x 7
    assert Grounding(grid="map").measure(cam, mask)["iou"].tolist() == [1.0]
    mask[..., : 3 * 32 + 16] = True
    assert Grounding(grid="map").measure(cam, mask)["iou"].tolist() == [0.75]


def test_zero_map_scores_zero_and_is_counted() -> None:
    numbers = Grounding().measure(torch.zeros(1, 7, 7), torch.ones(1, 32, 32, dtype=torch.bool))
    assert numbers["iou"].tolist() == [0.0]
    assert numbers["zero"].tolist() == [True]
    assert numbers["pointing"].tolist() == [False]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_equals_a_gradient_through_the_whole_network(tiny_cfg: CfgNode, head: str) -> None:
    tiny_cfg.MODEL.MOCO.HEAD = head
    torch.manual_seed(0)
    method = build_method(tiny_cfg).eval()
    batch = half_red(0.4, 48)
    noise = torch.randint(0, 255, (2, 3, 48, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    batch = replace(batch, query=noise[:1], key=noise[1:])
    with torch.no_grad():
        x = (batch.key.float() - method.pixel_mean) / method.pixel_std * batch.key_mask
        z = method.key_trunk.pooled(method.key_trunk(x))
        km = F.normalize(method.key_head(z), dim=1)
    maps = method.query_trunk((batch.query.float() - method.pixel_mean) / method.pixel_std)
    a = maps["res5"]
    q = F.normalize(method.query_head(a.mean((2, 3))), dim=1)
    alpha = torch.autograd.grad((q * km).sum(), a)[0].sum((2, 3))
    expected = F.relu((alpha[:, :, None, None] * a).sum(1)).detach()
    before = {name: t.clone() for name, t in method.state_dict().items()}
    torch.testing.assert_close(similarity_maps(method, batch), expected, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(t, before[name]) for name, t in method.state_dict().items())


def test_protocol_end_to_end(photos: tuple[Path, Path], color_method: Any) -> None:
    images, masks = photos
    data = EvalData(f"folder:{images}", f"folder:{masks}")
    result = Grounding().__call__(Fake(color_method), data)  # type: ignore[arg-type]
    assert (result.protocol, result.version) == ("grounding", "1")
    assert result.details["images"] == 5 and result.details["images_without_mask"] == 1
    assert result.metrics["iou_mean"] > 0.85  # red is found up to the coarseness of the 7 x 7 map
    assert result.metrics["pointing_game"] == 1.0
    assert sum(result.details["histogram"]["counts"]) == 5
    assert len(result.details["per_image"]["iou"]) == 5
    mean = sum(result.details["per_image"]["iou"]) / 5
    assert result.metrics["iou_mean"] == pytest.approx(mean, abs=1e-4)


def test_crops_belong_to_the_image_not_to_its_place(photos: tuple[Path, Path]) -> None:
    images, masks = photos
    spec, where = f"folder:{images}", f"folder:{masks}"
    whole = next(GroundingCrops(EvalData(spec, where), size=64).batches(10))
    first = next(GroundingCrops(EvalData(spec, where, limit=2), size=64).batches(1))
    assert torch.equal(first.query[0], whole.query[0]) and torch.equal(first.key[0], whole.key[0])
    crops = GroundingCrops(EvalData(spec, where, limit=3), size=64)
    every = GroundingCrops(EvalData(spec, where), size=64).records
    assert [r.key for r in crops.records] == [every[i].key for i in (0, (len(every) - 1) // 2, len(every) - 1)]
    (images / "0.png").rename(images / "00.png")
    (masks / "0.png").rename(masks / "00.png")
    renamed = next(GroundingCrops(EvalData(spec, where), size=64).batches(10))
    assert torch.equal(renamed.boxes[1:], whole.boxes[1:])  # the others did not notice
    assert not torch.equal(renamed.boxes[0], whole.boxes[0])
    other = next(GroundingCrops(EvalData(spec, where), size=64, seed=1).batches(10))
    assert not torch.equal(other.boxes[1:], whole.boxes[1:])


def test_crops_cover_the_mask_and_are_not_flipped(photos: tuple[Path, Path]) -> None:
    images, masks = photos
    crops = GroundingCrops(EvalData(f"folder:{images}", f"folder:{masks}"), size=64)
    for batch in crops.batches(2):
        assert bool(batch.met.all())
        assert bool(batch.query_mask.flatten(1).any(1).all())
        # The object is on the left of every picture; a flip would put it on the right of some crop.
        share = batch.query_mask.float().mean((1, 2))
        assert bool((share[:, 0] >= share[:, -1]).all())
    assert crops.unmet == 0 and crops.skipped == 1


def test_sample_is_spread_and_skips_empty_masks(photos: tuple[Path, Path]) -> None:
    images, masks = photos
    crops = GroundingCrops(EvalData(f"folder:{images}", f"folder:{masks}"), size=64)
    assert len(crops.sample(3).names) == 3
    assert sorted(crops.sample(100).names) == ["0", "1", "2", "3", "4"]


def test_what_cannot_be_evaluated_is_said(photos: tuple[Path, Path], color_method: Any) -> None:
    images, masks = photos
    with pytest.raises(DataError, match="no boxes or masks.*folder:DIR"):
        GroundingCrops(EvalData(f"folder:{images}"), size=64)
    with pytest.raises(DataError, match="has no map for any image"):
        GroundingCrops(EvalData(f"folder:{images}", f"folder:{images / '..'}"), size=64)
    with pytest.raises(ConfigError, match="ground_truth or folder:DIR"):
        GroundingCrops(EvalData(f"folder:{images}", str(masks)), size=64)
    with pytest.raises(ConfigError, match="choices: input, map"):
        Grounding(grid="7")
    with pytest.raises(ConfigError, match="'masked_key' or 'key'"):
        similarity_maps(color_method, half_red(0.5), "keys")
    for path in masks.glob("[0-4].png"):
        path.unlink()
    with pytest.raises(DataError, match="no image with a non-empty mask"):
        Grounding()(Fake(color_method), EvalData(f"folder:{images}", f"folder:{masks}"))  # type: ignore[arg-type]


def test_equal_photos_of_other_names_have_other_crops(photos: tuple[Path, Path]) -> None:
    for folder in photos:
        (folder / "6.png").write_bytes((folder / "0.png").read_bytes())
    crops = GroundingCrops(EvalData(f"folder:{photos[0]}", f"folder:{photos[1]}"), size=64)
    batch = next(crops.batches(10))
    assert batch.names == ["0", "1", "2", "3", "4", "6"]
    assert not torch.equal(batch.boxes[0], batch.boxes[-1])
