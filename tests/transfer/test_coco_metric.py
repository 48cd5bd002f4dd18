"""COCO AP through pycocotools: hand-computed values and the traps it leaves open."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.coco_cases import random_coco

from ssl_loc.transfer.coco_metric import STATS, evaluate_coco, ground_truth, to_coco_results
from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.detection_scores import load_scores, save_scores
from ssl_loc.transfer.metrics import evaluate, headline
from ssl_loc.transfer.predictions import ImagePrediction, encode_masks
from ssl_loc.utils.errors import ConfigError, DataError

BOX, FAR = (10, 10, 50, 50), (100, 100, 180, 180)


def polygon(box):
    x0, y0, x1, y1 = box
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def make_dataset(tmp_path, objects, extra=(), tags=True):
    """objects: image id -> list of (contiguous class, box); json ids 7, 3 are neither contiguous nor sorted."""
    category_ids = {0: 7, 1: 3}
    annotations = []
    for image, listed in objects.items():
        for c, (x0, y0, x1, y1) in listed:
            annotation = {
                "image_id": image,
                "category_id": category_ids[c],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": polygon((x0, y0, x1, y1)),
            }
            if tags:
                annotation |= {"id": len(annotations) + 1, "iscrowd": 0, "area": float((x1 - x0) * (y1 - y0))}
            annotations.append(annotation)
    images = [{"id": image, "height": 200, "width": 200, "file_name": f"{image}.jpg"} for image in objects]
    categories = [{"id": 7, "name": "a"}, {"id": 3, "name": "b"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": [*annotations, *extra], "categories": categories}))
    dicts = [{"file_name": f"{image}.jpg", "image_id": image, "annotations": []} for image in objects]
    return DetectionDataset("hand", dicts, ["a", "b"], "coco", json_file=str(path), category_ids=category_ids)


def masks_of(boxes):
    stack = np.zeros((len(boxes), 200, 200), dtype=np.uint8)
    for mask, (x0, y0, x1, y1) in zip(stack, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return encode_masks(stack)


def predict(found, with_masks=False):
    return [
        ImagePrediction(
            image,
            np.array([box for _, box, _ in listed]).reshape(-1, 4),
            np.array([score for *_, score in listed]),
            np.array([c for c, *_ in listed], dtype=np.int64),
            masks_of([box for _, box, _ in listed]) if with_masks else None,
        )
        for image, listed in found.items()
    ]


def test_perfect_boxes_and_masks(tmp_path, capsys):
    dataset = make_dataset(tmp_path, {11: [(0, BOX), (1, FAR)], 4: [(1, BOX)], 5: []})
    found = predict({11: [(0, BOX, 0.9), (1, FAR, 0.8)], 4: [(1, BOX, 0.9)]}, with_masks=True)
    result = evaluate(dataset, found, mask_on=True).metrics
    for task in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP75", "AP-a", "AP-b", "APm"):
            assert result[f"{task}/{name}"] == pytest.approx(100)
        # No small object in the data: pycocotools' -1 is no number and does not appear.
        assert f"{task}/APs" not in result
    assert list(headline(result)) == [f"{t}/{n}" for t in ("bbox", "segm") for n in ("AP", "AP50", "AP75")]
    assert capsys.readouterr().out == ""


def test_no_detections_are_zero_not_nan(tmp_path):
    dataset = make_dataset(tmp_path, {1: [(0, BOX)], 2: []})
    nothing = predict({1: [], 2: []}, with_masks=True)
    for predictions in ([], nothing):
        result = evaluate_coco(dataset, predictions, ("bbox", "segm")).metrics
        assert result["bbox/AP"] == result["segm/AP"] == result["bbox/AP-a"] == 0.0


def test_half_found(tmp_path):
    # One of two objects of class a found, nothing wrong: precision 1 up to recall .5 = 51 of 101 levels.
    dataset = make_dataset(tmp_path, {1: [(0, BOX), (0, FAR)]})
    result = evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]})).metrics
    assert result["bbox/AP"] == pytest.approx(100 * 51 / 101)
    assert "bbox/AP-b" not in result


def test_mask_results_carry_no_box(tmp_path):
    dataset = make_dataset(tmp_path, {1: [(0, BOX)]})
    # The box (160 x 160 px, "large") is much wider than the mask (40 x 40 px, "medium"); with the box in the
    # result pycocotools would sort the detection by the box and the medium bin would find nothing.
    wide = ImagePrediction(1, [[0, 0, 160, 160]], [0.9], [0], masks_of([BOX]))
    assert to_coco_results(dataset, [wide], "segm")[0].keys() == {"image_id", "category_id", "score", "segmentation"}
    assert to_coco_results(dataset, [wide], "bbox")[0]["category_id"] == 7
    result = evaluate_coco(dataset, [wide], ("segm",)).metrics
    assert result["segm/APm"] == pytest.approx(100) and "segm/APl" not in result


def test_only_the_datasets_images_count(tmp_path):
    dataset = make_dataset(tmp_path, {1: [(0, BOX)], 2: [(0, BOX)]})
    dataset.dicts = dataset.dicts[:1]
    assert evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]})).metrics["bbox/AP"] == pytest.approx(100)


def test_hand_made_json_without_tags(tmp_path):
    # Without "area" the 40 x 40 object must still be "medium".
    dataset = make_dataset(tmp_path, {1: [(0, BOX)]}, tags=False)
    result = evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]}, with_masks=True), ("bbox", "segm")).metrics
    assert result["bbox/APm"] == result["segm/APm"] == pytest.approx(100)


def rewritten(dataset, change):
    content = json.loads(Path(dataset.json_file).read_text())
    change(content["annotations"])
    Path(dataset.json_file).write_text(json.dumps(content))
    return dataset


@pytest.mark.parametrize("ids", [[0, 1, 2], [2, 1, 0], [5, 5, 5], ["a", "b", "c"], [None, 1, 2]])
def test_no_annotation_id_is_lost(tmp_path, ids):
    """pycocotools takes a match with id 0 for none, and knows one object per id."""

    def number(annotations):
        for annotation, value in zip(annotations, ids, strict=True):
            annotation.pop("id", None)
            annotation |= {} if value is None else {"id": value}

    dataset = rewritten(make_dataset(tmp_path, {1: [(0, BOX), (1, FAR)], 2: [(0, BOX)]}), number)
    found = predict({1: [(0, BOX, 0.9), (1, FAR, 0.8)], 2: [(0, BOX, 0.7)]}, with_masks=True)
    result = evaluate_coco(dataset, found, ("bbox", "segm")).metrics
    assert result["bbox/AP"] == result["segm/AP"] == pytest.approx(100)


@pytest.mark.parametrize("shape", [[10, 10, 50, 10, 50, 50], [[10, 10, 50, 50]], [[1, 2, 3, 4, 5]], []])
def test_areas_of_objects_without_a_valid_polygon_are_their_boxes(tmp_path, shape):
    dataset = make_dataset(tmp_path, {1: [(0, BOX)]}, tags=False)
    rewritten(dataset, lambda rows: rows[0].update(segmentation=shape))
    assert ground_truth(dataset).dataset["annotations"][0]["area"] == 1600
    assert evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]})).metrics["bbox/APm"] == pytest.approx(100)


@pytest.mark.parametrize("tags", [True, False])
def test_invalid_parts_of_a_mask_are_left_out(tmp_path, tags):
    """As the loader leaves them out; pycocotools reads four numbers that come first as a box, and fails."""
    dataset = make_dataset(tmp_path, {1: [(0, BOX)]}, tags=tags)
    rewritten(dataset, lambda rows: rows[0]["segmentation"].insert(0, [1, 2, 3, 4]))
    assert ground_truth(dataset).dataset["annotations"][0]["area"] == 1600
    result = evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]}, with_masks=True), ("bbox", "segm")).metrics
    assert result["bbox/AP"] == result["segm/AP"] == pytest.approx(100)


def test_crowd_regions_are_ignored(tmp_path):
    crowd_mask = {"size": [200, 200], "counts": [0, 200 * 90, 200 * 110]}
    crowd = {"id": 99, "image_id": 1, "category_id": 7, "bbox": [0, 0, 90, 200], "area": 18000.0}
    crowd |= {"iscrowd": 1, "segmentation": crowd_mask}
    dataset = make_dataset(tmp_path, {1: [(0, FAR)]}, extra=[crowd])
    found = predict({1: [(0, (5, 60, 45, 100), 0.95), (0, FAR, 0.9)]})
    assert evaluate_coco(dataset, found).metrics["bbox/AP"] == pytest.approx(100)


def test_errors_are_sentences(tmp_path):
    dataset = make_dataset(tmp_path, {1: [(0, BOX)]})
    with pytest.raises(DataError, match="does not have.*first: 12"):
        evaluate_coco(dataset, predict({12: [(0, BOX, 0.9)]}))
    with pytest.raises(DataError, match="has no masks"):
        evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]}), ("segm",))
    with pytest.raises(ConfigError, match="choices: bbox, segm"):
        evaluate_coco(dataset, [], ("box",))
    with pytest.raises(DataError, match="no object with a bbox"):
        evaluate_coco(make_dataset(tmp_path, {1: []}), [])
    voc = DetectionDataset("v", [{"image_id": "i", "file_name": "i.jpg", "annotations": [{"bbox": BOX}]}], ["a"], "voc")
    with pytest.raises(DataError, match="object without a mask"):
        evaluate(voc, [], mask_on=True)


def plain_pycocotools(dataset, predictions, task):
    """(six headline numbers, AP per class): pycocotools on files, as its own example does."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = []
    for prediction in predictions:
        for n in range(len(prediction)):
            x0, y0, x1, y1 = (float(v) for v in prediction.boxes[n])
            what = {"bbox": [x0, y0, x1 - x0, y1 - y0]} if task == "bbox" else {"segmentation": prediction.masks[n]}
            category = dataset.category_ids[int(prediction.classes[n])]
            score = float(prediction.scores[n])
            results.append({"image_id": prediction.image_id, "category_id": category, "score": score, **what})
    truth = COCO(dataset.json_file)
    evaluation = COCOeval(truth, truth.loadRes(results), task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    per_class = {}
    for c, category in dataset.category_ids.items():
        values = evaluation.eval["precision"][:, :, sorted(truth.getCatIds()).index(category), 0, 2]
        per_class[dataset.classes[c]] = 100 * values[values > -1].mean() if (values > -1).any() else None
    return 100 * evaluation.stats[:6], per_class


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_plain_pycocotools(tmp_path, seed):
    dataset, predictions = random_coco(tmp_path, seed, images=12)
    scores = evaluate(dataset, predictions, mask_on=True)
    for task in ("bbox", "segm"):
        stats, per_class = plain_pycocotools(dataset, predictions, task)
        assert stats[0] > 0
        for name, value in zip(STATS, stats, strict=True):
            if value >= 0:
                assert scores.metrics[f"{task}/{name}"] == pytest.approx(value, abs=1e-4)
            else:
                assert f"{task}/{name}" not in scores.metrics
        assert set(per_class) == {"c0", "c1", "c2"}
        for name, value in per_class.items():
            assert scores.metrics.get(f"{task}/AP-{name}") == pytest.approx(value, abs=1e-4)
    # The bins of masks go by mask area, those of boxes by annotation area: they must not be the same numbers.
    assert scores.metrics["segm/APm"] != pytest.approx(scores.metrics["bbox/APm"], abs=1e-4)


def test_rows_and_curves(tmp_path):
    # Class a: two objects, one found with IoU 1, then nothing. 51 of the 101 recall levels (0 to .50) at precision 1.
    crowd = {"id": 99, "image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9], "area": 81.0, "iscrowd": 1}
    crowd |= {"segmentation": {"size": [200, 200], "counts": [0, 9, 200 * 200 - 9]}}
    dataset = make_dataset(tmp_path, {1: [(0, BOX), (0, FAR)]}, extra=[crowd])
    scores = evaluate_coco(dataset, predict({1: [(0, BOX, 0.9)]}))
    half = 100 * 51 / 101
    # The crowd is no object to find; class b has no row.
    assert scores.per_class["bbox"] == {"a": pytest.approx({"AP": half, "AP50": half, "AP75": half, "objects": 2})}
    curve = scores.curves["bbox"]["a"]
    assert curve.recall == pytest.approx([n / 100 for n in range(101)]) and curve.ap == pytest.approx(half)
    assert curve.precision == pytest.approx([1.0] * 51 + [0.0] * 50)


def test_scores_of_both_tasks_survive_json(tmp_path):
    dataset, predictions = random_coco(tmp_path, 3, images=6)
    before = evaluate(dataset, predictions, mask_on=True)
    save_scores(tmp_path / "s.json", before)
    after = load_scores(tmp_path / "s.json")
    assert after.metrics == before.metrics and after.per_class == before.per_class
    assert (after.dataset, after.evaluator) == ("random", "own") and set(after.curves) == {"bbox", "segm"}
    for task, curves in before.curves.items():
        for name, curve in curves.items():
            assert after.curves[task][name].precision == pytest.approx(curve.precision, abs=1e-4)
