"""What the torchvision engine learns from and predicts: pixels, boxes and masks against hand-made numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_loc.transfer.run_lengths import decode_run_lengths
from ssl_loc.transfer.sampling import Slot
from ssl_loc.transfer.torchvision_engine.mapper import Mapper, resized
from ssl_loc.transfer.torchvision_engine.masks import crop_bitmasks, paste_masks, rasterise_in_box
from ssl_loc.transfer.torchvision_engine.predict import to_original
from ssl_loc.utils.errors import DataError


def test_mask_target_is_the_polygon_in_its_box() -> None:
    """The left half of a box is a rectangle: exactly the left half of the target."""
    polygon = np.array([10.0, 20, 20, 20, 20, 60, 10, 60])
    target = rasterise_in_box([polygon], [10, 20, 30, 60], 28)
    assert target[:, :14].all() and not target[:, 14:].any()
    # Two polygons are one object; what lies outside of the box is cut.
    right = np.array([25.0, 0, 99, 0, 99, 99, 25, 99])
    both = rasterise_in_box([polygon, right], [10, 20, 30, 60], 28)
    assert both[:, :14].all() and both[:, 21:].all() and not both[:, 14:21].any()
    # A triangle covers half of its box.
    triangle = rasterise_in_box([np.array([0.0, 0, 40, 0, 0, 40])], [0, 0, 40, 40], 28)
    assert abs(triangle.mean() - 0.5) < 0.03
    assert not rasterise_in_box([np.array([0.0, 0, 4, 0, 0, 4])], [50, 50, 50, 50], 28).any()


def test_pasted_masks_fill_their_boxes() -> None:
    boxes = torch.tensor([[4.0, 2.0, 12.0, 10.0], [-3.0, 5.0, 5.0, 30.0]])
    masks = torch.ones(2, 28, 28)
    masks[0, :, 14:] = 0
    out = paste_masks(masks, boxes, (20, 16))
    expected = torch.zeros(2, 20, 16, dtype=torch.bool)
    expected[0, 2:10, 4:8] = True
    expected[1, 5:20, 0:5] = True
    assert torch.equal(out, expected)


def test_bitmaps_in_their_boxes() -> None:
    """Half a cell covered is covered; a box that looks at half of the bitmap sees that half."""
    bitmaps = torch.zeros(2, 20, 30, dtype=torch.bool)
    bitmaps[0, 4:12, 6:10] = True
    bitmaps[1] = True
    boxes = torch.tensor([[6.0, 4, 14, 12], [0, 0, 30, 20], [6.0, 4, 14, 12], [8.0, 4, 12, 12]])
    out = crop_bitmasks(bitmaps, boxes, torch.tensor([0, 1, 1, 0]), 4)
    left = torch.tensor([True, True, False, False]).expand(4, 4)
    assert torch.equal(out[0], left) and out[1].all() and out[2].all() and torch.equal(out[3], left)
    # Cells of 5 x 1 px of a bitmap that ends within them: 2 of 5 px are too little, 3 of 5 px are enough.
    for columns, covered in ((2, False), (3, True)):
        part = torch.zeros(1, 4, 20, dtype=torch.bool)
        part[0, :, : 5 + columns] = True
        (found,) = crop_bitmasks(part, torch.tensor([[0.0, 0, 20, 4]]), torch.tensor([0]), 4)
        assert found.tolist() == [[True, covered, False, False]] * 4


def test_run_lengths_of_both_kinds() -> None:
    """Counts go down the columns, beginning with zeros: 3 of them, then 2 ones, then 4 zeros, in a 3 x 3 image."""
    expected = [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert decode_run_lengths({"size": [3, 3], "counts": [3, 2, 4]}).tolist() == expected
    # The compressed form: 6 bits per number plus 48, as text.
    assert decode_run_lengths({"size": [3, 3], "counts": "324"}).tolist() == expected
    broken: tuple[dict[str, Any], ...] = (
        *({"size": [3, 3], "counts": 7}, {"counts": "324"}, {"size": [3, 3], "counts": [3, 2]}),
        *({"size": [3, 3], "counts": "32"}, {"size": [3, 3], "counts": "32d"}, {"size": [3, 3], "counts": ""}),
        *({"size": [3, 3], "counts": [3, -2, 8]}, {"size": [3, 3], "counts": "32é"}),
    )
    for code in broken:
        with pytest.raises(ValueError, match="it is no run-length code|its runs cover"):
            decode_run_lengths(code)


def test_run_lengths_are_cocos() -> None:
    from pycocotools import mask as coco_mask

    generator = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        for _ in range(5):
            height, width = generator.integers(1, 400, 2).tolist()
            blocks = generator.random((height // 7 + 1, width // 7 + 1)) < share
            mask = np.asfortranarray(np.kron(blocks, np.ones((7, 7)))[:height, :width].astype(np.uint8))
            assert np.array_equal(decode_run_lengths(coco_mask.encode(mask)), mask)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [((480, 640), 800, 1333, (800, 1067)), ((375, 500), 600, 1000, (600, 800)), ((300, 900), 800, 1333, (444, 1333))],
)
def test_resize_rounds_and_respects_the_long_side(
    size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]
) -> None:
    assert resized(*size, short, longest) == expected


def at(iteration: int) -> Slot:
    return Slot(0, iteration, 0, 0)


@pytest.fixture()
def record(tmp_path: Path) -> dict:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:30, 6:24] = (250, 120, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = {"bbox": [6.0, 10.0, 24.0, 30.0], "bbox_mode": "XYXY", "category_id": 4, "iscrowd": 0}
    polygon = [[6.0, 10, 24, 10, 24, 30, 6, 30]]
    crowd = {"bbox": [0.0, 0, 9, 9], "category_id": 1, "iscrowd": 1}
    degenerate = {"bbox": [70.0, 3, 80, 9], "category_id": 1, "iscrowd": 0}
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": 40,
        "width": 60,
        "image_id": 7,
        "annotations": [{**box, "segmentation": polygon}, crowd, degenerate],
    }


def test_boxes_and_polygons_follow_resize_and_flip(record: dict) -> None:
    seen = set()
    for position in range(12):
        example = Mapper(True, [80], 999, flip="horizontal", mask_format="polygon")(record, at(position))
        x1, y1, x2, y2 = example.target["boxes"][0].tolist()
        seen.add(x1)
        assert (y1, y2, x2 - x1) == (20, 60, 36)
        assert example.target["labels"].tolist() == [5]  # crowds and boxes outside of the image are gone
        xs = example.target["polygons"][0][0][0::2]
        assert (xs.min(), xs.max()) == (x1, x2)
        # The orange rectangle is where the box says.
        centre = example.image[:, 40, int((x1 + x2) / 2)].tolist()
        assert centre == [250, 120, 10]
    assert seen == {12.0, 120 - 48.0}


@pytest.mark.parametrize(("flip", "corners"), [("horizontal", {(12, 8), (72, 8)}), ("vertical", {(12, 8), (12, 48)})])
def test_pixels_are_flipped_as_their_objects(record: dict, flip: str, corners: set[tuple[int, int]]) -> None:
    """The rectangle lies off both centre lines: pixels flipped along the other axis would miss their box."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[4:16, 6:24] = 250
    Image.fromarray(pixels).save(record["file_name"])
    record["annotations"] = [{"bbox": [6.0, 4.0, 24.0, 16.0], "category_id": 0}]
    seen = set()
    for position in range(12):
        example = Mapper(True, [80], 999, flip=flip)(record, at(position))
        x1, y1, x2, y2 = (int(v) for v in example.target["boxes"][0])
        inside, outside = torch.zeros(80, 120, dtype=torch.bool), torch.ones(80, 120, dtype=torch.bool)
        # Interpolation blurs the border.
        inside[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = True
        outside[y1 - 2 : y2 + 2, x1 - 2 : x2 + 2] = False
        assert (example.image[0][inside] == 250).all() and (example.image[0][outside] == 0).all()
        seen.add((x1, y1))
    assert seen == corners


def test_bitmaps_follow_resize_and_flip(record: dict) -> None:
    pixels = np.zeros((40, 60), dtype=np.uint8)
    pixels[10:30, 6:24] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], pixels.reshape(-1, order="F"), [2]])))
    code = {"size": [40, 60], "counts": np.diff([0, *edges]).tolist()}
    speck = {"size": [40, 60], "counts": [40 * 8 + 11, 1, 2400 - 40 * 8 - 12]}  # the pixel of column 8, row 11
    kept = record["annotations"][0]
    annotations = [kept, {**kept, "segmentation": code}, {**kept, "segmentation": speck}]
    record = {**record, "annotations": annotations + record["annotations"][1:]}
    for side in (80, 20):
        for flip in ("horizontal", "vertical"):
            for position in range(4):
                target = Mapper(True, [side], 999, flip=flip, mask_format="bitmask")(record, at(position)).target
                masks, factor = target["bitmasks"], side / 40
                # Half size keeps every second pixel, and not this one: an object without pixels is dropped.
                assert len(masks) == len(target["boxes"]) == len(target["labels"]) == (3 if side == 80 else 2)
                for mask, box in zip(masks[:2], target["boxes"], strict=False):
                    x1, y1, x2, y2 = (int(v) for v in box)
                    inside = torch.zeros_like(mask)
                    inside[y1:y2, x1:x2] = True
                    assert torch.equal(mask, inside) and inside.sum() == 18 * 20 * factor**2


