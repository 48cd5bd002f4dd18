"""The one evaluation both detection engines use: the metric follows from the dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_loc.transfer.coco_metric import evaluate_coco
from ssl_loc.transfer.datasets import DetectionDataset, require_masks
from ssl_loc.transfer.detection_scores import DetectionScores
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.voc_metric import evaluate_voc
from ssl_loc.utils.errors import EngineUnavailableError, check_choice

# The numbers that go into tables; everything else is detail.
HEADLINE = ("AP", "AP50", "AP75")
OWN, DETECTRON2 = "own", "detectron2"


def evaluate(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], mask_on: bool, evaluator: str = OWN
) -> DetectionScores:
    """AP in percent: "bbox/AP", "bbox/AP50", "bbox/AP75", per-class "bbox/AP-<class>", and "segm/..." with masks.

    COCO sets are evaluated by pycocotools; VOC sets by the VOC rules, with eleven-point AP exactly for the year 2007.

    Args:
        evaluator: "own", or "detectron2" for its evaluators on the same predictions (of either engine).
    """
    tasks = ("bbox", "segm") if mask_on else ("bbox",)
    if dataset.kind == "voc" and mask_on:
        require_masks(dataset)
    if evaluator != OWN:
        check_evaluator(evaluator, dataset)
        from ssl_loc.transfer.detectron2_engine.evaluators import evaluate as by_detectron2

        return by_detectron2(dataset, predictions, tasks)
    if dataset.kind == "coco":
        return evaluate_coco(dataset, predictions, tasks)
    return evaluate_voc(dataset, predictions, use_07_metric=dataset.year == 2007)


def check_evaluator(evaluator: str, dataset: DetectionDataset) -> None:
    """Raise, before anything is trained, if ``evaluator`` (TRANSFER.EVALUATOR) will not be able to judge ``dataset``.

    Raises:
        ConfigError: no such evaluator.
        EngineUnavailableError: detectron2 does not import here.
        DataError: detectron2's evaluator cannot read such annotations.
    """
    check_choice("TRANSFER.EVALUATOR", evaluator, (OWN, DETECTRON2))
    if evaluator == OWN:
        return
    from ssl_loc.transfer.detectron2_engine import Detectron2Engine

    usable, reason = Detectron2Engine().available()
    if not usable:
        raise EngineUnavailableError(
            f"TRANSFER.EVALUATOR is {DETECTRON2}, which cannot run here: {reason}; or set TRANSFER.EVALUATOR {OWN}"
        )
    from ssl_loc.transfer.detectron2_engine.evaluators import check_dataset

    check_dataset(dataset)


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """Only the table's numbers, in the table's order."""
    keys = [f"{task}/{name}" for task in ("bbox", "segm") for name in HEADLINE]
    return {key: metrics[key] for key in keys if key in metrics}
