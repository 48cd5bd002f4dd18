"""Which detections are right, how good one image is, and which images are worth a look."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.visualization.image_scores import box_iou, choose_images, image_ap, judge

CAT, DOG = 0, 1


def thing(box: tuple, label: int = CAT, **flags: int) -> dict:
    return {"bbox": box, "category_id": label, **flags}


def found(*rows: tuple) -> ImagePrediction:
    boxes, scores, classes = zip(*rows, strict=True)
    return ImagePrediction(1, np.array(boxes), np.array(scores), np.array(classes))


def test_iou() -> None:
    a = np.array([[0, 0, 10, 10], [3, 3, 3, 8]], dtype=float)
    b = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], dtype=float)
    # 5 x 10 of 100 + 100 - 50; an empty box overlaps nothing.
    assert box_iou(a, b).tolist() == [[50 / 150, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_right_is_the_best_of_its_class_on_an_object() -> None:
    truth = [thing((0, 0, 10, 10)), thing((20, 0, 30, 10), DOG)]
    rows = found(
        ((0, 0, 10, 9), 0.5, CAT),  # a better-scored one has the object: wrong
        ((0, 0, 10, 8), 0.9, CAT),  # right, IoU .8
        ((20, 0, 30, 10), 0.8, CAT),  # a dog: wrong
        ((20, 0, 24, 10), 0.7, DOG),  # IoU .4: wrong
        ((20, 0, 25, 10), 0.6, DOG),  # IoU .5 exactly: right
    )
    assert judge(rows, truth) == ["wrong", "right", "wrong", "wrong", "right"]
    assert judge(rows, []) == ["wrong"] * 5


@pytest.mark.parametrize("flag", ["difficult", "iscrowd"])
def test_objects_that_need_not_be_found(flag: str) -> None:
    truth = [thing((0, 0, 10, 10), **{flag: 1}), thing((20, 0, 30, 10))]
    rows = found(((0, 0, 10, 10), 0.9, CAT), ((20, 0, 30, 10), 0.8, CAT))
    assert judge(rows, truth) == ["ignored", "right"]
    assert image_ap(rows, truth) == 100.0  # the detection of the optional one costs nothing
    assert math.isnan(image_ap(rows, truth[:1]))


def test_ap_of_one_image_by_hand() -> None:
    truth = [thing((0, 0, 10, 10)), thing((20, 0, 30, 10)), thing((40, 0, 50, 10), DOG)]
    rows = found(
        ((60, 0, 70, 10), 0.9, CAT),  # wrong
        ((0, 0, 10, 10), 0.8, CAT),  # right: precision 1/2
        ((40, 0, 50, 10), 0.7, DOG),  # right: precision 2/3, which also holds at the recall before
    )
    # Recall 1/3 and 2/3 at precision 2/3; the third object is never found.
    assert image_ap(rows, truth) == pytest.approx(100 * (2 / 3 + 2 / 3) / 3)
    assert image_ap(None, truth) == 0.0


def test_best_worst_and_some_between() -> None:
    nan = float("nan")
    values = [50.0, 100.0, nan, 0.0, 70.0, 30.0, 60.0]
    # Ranked: 1 (100), 4, 6, 0, 5, 3 (0); a third of four images at each end, the rest evenly between.
    assert choose_images(values, 4) == [(1, "best"), (0, ""), (6, ""), (3, "worst")]
    assert [i for i, _ in choose_images(values, 6)] == [1, 4, 0, 6, 5, 3]
    assert choose_images([0.0, 0.0, 0.0], 2) == [(0, ""), (2, "")]  # nothing to choose by
    assert choose_images([nan, nan], 2) == [(0, ""), (1, "")]
    assert choose_images([], 3) == []
    # The only image that is not perfect is the worst; a perfect one is not called worst.
    assert choose_images([100.0, 100.0, 100.0, 10.0], 6) == [(0, "best"), (1, "best"), (2, ""), (3, "worst")]