def test_bad_masks_are_named(record: dict) -> None:
    def refused(segmentation: Any, words: str, mask_format: str = "bitmask") -> None:
        broken = {**record, "annotations": [{**record["annotations"][0], "segmentation": segmentation}]}
        with pytest.raises(DataError, match=words):
            Mapper(True, [40], 999, mask_format=mask_format)(broken, at(0))

    refused({"size": [60, 40], "counts": [2400]}, "a.png is 40x60 px but the image is 60x40")
    refused({"size": [40, 60], "counts": 3}, "a.png cannot be read")
    refused({"size": [40, 60], "counts": "324"}, "a.png cannot be read: its runs cover 9 of 2400 pixels")
    refused([], "no polygon.* set MODEL.MASK_ON False")
    refused({"size": [40, 60], "counts": [2400]}, "no polygon.* set INPUT.MASK_FORMAT bitmask", "polygon")


def test_bgr_swaps_channels_and_draws_depend_on_position_only(record: dict) -> None:
    mapper = Mapper(True, [40, 50, 60, 70], 999, flip="horizontal", seed=3)
    again = Mapper(True, [40, 50, 60, 70], 999, flip="horizontal", seed=3)
    images = [mapper(record, at(p)).image for p in range(6)]
    assert len({tuple(x.shape) for x in images}) > 1
    assert all(torch.equal(again(record, at(p)).image, images[p]) for p in reversed(range(6)))
    bgr = Mapper(False, [40], 999, bgr=True)(record, at(0)).image
    assert bgr[:, 20, 12].tolist() == [10, 120, 250]


def test_bad_images_are_named(record: dict, tmp_path: Path) -> None:
    mapper = Mapper(False, [40], 999)
    with pytest.raises(DataError, match="a.png is 60x40 px but its annotation says 61x40"):
        mapper({**record, "width": 61}, at(0))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="b.png cannot be read"):
        mapper({**record, "file_name": str(tmp_path / "b.png")}, at(0))
    with pytest.raises(DataError, match="no polygon"):
        broken = {**record, "annotations": [{**record["annotations"][0], "segmentation": {"counts": "", "size": []}}]}
        Mapper(True, [40], 999, mask_format="polygon")(broken, at(0))


def test_boxes_go_back_to_the_original_image() -> None:
    boxes = to_original(torch.tensor([[10.0, 20, 300, 90], [-5.0, 0, 10, 10]]), (100, 200), (50, 80))
    assert torch.allclose(boxes, torch.tensor([[4.0, 10, 80, 45], [0.0, 0, 4, 5]]))
