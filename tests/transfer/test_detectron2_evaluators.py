"""Our VOC and COCO numbers against detectron2's evaluators, and TRANSFER.EVALUATOR detectron2 against both."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from helpers.coco_cases import SIDE, random_coco
from helpers.voc_cases import make_dataset, predict, random_case, write_voc_tree

from ssl_loc.transfer.metrics import check_evaluator, evaluate
from ssl_loc.transfer.voc_metric import evaluate_voc
from ssl_loc.utils.errors import ConfigError, DataError, EngineUnavailableError

pytestmark = pytest.mark.detectron2
BOX, FAR = (10, 10, 30, 30), (60, 60, 80, 80)
# (seed, images, classes, share of difficult objects): from a few objects per class to some hundred.
SETS = [
    (0, 2, 1, 0.0), (1, 3, 2, 0.3), (2, 4, 3, 0.2), (3, 8, 3, 0.5), (4, 12, 5, 0.0), (5, 20, 3, 0.2),
    (6, 30, 3, 0.2), (7, 40, 8, 0.1), (8, 60, 2, 0.3), (9, 100, 4, 0.2), (10, 150, 20, 0.1), (11, 200, 3, 0.2),
]  # fmt: skip


@pytest.fixture
def detectron2():
    return pytest.importorskip("detectron2", reason="detectron2 is not installed; its evaluators are the reference")


def detectron2_voc(root, objects, predictions, classes, year):
    """The three numbers of detectron2's evaluator, used as its own tools use it."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    write_voc_tree(root, objects, classes)
    name = f"voc_metric_test_{root}"
    MetadataCatalog.get(name).set(dirname=str(root), split="test", year=year, thing_classes=list(classes))
    try:
        evaluator = PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        for prediction in predictions:
            instances = Instances((100, 100))
            instances.pred_boxes = Boxes(torch.from_numpy(prediction.boxes))
            instances.scores = torch.from_numpy(prediction.scores)
            instances.pred_classes = torch.from_numpy(prediction.classes)
            evaluator.process([{"image_id": prediction.image_id}], [{"instances": instances}])
        return evaluator.evaluate()["bbox"]
    finally:
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize(("seed", "images", "classes", "difficult"), SETS)
def test_voc_equals_detectron2(detectron2, tmp_path, seed, images, classes, difficult, year):
    objects, found = random_case(seed, images, classes, difficult)
    # detectron2 gives NaN for a class with detections but without objects: an object for everybody, in the first image.
    first = next(iter(objects))
    objects[first] = objects[first] + [(c, [1.0 + 4 * c, 85.0, 4.0 + 4 * c, 95.0], 0) for c in range(classes)]
    names = [f"c{n}" for n in range(classes)]
    predictions = predict(found)
    expected = detectron2_voc(tmp_path, objects, predictions, names, year)
    dataset = make_dataset(objects, names, year)
    ours = evaluate_voc(dataset, predictions, year == 2007, detectron2_compat=True).metrics
    theirs = evaluate(dataset, predictions, False, "detectron2").metrics
    assert len(expected) == 3 and expected["AP50"] > 0
    for key, value in expected.items():
        assert ours[f"bbox/{key}"] == pytest.approx(value, abs=5e-3)
        assert theirs[f"bbox/{key}"] == pytest.approx(value, abs=1e-9)
    # Without the rounding of its text files the numbers are near, not equal.
    exact = evaluate(dataset, predictions, False).metrics
    assert exact["bbox/AP"] == pytest.approx(expected["AP"], abs=3)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_coco_equals_detectron2(detectron2, tmp_path, seed, fast):
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances
    from pycocotools import mask as coco_mask

    dataset, predictions = random_coco(tmp_path, seed, images=12)
    name = f"coco_metric_test_{tmp_path}"
    ids = {v: k for k, v in dataset.category_ids.items()}
    MetadataCatalog.get(name).set(
        json_file=dataset.json_file, thing_classes=dataset.classes, thing_dataset_id_to_contiguous_id=ids
    )
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, use_fast_impl=fast)
    evaluator.reset()
    for prediction in predictions:
        instances = Instances((SIDE, SIDE))
        instances.pred_boxes = Boxes(torch.from_numpy(prediction.boxes))
        instances.scores = torch.from_numpy(prediction.scores)
        instances.pred_classes = torch.from_numpy(prediction.classes)
        masks = [coco_mask.decode(code) for code in prediction.masks]
        instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, SIDE, SIDE).astype(bool))
        evaluator.process([{"image_id": prediction.image_id}], [{"instances": instances}])
    expected = evaluator.evaluate()
    MetadataCatalog.remove(name)
    for scores in (evaluate(dataset, predictions, True), evaluate(dataset, predictions, True, "detectron2")):
        assert expected["bbox"]["AP"] > 0 and set(expected) == {"bbox", "segm"}
        for task, numbers in expected.items():
            # NaN there is "nothing to find", which has no number here.
            finite = {f"{task}/{key}": value for key, value in numbers.items() if np.isfinite(value)}
            ours = {key: value for key, value in scores.metrics.items() if key.startswith(task)}
            # detectron2 writes its row names without classes' order: AP-<class> by position in thing_classes, while the
            # evaluation is sorted by category id; with unsorted ids its names are wrong, so compare them as a set.
            means = {key: value for key, value in finite.items() if "AP-" not in key}
            assert {key: ours[key] for key in means} == pytest.approx(means, abs=1e-4)
            per_class = sorted(value for key, value in finite.items() if "AP-" in key)
            assert sorted(v for k, v in ours.items() if "AP-" in k) == pytest.approx(per_class, abs=1e-4)


def test_rows_and_curves_of_both_evaluators_agree(detectron2, tmp_path, capsys):
    dataset, predictions = random_coco(tmp_path, 7, images=8)
    own, theirs = (evaluate(dataset, predictions, True, name) for name in ("own", "detectron2"))
    assert capsys.readouterr().out == ""
    assert (own.evaluator, theirs.evaluator) == ("own", "detectron2")
    assert theirs.metrics == pytest.approx(own.metrics, abs=1e-4)
    for task in ("bbox", "segm"):
        assert set(theirs.per_class[task]) == set(own.per_class[task])
        for name, row in own.per_class[task].items():
            assert theirs.per_class[task][name] == pytest.approx(row, abs=1e-4)
            found = theirs.curves[task][name]
            assert found.precision == pytest.approx(own.curves[task][name].precision, abs=1e-6)
    objects, found = random_case(12, 30)
    voc = make_dataset(objects, "abc", 2007)
    own, theirs = (evaluate(voc, predict(found), False, name) for name in ("own", "detectron2"))
    for name, row in own.per_class["bbox"].items():
        assert theirs.per_class["bbox"][name]["objects"] == row["objects"]


def test_detectron2s_traps_are_said(detectron2, tmp_path, caplog):
    objects = {"i": [(0, BOX, 0)], "j": []}
    found = predict({"i": [(0, BOX, 0.9), (1, FAR, 0.9)]})
    with caplog.at_level("WARNING"):
        metrics = evaluate(make_dataset(objects, "ab"), found, False, "detectron2").metrics
    assert "because b have detections but no objects" in caplog.text
    assert metrics == {"bbox/AP-a": pytest.approx(100)}
    # In the metric of 2007 the class counts as 0.
    assert evaluate(make_dataset(objects, "ab", 2007), found, False, "detectron2").metrics["bbox/AP"] == pytest.approx(
        50
    )
    dataset, _ = random_coco(tmp_path, 0)
    assert evaluate(dataset, [], True, "detectron2").metrics["segm/AP"] == 0
    with pytest.raises(DataError, match="is of the year 2010.*EVALUATOR own"):
        check_evaluator("detectron2", make_dataset(objects, "ab", 2010))
    with pytest.raises(DataError, match="fractions of pixels.*EVALUATOR own"):
        check_evaluator("detectron2", make_dataset({"i": [(0, (0.5, 0, 9, 9), 0)]}))


def test_choices_and_absence(monkeypatch):
    dataset = make_dataset({"i": [(0, BOX, 0)]})
    with pytest.raises(ConfigError, match="TRANSFER.EVALUATOR is 'detectron'; did you mean detectron2. choices: own, "):
        check_evaluator("detectron", dataset)
    check_evaluator("own", dataset)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "detectron2" else find(name, *a))
    with pytest.raises(
        EngineUnavailableError, match="EVALUATOR is detectron2, .*not installed.*set TRANSFER.EVALUATOR own"
    ):
        check_evaluator("detectron2", dataset)
