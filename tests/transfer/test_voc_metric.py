"""VOC AP: cases worked out by hand and a slow plain-Python procedure (detectron2: test_detectron2_evaluators.py)."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.voc_cases import make_dataset, predict, random_case, write_voc_tree

from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.metrics import evaluate
from ssl_loc.transfer.predictions import ImagePrediction, load_predictions, save_predictions
from ssl_loc.transfer.voc_metric import RECALL_LEVELS, average_precision, evaluate_voc, precision_recall
from ssl_loc.utils.errors import DataError

BOX, FAR = (10, 10, 30, 30), (60, 60, 80, 80)


def test_perfect_and_empty():
    dataset = make_dataset({"i": [(0, BOX, 0)], "j": [(0, FAR, 0)], "none": []})
    perfect = predict({"i": [(0, BOX, 0.9)], "j": [(0, FAR, 0.8)]})
    # Precision 1 at every recall: 1 = 11/11. Without detections every sum is empty.
    for metric in (True, False):
        assert evaluate_voc(dataset, perfect, metric).metrics["bbox/AP"] == pytest.approx(100)
        assert set(evaluate_voc(dataset, [], metric).metrics.values()) == {0.0}


def test_duplicate_is_wrong_even_if_another_object_would_fit():
    # Two nearly equal objects; both detections overlap the first one best, so the second detection is wrong.
    dataset = make_dataset({"i": [(0, (0, 0, 20, 20), 0), (0, (0, 0, 20, 22), 0)]})
    found = predict({"i": [(0, (0, 0, 20, 20), 0.9), (0, (0, 0, 20, 20), 0.8)]})
    # Recall .5 at precision 1, then nothing more: area = .5; eleven-point = 6/11 (levels 0 to .5).
    assert evaluate_voc(dataset, found, False).metrics["bbox/AP50"] == pytest.approx(50)
    assert evaluate_voc(dataset, found, True).metrics["bbox/AP50"] == pytest.approx(100 * 6 / 11)


def test_difficult_is_neither_right_nor_wrong():
    dataset = make_dataset({"i": [(0, BOX, 1), (0, FAR, 0)]})
    both = predict({"i": [(0, BOX, 0.9), (0, FAR, 0.8)]})
    # One object counts; the first detection is ignored, the second right: recall 1 at precision 1.
    assert evaluate_voc(dataset, both, False).metrics["bbox/AP"] == pytest.approx(100)
    # A first detection on nothing at all is wrong instead: recall 1 at precision 1/2.
    missing = predict({"i": [(0, (10, 60, 30, 80), 0.9), (0, FAR, 0.8)]})
    assert evaluate_voc(dataset, missing, False).metrics["bbox/AP"] == pytest.approx(50)


def test_overlap_must_be_strictly_greater():
    # 20 x 20 object, detection covering 20 x 40: IoU is exactly one half.
    dataset = make_dataset({"i": [(0, (0, 0, 20, 20), 0)]})
    half = predict({"i": [(0, (0, 0, 20, 40), 0.9)]})
    assert evaluate_voc(dataset, half, False).metrics["bbox/AP50"] == 0
    more = predict({"i": [(0, (0, 0, 20, 39), 0.9)]})
    assert evaluate_voc(dataset, more, False).metrics["bbox/AP50"] == pytest.approx(100)
    # One of the ten thresholds (.50) lies below 20/39 = .513.
    assert evaluate_voc(dataset, more, False).metrics["bbox/AP"] == pytest.approx(10)


def test_equal_scores_keep_the_detectors_order():
    dataset = make_dataset({"i": [(0, BOX, 0)]})
    # Mixed with better scores, so that an unstable sort would move equal ones around. Forty detections of .6 and forty
    # of .5 are wrong. Right before the equal ones: place 41, precision 1/41; after them: place 81, precision 1/81.
    wrong = [(0, FAR, 0.6), (0, FAR, 0.5)] * 40
    right_first = predict({"i": [(0, BOX, 0.5), *wrong]})
    wrong_first = predict({"i": [*wrong, (0, BOX, 0.5)]})
    assert evaluate_voc(dataset, right_first, False).metrics["bbox/AP50"] == pytest.approx(100 / 41)
    assert evaluate_voc(dataset, wrong_first, False).metrics["bbox/AP50"] == pytest.approx(100 / 81)


def test_absent_class_is_left_out_and_named(caplog):
    dataset = make_dataset({"i": [(0, BOX, 0), (2, FAR, 1)]}, classes=("a", "b", "c"))
    found = predict({"i": [(0, BOX, 0.9), (1, FAR, 0.9), (2, FAR, 0.9)]})
    with caplog.at_level("INFO"):
        result = evaluate_voc(dataset, found, False).metrics
    # Class a is perfect; b has no object, c only a difficult one: the mean is over a alone.
    assert result["bbox/AP"] == pytest.approx(100)
    assert "bbox/AP-b" not in result and "b, c" in caplog.text
    # detectron2 counts them as 0 in the 2007 metric and returns NaN in the other.
    assert evaluate_voc(dataset, found, True, detectron2_compat=True).metrics["bbox/AP"] == pytest.approx(100 / 3)
    assert np.isnan(evaluate_voc(dataset, found, False, detectron2_compat=True).metrics["bbox/AP"])


def test_errors_are_sentences():
    empty = make_dataset({"i": []})
    with pytest.raises(DataError, match="no annotated object"):
        evaluate_voc(empty, [], False)
    one = make_dataset({"i": [(0, BOX, 0)]})
    with pytest.raises(DataError, match="does not have.*first: elsewhere"):
        evaluate_voc(one, predict({"elsewhere": [(0, BOX, 1.0)]}), False)
    with pytest.raises(DataError, match="more than one prediction .first: i."):
        evaluate_voc(one, predict({"i": [(0, BOX, 1.0)]}) * 2, False)
    with pytest.raises(DataError, match="has class 1, but hand has 1 classes.*NUM_CLASSES 1"):
        evaluate_voc(one, predict({"i": [(1, BOX, 1.0)]}), False)
    with pytest.raises(DataError, match="NaN or infinite"):
        evaluate_voc(one, predict({"i": [(0, BOX, float("nan"))]}), False)


def test_recall_levels_are_literal():
    # 3 of 10 objects found: the literal level .30000000000000004 is not reached, a decimal .3 would be.
    assert RECALL_LEVELS[3] > 0.3
    assert average_precision(np.array([0.1, 0.2, 0.3]), np.ones(3), True) == pytest.approx(3 / 11)
    assert average_precision(np.zeros(0), np.zeros(0), True) == 0 == average_precision(np.zeros(0), np.zeros(0), False)


def test_precision_recall_curve():
    dataset = make_dataset({"i": [(0, BOX, 0), (0, FAR, 0)]})
    found = predict({"i": [(0, BOX, 0.9), (0, (10, 60, 30, 80), 0.8), (0, FAR, 0.7)]})
    recall, precision, scores = precision_recall(dataset, found, 0)
    assert recall.tolist() == [0.5, 0.5, 1.0] and precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_difficult_objects_swallow_any_number_of_detections():
    # Three detections on the difficult object: none right, none wrong, although the object can be claimed only once.
    dataset = make_dataset({"i": [(0, BOX, 1), (0, FAR, 0)]})
    found = predict({"i": [(0, BOX, 0.9), (0, BOX, 0.8), (0, BOX, 0.7), (0, FAR, 0.6)]})
    # Precision after each: 0/0 taken as 0, three times, then 1/1 at recall 1.
    _, precision, _ = precision_recall(dataset, found, 0)
    assert precision.tolist() == [0, 0, 0, 1]
    assert evaluate_voc(dataset, found, False).metrics["bbox/AP"] == pytest.approx(100)
    assert evaluate_voc(dataset, found, True).metrics["bbox/AP"] == pytest.approx(100)


def test_duplicates_of_one_object():
    dataset = make_dataset({"i": [(0, BOX, 0), (0, FAR, 0)]})
    found = predict({"i": [(0, BOX, 0.9), (0, BOX, 0.8), (0, BOX, 0.7), (0, FAR, 0.6)]})
    # Recall/precision: 1/2, 1; 1/2, 1/2; 1/2, 1/3; 1, 2/4. Area: .5 * 1 + .5 * .5 = .75. Eleven points: levels 0 to .5
    # (six) at 1, .6 to 1 (five) at .5: 8.5/11.
    assert evaluate_voc(dataset, found, False).metrics["bbox/AP50"] == pytest.approx(75)
    assert evaluate_voc(dataset, found, True).metrics["bbox/AP50"] == pytest.approx(100 * 8.5 / 11)


def test_a_detection_of_another_class_or_image_does_not_count():
    dataset = make_dataset({"i": [(0, BOX, 0)], "j": [(1, BOX, 0)]}, classes=("a", "b"))
    found = predict({"i": [(1, BOX, 0.9)], "j": [(0, BOX, 0.9)]})
    assert evaluate_voc(dataset, found, False).metrics["bbox/AP"] == 0


def test_three_of_ten_objects_do_not_reach_the_level_of_three_tenths():
    # np.arange(0, 1.1, .1)[3] is .30000000000000004, more than the recall 3/10 = .3: levels 0, .1 and .2 are reached,
    # 3/11 and not 4/11. The level .6 is .6000000000000001 as well: 6 of 10 give 6/11; 5 of 10 reach .5: 6/11 too.
    corner = [(8 * n, 0, 8 * n + 6, 6) for n in range(10)]
    dataset = make_dataset({"i": [(0, box, 0) for box in corner]})
    for found, levels in ((2, 3), (3, 3), (4, 5), (5, 6), (6, 6), (7, 7), (8, 9), (10, 11)):
        predictions = predict({"i": [(0, box, 0.9) for box in corner[:found]]})
        metrics = evaluate_voc(dataset, predictions, True).metrics
        assert metrics["bbox/AP50"] == pytest.approx(100 * levels / 11), found


def test_one_image_fractions_and_missing_tags(tmp_path):
    """What detectron2 cannot read: a split of one image, half pixels, no pose, truncated or difficult."""
    root = tmp_path / "VOC2012"
    write_voc_tree(root, {"only": [(0, (10.5, 10, 30.5, 30), 0)]}, ["dog"], tags=("name",))
    text = (root / "Annotations/only.xml").read_text()
    assert "11.5" in text and not any(tag in text for tag in ("pose", "truncated", "difficult"))
    dataset = get_detection_dataset(f"voc:{tmp_path}:2012:test")
    assert dataset.dicts[0]["annotations"][0]["bbox"] == [10.5, 10, 30.5, 30]
    # IoU of (10.5, 10, 30.5, 30) with (10, 10, 30, 30): 19.5 / 20.5 = .951, above all ten thresholds.
    dog = dataset.classes.index("dog")
    result = evaluate_voc(dataset, predict({"only": [(dog, (10, 10, 30, 30), 0.9)]}), False).metrics
    assert result["bbox/AP"] == pytest.approx(100)
    # With (10, 10, 30, 31): 19.5 * 20 / (20 * 21 + 400 - 390) = 390/430 = .907: nine of ten thresholds.
    result = evaluate_voc(dataset, predict({"only": [(dog, (10, 10, 30, 31), 0.9)]}), False).metrics
    assert result["bbox/AP"] == pytest.approx(90)


def test_the_year_decides_the_metric():
    # Half of two objects found: eleven-point 6/11, area 1/2.
    found = predict({"i": [(0, BOX, 0.9)]})
    for year, expected in ((2007, 600 / 11), (2012, 50), (2010, 50)):
        dataset = make_dataset({"i": [(0, BOX, 0), (0, FAR, 0)]}, year=year)
        assert evaluate(dataset, found, False).metrics["bbox/AP"] == pytest.approx(expected)


def test_rows_and_curves():
    dataset = make_dataset({"i": [(0, BOX, 0), (0, FAR, 0), (1, BOX, 0), (0, BOX, 1)]}, classes=("a", "b", "c"))
    # The second box of class a overlaps FAR by 20 x 14 / (400 + 280 - 280) = .7: right up to IoU .65.
    found = predict({"i": [(0, BOX, 0.9), (0, (60, 60, 80, 74), 0.8)]})
    scores = evaluate_voc(dataset, found, False)
    # AP of a: 1 at IoU .50, .55, .60 and .65 (.70 is not exceeded), .5 at the other six: 70 in the mean.
    assert scores.per_class["bbox"]["a"] == pytest.approx({"AP": 70, "AP50": 100, "AP75": 50, "objects": 2})
    assert scores.per_class["bbox"]["b"] == {"AP": 0, "AP50": 0, "AP75": 0, "objects": 1}
    assert set(scores.per_class["bbox"]) == set(scores.curves["bbox"]) == {"a", "b"}
    assert scores.curves["bbox"]["a"].precision == [1.0] * 101 and scores.curves["bbox"]["a"].ap == pytest.approx(100)
    assert scores.curves["bbox"]["b"].precision == [0.0] * 101


def slow_ap(objects, found, category, threshold, use_07):
    """The devkit's procedure, one detection and one object at a time."""
    positives = sum(c == category and not d for listed in objects.values() for c, _, d in listed)
    detections = [(s, i, b) for i, listed in found.items() for c, b, s in listed if c == category]
    used, tp, fp, points = set(), 0, 0, []
    for _, image, (x0, y0, x1, y1) in sorted(detections, key=lambda row: -np.float32(row[0])):
        best, chosen = -1.0, None
        for n, (c, (a0, b0, a1, b1), d) in enumerate(objects[image]):
            if c != category:
                continue
            common = max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
            iou = common / ((x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - common)
            if iou > best:
                best, chosen = iou, (image, n, d)
        if best > threshold and chosen[2]:
            pass
        elif best > threshold and chosen[:2] not in used:
            used.add(chosen[:2])
            tp += 1
        else:
            fp += 1
        points.append((tp / positives, tp / max(tp + fp, 1e-9)))
    if use_07:
        return sum(max([p for r, p in points if r >= t], default=0) for t in np.arange(0, 1.1, 0.1)) / 11
    recalls = sorted({0.0} | {r for r, _ in points})
    pairs = zip(recalls[:-1], recalls[1:], strict=True)
    return sum((b - a) * max(p for r, p in points if r >= b) for a, b in pairs)


@pytest.mark.parametrize("use_07", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_slow_procedure(seed, use_07):
    objects, found = random_case(seed)
    result = evaluate_voc(make_dataset(objects, "abc"), predict(found), use_07).metrics
    table = [[slow_ap(objects, found, c, t / 100, use_07) for t in range(50, 100, 5)] for c in range(3)]
    table = 100 * np.array(table)
    assert result["bbox/AP"] == pytest.approx(table.mean(), abs=1e-3)
    assert result["bbox/AP50"] == pytest.approx(table[:, 0].mean(), abs=1e-3)
    assert result["bbox/AP75"] == pytest.approx(table[:, 5].mean(), abs=1e-3)
    assert result["bbox/AP-b"] == pytest.approx(table[1].mean(), abs=1e-3)


def test_predictions_survive_json(tmp_path):
    masks = [{"size": [4, 5], "counts": b"0d0"}]
    before = ImagePrediction("x", np.array([[1.25, 2, 3, 4]]), np.array([0.1]), np.array([2]), masks)
    save_predictions(tmp_path / "p.json", "hand", [before, ImagePrediction(7, [], [], [])])
    name, (after, empty) = load_predictions(tmp_path / "p.json")
    assert name == "hand" and after.image_id == "x" and after.masks == [{"size": [4, 5], "counts": "0d0"}]
    assert np.array_equal(before.boxes, after.boxes) and np.array_equal(before.scores, after.scores)
    assert len(empty) == 0 and empty.boxes.shape == (0, 4) and empty.image_id == 7
    with pytest.raises(ValueError, match="1 boxes, 2 scores"):
        ImagePrediction("x", np.zeros((1, 4)), np.zeros(2), np.zeros(2))
