"""detectron2's own evaluators on our predictions, for comparison (TRANSFER.EVALUATOR detectron2).

They read files, so the ground truth is written to a temporary folder in the form that they expect: VOC xml with every
tag, a COCO json with every field. Predictions go in through their public ``process``. Both engines' predictions can be
evaluated this way wherever detectron2 imports.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.structures import Boxes, Instances

from ssl_loc.transfer.coco_metric import evaluate_coco, ground_truth, joined, scores_of
from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.detection_scores import DetectionScores, class_row, curve
from ssl_loc.transfer.detectron2_engine.noise import quiet
from ssl_loc.transfer.predictions import ImagePrediction, check_predictions
from ssl_loc.transfer.voc_metric import IOU_THRESHOLDS
from ssl_loc.utils.errors import DataError

logger = logging.getLogger(__name__)

NAME = "detectron2"
# The years whose metric detectron2 knows.
_VOC_YEARS = (2007, 2012)
_SPLIT = "split"


def check_dataset(dataset: DetectionDataset) -> None:
    """Refuse a set that detectron2's evaluators cannot read.

    Raises:
        DataError: a VOC year other than 2007 and 2012, or boxes that are not whole pixels.
    """
    if dataset.kind != "voc":
        return
    if dataset.year not in _VOC_YEARS:
        raise DataError(
            f"{dataset.name} is of the year {dataset.year}, and detectron2's VOC evaluator knows only 2007 "
            "(eleven-point AP) and 2012 (area); set TRANSFER.EVALUATOR own"
        )
    for record in dataset.dicts:
        if any(side != int(side) for a in record["annotations"] for side in a["bbox"]):
            raise DataError(
                f"{record['file_name']} of {dataset.name} has a box with fractions of pixels, and detectron2's VOC "
                "evaluator reads whole numbers only; set TRANSFER.EVALUATOR own"
            )


def evaluate(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], tasks: Sequence[str] = ("bbox",)
) -> DetectionScores:
    """Like :func:`ssl_loc.transfer.metrics.evaluate`, by detectron2's evaluators."""
    check_dataset(dataset)
    check_predictions(dataset, predictions)
    if dataset.kind == "coco":
        return _evaluate_coco(dataset, predictions, tasks)
    return _evaluate_voc(dataset, predictions)


class _KeepingCOCOEvaluator(COCOEvaluator):
    """Keeps the evaluations, which hold the curves, beside the numbers made from them."""

    evaluations: dict[str, Any]

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> Any:
        self.evaluations[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


def _evaluate_coco(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], tasks: Sequence[str]
) -> DetectionScores:
    if not any(len(prediction) for prediction in predictions):
        logger.info("no detections on %s: detectron2's evaluator would give NaN, counted as 0", dataset.name)
        zero = evaluate_coco(dataset, predictions, tasks)
        return DetectionScores(zero.dataset, NAME, zero.metrics, zero.per_class, zero.curves)
    with tempfile.TemporaryDirectory(prefix="coco_evaluation_") as folder:
        json_file = Path(folder) / "instances.json"
        json_file.write_text(json.dumps(ground_truth(dataset).dataset), encoding="utf-8")
        ids = {category: index for index, category in dataset.category_ids.items()}
        with (
            _catalogued(
                json_file=str(json_file), thing_classes=dataset.classes, thing_dataset_id_to_contiguous_id=ids
            ) as name,
            quiet(),
        ):
            evaluator = _KeepingCOCOEvaluator(name, tasks=tuple(tasks), distributed=False)
            evaluator.evaluations = {}
            _process(evaluator, dataset, predictions, masks="segm" in tasks)
            text = io.StringIO()  # pycocotools prints its progress and a table
            with contextlib.redirect_stdout(text):
                evaluator.evaluate(img_ids=sorted(record["image_id"] for record in dataset.dicts))
            logger.debug("%s\n%s", dataset.name, text.getvalue())
    parts = [scores_of(dataset, evaluator.evaluations[task], task) for task in tasks]
    return joined(dataset.name, NAME, parts)


def _evaluate_voc(dataset: DetectionDataset, predictions: Sequence[ImagePrediction]) -> DetectionScores:
    with tempfile.TemporaryDirectory(prefix="voc_evaluation_") as folder:
        root = Path(folder)
        _write_voc(root, dataset)
        described = {"dirname": folder, "split": _SPLIT, "year": dataset.year, "thing_classes": dataset.classes}
        with _catalogued(**described) as name:
            evaluator = PascalVOCDetectionEvaluator(name)
            evaluator.reset()
            _process(evaluator, dataset, predictions, masks=False)
        # Its evaluate() gives the means only; this is its loop over classes and thresholds, by its own voc_eval.
        table, curves = [], []
        with quiet():
            for index in range(len(dataset.classes)):
                lines = evaluator._predictions.get(index, [])
                (root / f"{index}.txt").write_text("\n".join(lines), encoding="utf-8")
                points = [_voc_eval(root, dataset, index, threshold) for threshold in IOU_THRESHOLDS]
                table.append([100.0 * ap for *_, ap in points])
                curves.append(points[0])
    return _voc_scores(dataset, np.array(table), curves)


