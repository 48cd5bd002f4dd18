"""VOC AP: cases worked out by hand, a slow plain-Python procedure, and detectron2 where it is installed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.predictions import ImagePrediction, load_predictions, save_predictions
from ssl_loc.transfer.voc_metric import RECALL_LEVELS, average_precision, evaluate_voc, precision_recall
from ssl_loc.utils.errors import DataError


def make_dataset(objects, classes=("a",), year=2012):
    """objects: image id -> list of (class, box, difficult)."""
    dicts = [
        {
            "file_name": f"{image}.jpg",
            "height": 100,
            "width": 100,
            "image_id": image,
            "annotations": [
                {"bbox": list(box), "bbox_mode": "XYXY", "category_id": c, "iscrowd": 0, "difficult": difficult}
                for c, box, difficult in listed
            ],
        }
        for image, listed in objects.items()
    ]
    return DetectionDataset("hand", dicts, list(classes), "voc", year)


def predict(found):
    """found: image id -> list of (class, box, score)."""
    return [
        ImagePrediction(
            image,
            np.array([box for _, box, _ in listed]).reshape(-1, 4),
            np.array([score for *_, score in listed]),
            np.array([c for c, *_ in listed]),
        )
        for image, listed in found.items()
    ]


BOX, FAR = (10, 10, 30, 30), (60, 60, 80, 80)


def test_perfect_and_empty():
    dataset = make_dataset({"i": [(0, BOX, 0)], "j": [(0, FAR, 0)], "none": []})
    perfect = predict({"i": [(0, BOX, 0.9)], "j": [(0, FAR, 0.8)]})
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
    assert evaluate_voc(dataset, both, False).metrics["bbox/AP"] == pytest.approx(100)
    # Without the flag the same detections on a dataset with one object each rank a miss first.
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
    # Mixed with better scores, so that an unstable sort would move equal ones around.
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
    assert result["bbox/AP"] == pytest.approx(100)
    assert "bbox/AP-b" not in result and "b, c" in caplog.text
    # detectron2 counts them as 0 in the 2007 metric and returns NaN in the other.
    assert evaluate_voc(dataset, found, True, detectron2_compat=True).metrics["bbox/AP"] == pytest.approx(100 / 3)
    assert np.isnan(evaluate_voc(dataset, found, False, detectron2_compat=True).metrics["bbox/AP"])


def test_errors_are_sentences():
    empty = make_dataset({"i": []})
    with pytest.raises(DataError, match="no annotated object"):
        evaluate_voc(empty, [], False)
    with pytest.raises(DataError, match="does not have.*first: elsewhere"):
        evaluate_voc(make_dataset({"i": [(0, BOX, 0)]}), predict({"elsewhere": [(0, BOX, 1.0)]}), False)


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


def random_case(seed, images=12, classes=3):
    rng = np.random.default_rng(seed)

    def box():
        corner = rng.integers(0, 60, 2)
        return [float(v) for v in (*corner, *(corner + rng.integers(8, 40, 2)))]

    objects, found = {}, {}
    for i in range(images):
        listed = [(int(rng.integers(classes)), box(), int(rng.random() < 0.2)) for _ in range(rng.integers(1, 5))]
        near = [
            (c, (np.array(b) + rng.normal(0, 2.5, 4)).round(3).tolist(), float(rng.random()))
            for c, b, _ in listed
            for _ in range(rng.integers(0, 3))
        ]
        far = [(int(rng.integers(classes)), box(), float(rng.random())) for _ in range(rng.integers(0, 3))]
        objects[f"{i:06d}"], found[f"{i:06d}"] = listed, near + far
    return objects, found


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


def write_voc_tree(root: Path, objects, classes):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(objects) + "\n")
    for image, listed in objects.items():
        top = ElementTree.Element("annotation")
        for c, (x0, y0, x1, y1), difficult in listed:
            tag = ElementTree.SubElement(top, "object")
            fields = {"name": classes[c], "pose": "?", "truncated": 0, "difficult": difficult}
            for key, value in fields.items():
                ElementTree.SubElement(tag, key).text = str(value)
            corners = ElementTree.SubElement(tag, "bndbox")
            # 1-based and inclusive on disk.
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True):
                ElementTree.SubElement(corners, key).text = str(int(value))
        ElementTree.ElementTree(top).write(root / f"Annotations/{image}.xml")


@pytest.mark.detectron2
@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_equals_detectron2(tmp_path, seed, year):
    pytest.importorskip("detectron2", reason="detectron2 is not installed; its VOC evaluator is the reference here")
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    objects, found = random_case(seed, images=30)
    write_voc_tree(tmp_path, objects, "abc")
    name = f"voc_metric_test_{tmp_path}"
    MetadataCatalog.get(name).set(dirname=str(tmp_path), split="test", year=year, thing_classes=list("abc"))
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    predictions = predict(found)
    for prediction in predictions:
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.from_numpy(prediction.boxes))
        instances.scores = torch.from_numpy(prediction.scores)
        instances.pred_classes = torch.from_numpy(prediction.classes)
        evaluator.process([{"image_id": prediction.image_id}], [{"instances": instances}])
    expected = evaluator.evaluate()["bbox"]
    ours = evaluate_voc(make_dataset(objects, "abc", year), predictions, year == 2007, detectron2_compat=True).metrics
    for key, value in expected.items():
        assert ours[f"bbox/{key}"] == pytest.approx(value, abs=5e-3)
    MetadataCatalog.remove(name)


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
