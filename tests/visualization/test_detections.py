"""Detections beside the ground truth: what is drawn, in which colour, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from ssl_loc.transfer.predictions import ImagePrediction, encode_masks
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import write_json
from ssl_loc.visualization.detections import Detections, chosen, decode_mask, detections_picture
from ssl_loc.visualization.style import MET, UNMET

SQUARE = [[5, 6, 25, 6, 25, 16, 5, 16]]


def one_photo(root: Path, crowd: bool = False, size: tuple[int, int] = (60, 40)) -> str:
    """A COCO set of one grey picture with one cup at (5, 6, 25, 16), optionally with a crowd beside it."""
    (root / "val").mkdir(parents=True)
    Image.new("RGB", size, (90, 90, 90)).save(root / "val" / "1.jpg")
    cup = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 6, 20, 10], "area": 200, "iscrowd": 0,
           "segmentation": SQUARE}  # fmt: skip
    many = {**cup, "id": 2, "bbox": [30, 20, 20, 10], "iscrowd": 1,
            "segmentation": {"size": [size[1], size[0]], "counts": [size[0] * size[1]]}}  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": size[1], "width": size[0]}],
        "categories": [{"id": 7, "name": "cup"}],
        "annotations": [cup, many] if crowd else [cup],
    }
    write_json(root / "annotations" / "instances_val.json", content)
    return f"coco:{root}:val"


def found(scores: tuple[float, ...] = (0.9, 0.1), masks: bool = False) -> ImagePrediction:
    codes = None
    if masks:
        drawn = np.zeros((2, 40, 60), dtype=np.uint8)
        drawn[0, 5:17, 4:24] = 1
        codes = encode_masks(drawn)
    return ImagePrediction(1, np.array([[4, 5, 24, 17], [0, 0, 9, 9]]), np.array(scores), np.array([0, 0]), codes)


def texts(ax) -> list[str]:
    return [t.get_text() for t in ax.texts]


def edges(ax) -> list[str]:
    return [to_hex(patch.get_edgecolor()).upper() for patch in ax.patches]


def test_boxes_with_scores_and_verdicts(tmp_path: Path) -> None:
    spec = one_photo(tmp_path / "coco")
    runs = [Detections("A", spec, {1: found()}), Detections("B", spec, {})]
    picture = detections_picture(runs)
    assert [texts(ax) for ax in picture.image.axes] == [["cup"], ["cup 0.90", "AP50 100"], ["nothing found"]]
    assert edges(picture.image.axes[1]) == [MET]  # the wrong box of score .1 is not drawn
    assert "In 1 of 2 pictures" in picture.caption and "Best and worst" not in picture.caption  # a single image
    all_of_them = detections_picture(runs[:1], min_score=0.05)
    assert edges(all_of_them.image.axes[1]) == [MET, UNMET]
    legend = [t.get_text() for t in all_of_them.image.legends[0].get_texts()]
    assert legend == ["object", "right: its class, IoU at least .5", "wrong"]


def test_a_weak_detector_is_drawn_dashed(tmp_path: Path) -> None:
    picture = detections_picture([Detections("A", one_photo(tmp_path), {1: found()})], min_score=0.95)
    ax = picture.image.axes[1]
    assert texts(ax) == ["cup 0.90", "cup 0.10", "AP50 100, none reaches 0.95: best 2"]
    assert {patch.get_linestyle() for patch in ax.patches} == {"--"}


def test_masks_are_drawn_where_the_detector_has_them(tmp_path: Path) -> None:
    spec = one_photo(tmp_path, crowd=True)
    plain, masked = (detections_picture([Detections("A", spec, {1: found(masks=m)})]).image for m in (False, True))
    for ax in plain.axes[:2]:
        assert np.asarray(ax.images[0].get_array())[12, 10].tolist() == [90, 90, 90]
    truth, seen = (np.asarray(ax.images[0].get_array()).astype(int) for ax in masked.axes[:2])
    assert truth[12, 10].tolist() != [90, 90, 90] and seen[12, 10].tolist() == [68, 107, 96]  # a quarter of MET's green
    assert seen[30, 50].tolist() == [90, 90, 90]
    assert texts(masked.axes[0]) == ["cup", "cup (ignored)"]
    assert [t.get_text() for t in masked.legends[0].get_texts()][-1].startswith("not counted")


def test_masks_in_every_form() -> None:
    square = decode_mask(SQUARE, 40, 60)
    assert square.shape == (40, 60) and square[8, 10] and not square[20, 10]
    assert square.sum() == pytest.approx(200, abs=40)
    assert decode_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3).sum() == 2
    assert not decode_mask([[1, 1, 5, 5]], 4, 4).any()  # two corners are no area


def test_portraits_do_not_stretch_the_figure(tmp_path: Path) -> None:
    heights = []
    for size in ((60, 66), (60, 400)):
        spec = one_photo(tmp_path / str(size[1]), size=size)
        heights.append(detections_picture([Detections("A", spec, {})]).image.get_figheight())
    assert heights[0] == heights[1]


def test_the_best_few_where_no_score_is_sufficient() -> None:
    scores = np.array([0.1, 0.29, 0.2, 0.05, 0.15, 0.28])
    boxes = ImagePrediction(1, np.zeros((6, 4)), scores, np.arange(6))
    shown, sure = chosen(boxes, 0.3)
    assert [f.label for f in shown] == [1, 5, 2] and not sure
    shown, sure = chosen(boxes, 0.15)
    assert [f.label for f in shown] == [1, 5, 2, 4] and sure
    assert chosen(None, 0.3) == ([], False)


def test_one_picture_is_of_one_test_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="different datasets: a, b"):
        detections_picture([Detections("A", "a", {}), Detections("B", "b", {})])