def _voc_eval(root: Path, dataset: DetectionDataset, index: int, threshold: float) -> tuple[Any, Any, float]:
    # "{}" is filled with the class and the image; the number of a class serves where a name would be no file name.
    with np.errstate(invalid="ignore"):  # 0 / 0 in a class without objects
        return voc_eval(
            str(root / f"{index}.txt"),
            str(root / "Annotations" / "{}.xml"),
            str(root / "ImageSets" / "Main" / f"{_SPLIT}.txt"),
            dataset.classes[index],
            ovthresh=threshold,
            use_07_metric=dataset.year == 2007,
        )


def _voc_scores(dataset: DetectionDataset, table: np.ndarray, curves: list[tuple[Any, Any, float]]) -> DetectionScores:
    """``table``: AP in percent (classes, thresholds); classes without objects count as detectron2 counts them."""
    means = table.mean(axis=0)
    metrics = {"bbox/AP": float(means.mean()), "bbox/AP50": float(means[0]), "bbox/AP75": float(means[5])}
    metrics |= {f"bbox/AP-{name}": float(row.mean()) for name, row in zip(dataset.classes, table, strict=True)}
    undefined = [name for name, row in zip(dataset.classes, table, strict=True) if not np.isfinite(row).all()]
    if undefined:
        logger.warning(
            "%s: detectron2's evaluator gives NaN for the mean, because %s have detections but no objects; these "
            "numbers are left out (TRANSFER.EVALUATOR own leaves out the classes instead)",
            dataset.name,
            ", ".join(undefined),
        )
    objects = [0] * len(dataset.classes)
    for record in dataset.dicts:
        for annotation in record["annotations"]:
            objects[annotation["category_id"]] += not annotation.get("difficult", 0)
    present = [index for index, count in enumerate(objects) if count]
    names = dataset.classes
    return DetectionScores(
        dataset.name,
        NAME,
        {key: value for key, value in metrics.items() if np.isfinite(value)},
        {"bbox": {names[i]: class_row(table[i], objects[i]) for i in present}},
        {"bbox": {names[i]: curve(curves[i][0], curves[i][1], table[i][0]) for i in present}},
    )


def _process(evaluator: Any, dataset: DetectionDataset, predictions: Sequence[ImagePrediction], masks: bool) -> None:
    size = {record["image_id"]: (record["height"], record["width"]) for record in dataset.dicts}
    evaluator.reset()
    for prediction in predictions:
        instances = Instances(size[prediction.image_id])
        instances.pred_boxes = Boxes(torch.from_numpy(prediction.boxes))
        instances.scores = torch.from_numpy(prediction.scores)
        instances.pred_classes = torch.from_numpy(prediction.classes)
        if masks:
            instances.pred_masks = _decoded(prediction, size[prediction.image_id])
        evaluator.process([{"image_id": prediction.image_id}], [{"instances": instances}])


def _decoded(prediction: ImagePrediction, size: tuple[int, int]) -> torch.Tensor:
    from pycocotools import mask as coco_mask

    if not len(prediction):
        return torch.zeros((0, *size), dtype=torch.bool)
    if prediction.masks is None:
        raise DataError(
            f"the prediction for image {prediction.image_id} has no masks; mask AP needs MODEL.MASK_ON True"
        )
    return torch.from_numpy(coco_mask.decode(prediction.masks).transpose(2, 0, 1).astype(bool))


@contextlib.contextmanager
def _catalogued(**values: Any) -> Iterator[str]:
    """Name of a temporary entry in detectron2's metadata catalog, which its evaluators look into."""
    name = f"ssl_loc/evaluation/{id(values)}"
    MetadataCatalog.get(name).set(**values)
    try:
        yield name
    finally:
        MetadataCatalog.remove(name)


def _write_voc(root: Path, dataset: DetectionDataset) -> None:
    """The records as a VOC folder: 1-based whole pixels, every tag that detectron2 reads."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [str(record["image_id"]) for record in dataset.dicts]
    (root / "ImageSets" / "Main" / f"{_SPLIT}.txt").write_text("\n".join(names), encoding="utf-8")
    for name, record in zip(names, dataset.dicts, strict=True):
        top = ElementTree.Element("annotation")
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            tag = ElementTree.SubElement(top, "object")
            fields = {
                "name": dataset.classes[annotation["category_id"]],
                "pose": "Unspecified",
                "truncated": 0,
                "difficult": annotation.get("difficult", 0),
            }
            for key, value in fields.items():
                ElementTree.SubElement(tag, key).text = str(value)
            box = ElementTree.SubElement(tag, "bndbox")
            for key, value in {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}.items():
                ElementTree.SubElement(box, key).text = str(int(value))
        ElementTree.ElementTree(top).write(root / "Annotations" / f"{name}.xml", encoding="utf-8")
