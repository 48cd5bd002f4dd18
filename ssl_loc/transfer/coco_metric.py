"""COCO box and mask AP, by pycocotools, without its traps.

No detections give 0 (pycocotools' ``loadRes([])`` raises IndexError); mask results carry no ``bbox``, so that the
small/medium/large bins use mask areas; category ids need not be contiguous; nothing is printed.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import read_json

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")
# The first six numbers of COCOeval.summarize(), in its order.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate_coco(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], tasks: Sequence[str] = ("bbox",)
) -> dict[str, float]:
    """COCO AP in percent.

    Args:
        dataset: made from a COCO json (``dataset.json_file``); only its ``dicts``' images are evaluated.
        predictions: one per image at most.
        tasks: of "bbox", "segm".

    Returns:
        "<task>/AP", "AP50", "AP75", and where the data has such objects "APs", "APm", "APl" and "AP-<class>".

    Raises:
        DataError: the images have no object at all, or a prediction names an unknown image or lacks masks.
    """
    unknown_tasks = [task for task in tasks if task not in TASKS]
    if unknown_tasks:
        raise ConfigError(f"no COCO task is called {unknown_tasks[0]!r}; choose from {', '.join(TASKS)}")
    image_ids = [record["image_id"] for record in dataset.dicts]
    known = set(image_ids)
    strays = [p.image_id for p in predictions if p.image_id not in known]
    if strays:
        raise DataError(
            f"{len(strays)} predictions are for images that {dataset.name} does not have (first: {strays[0]}); "
            "evaluate them on the dataset they were made from"
        )
    truth = _ground_truth(dataset)
    found: dict[str, float] = {}
    for task in tasks:
        found |= _evaluate_task(dataset, truth, predictions, task, image_ids)
    return found


def _evaluate_task(
    dataset: DetectionDataset, truth: Any, predictions: Sequence[ImagePrediction], task: str, image_ids: list
) -> dict[str, float]:
    from pycocotools.cocoeval import COCOeval

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        results = _results(truth, to_coco_results(dataset, predictions, task))
        evaluation = COCOeval(truth, results, task)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    logger.debug("%s %s\n%s", dataset.name, task, text.getvalue())
    # pycocotools writes -1 where there is nothing to find.
    stats = dict(zip(STATS, evaluation.stats, strict=False))
    if stats["AP"] < 0:
        raise DataError(
            f"{dataset.name} has no object with a {task} to find in its {len(image_ids)} images; AP is undefined"
        )
    found = {f"{task}/{name}": 100.0 * float(value) for name, value in stats.items() if value >= 0}
    return found | _per_class(dataset, evaluation, task)


def _per_class(dataset: DetectionDataset, evaluation: Any, task: str) -> dict[str, float]:
    # precision: (thresholds, recall levels, classes, areas, maximal detections); area "all", 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    column = {category: k for k, category in enumerate(evaluation.params.catIds)}
    found = {}
    for index, name in enumerate(dataset.classes):
        values = precision[:, :, column[dataset.category_ids[index]]]
        if (values >= 0).any():
            found[f"{task}/AP-{name}"] = 100.0 * float(values[values >= 0].mean())
    return found


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


def _ground_truth(dataset: DetectionDataset) -> Any:
    """The json as a ``COCO`` object, with the tags that hand-made files often lack."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    if not dataset.json_file:
        raise DataError(f"{dataset.name} has no COCO json file, so COCO AP cannot be computed; use its VOC metric")
    content = read_json(dataset.json_file)
    content.setdefault("info", {})
    size = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for number, annotation in enumerate(content.setdefault("annotations", []), start=1):
        annotation.setdefault("id", number)
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            shape = annotation.get("segmentation")
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
