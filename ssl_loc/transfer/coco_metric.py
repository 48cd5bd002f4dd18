"""COCO box and mask AP, by pycocotools, without its traps.

No detections give 0 (pycocotools' ``loadRes([])`` raises IndexError); mask results carry no ``bbox``, so that the
small/medium/large bins use mask areas; category ids need not be contiguous; nothing is printed.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_loc.data.datasets.coco import is_polygon
from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.detection_scores import DetectionScores, class_row, curve
from ssl_loc.transfer.predictions import ImagePrediction, check_predictions
from ssl_loc.utils.errors import DataError, check_choice
from ssl_loc.utils.file_io import read_json

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")
# The first six numbers of COCOeval.summarize(), in its order.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate_coco(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], tasks: Sequence[str] = ("bbox",)
) -> DetectionScores:
    """COCO AP in percent.

    Args:
        dataset: made from a COCO json (``dataset.json_file``); only its ``dicts``' images are evaluated.
        predictions: one per image at most.
        tasks: of "bbox", "segm".

    Returns:
        Metrics "<task>/AP", "AP50", "AP75", and where the data has such objects "APs", "APm", "APl" and "AP-<class>";
        rows and curves of every class that has objects to find.

    Raises:
        DataError: the images have no object at all, or a prediction does not belong to the dataset or lacks masks.
    """
    for task in tasks:
        check_choice("the COCO task", task, TASKS)
    check_predictions(dataset, predictions)
    truth = ground_truth(dataset)
    parts = [scores_of(dataset, _accumulated(dataset, truth, predictions, task), task) for task in tasks]
    return joined(dataset.name, "own", parts)


def joined(dataset: str, evaluator: str, parts: Sequence[DetectionScores]) -> DetectionScores:
    """The tasks of one set together."""
    return DetectionScores(
        dataset,
        evaluator,
        {key: value for part in parts for key, value in part.metrics.items()},
        {task: rows for part in parts for task, rows in part.per_class.items()},
        {task: curves for part in parts for task, curves in part.curves.items()},
    )


def scores_of(dataset: DetectionDataset, evaluation: Any, task: str) -> DetectionScores:
    """Everything out of a summarised ``COCOeval`` (pycocotools' or detectron2's)."""
    # pycocotools writes -1 where there is nothing to find.
    stats = dict(zip(STATS, evaluation.stats, strict=False))
    if stats["AP"] < 0:
        raise DataError(
            f"{dataset.name} has no object with a {task} to find in its {len(dataset.dicts)} images; AP is undefined"
        )
    metrics = {f"{task}/{name}": 100.0 * float(value) for name, value in stats.items() if value >= 0}
    # (thresholds, recall levels, classes): all areas, 100 detections per image.
    precision = 100.0 * evaluation.eval["precision"][:, :, :, 0, -1]
    objects = _objects_to_find(evaluation)
    rows, curves = {}, {}
    for index, name in enumerate(dataset.classes):
        column = evaluation.params.catIds.index(dataset.category_ids[index])
        values = precision[:, :, column]
        if (values < 0).any():
            continue
        per_threshold = values.mean(axis=1)
        metrics[f"{task}/AP-{name}"] = float(values.mean())
        rows[name] = class_row(per_threshold, objects[dataset.category_ids[index]])
        curves[name] = curve(evaluation.params.recThrs, values[0] / 100.0, per_threshold[0])
    return DetectionScores(dataset.name, "own", metrics, {task: rows}, {task: curves})


def _accumulated(dataset: DetectionDataset, truth: Any, predictions: Sequence[ImagePrediction], task: str) -> Any:
    from pycocotools.cocoeval import COCOeval

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        results = _results(truth, to_coco_results(dataset, predictions, task))
        evaluation = COCOeval(truth, results, task)
        evaluation.params.imgIds = sorted(record["image_id"] for record in dataset.dicts)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    logger.debug("%s %s\n%s", dataset.name, task, text.getvalue())
    return evaluation


def _objects_to_find(evaluation: Any) -> Counter:
    """Category id in the json -> annotations that are not to be ignored, in the images that were evaluated."""
    chosen = set(evaluation.params.imgIds)
    return Counter(
        annotation["category_id"]
        for annotation in evaluation.cocoGt.dataset["annotations"]
        if annotation["image_id"] in chosen and not annotation.get("iscrowd", 0) and not annotation.get("ignore", 0)
    )


def to_coco_results(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], task: str
) -> list[dict[str, Any]]:
    """Predictions in COCO's result format: boxes XYWH, json category ids; mask results have no ``bbox``."""
    results = []
    for prediction in predictions:
        if task == "segm" and prediction.masks is None and len(prediction):
            raise DataError(
                f"the prediction for image {prediction.image_id} has no masks; mask AP needs MODEL.MASK_ON True"
            )
        for position in range(len(prediction)):
            result: dict[str, Any] = {
                "image_id": prediction.image_id,
                "category_id": dataset.category_ids[int(prediction.classes[position])],
                "score": float(prediction.scores[position]),
            }
            if task == "segm":
                assert prediction.masks is not None  # checked above
                result["segmentation"] = prediction.masks[position]
            else:
                x0, y0, x1, y1 = prediction.boxes[position].astype(np.float64).tolist()
                result["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            results.append(result)
    return results


def ground_truth(dataset: DetectionDataset) -> Any:
    """The json as a ``COCO`` object, with the tags that hand-made files often lack."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    if not dataset.json_file:
        raise DataError(f"{dataset.name} has no COCO json file, so COCO AP cannot be computed; use its VOC metric")
    content = read_json(dataset.json_file)
    content.setdefault("info", {})
    content["annotations"] = content.get("annotations") or []
    size = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for number, annotation in enumerate(content["annotations"], start=1):
        # pycocotools marks a detection that found nothing with id 0, so an object of that id is never found; and of two
        # objects with one id it forgets one.
        annotation["id"] = number
        annotation.setdefault("iscrowd", 0)
        shape = annotation.get("segmentation")
        if isinstance(shape, list):
            # As the loader reads them; pycocotools takes four numbers for a box, and no flat list.
            shape = annotation["segmentation"] = [part for part in shape if is_polygon(part)]
        if "area" not in annotation:
            if isinstance(shape, list) and shape:
                codes = coco_mask.merge(coco_mask.frPyObjects(shape, *size[annotation["image_id"]]))
                annotation["area"] = float(coco_mask.area(codes))
            else:
                annotation["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])
    truth = COCO()
    truth.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _results(truth: Any, results: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    if results:
        return truth.loadRes(results)
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty
