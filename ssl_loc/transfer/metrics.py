"""The one evaluation both detection engines use: the metric follows from the dataset."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_loc.transfer.coco_metric import evaluate_coco
from ssl_loc.transfer.datasets import DetectionDataset, require_masks
from ssl_loc.transfer.detection_scores import DetectionScores
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.voc_metric import evaluate_voc

# The numbers that go into tables; everything else is detail.
HEADLINE = ("AP", "AP50", "AP75")


def evaluate(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], mask_on: bool, evaluator: str = "own"
) -> DetectionScores:
    """AP in percent: "bbox/AP", "bbox/AP50", "bbox/AP75", per-class "bbox/AP-<class>", and "segm/..." with masks.

    COCO sets are evaluated by pycocotools; VOC sets by the VOC rules, with eleven-point AP exactly for the year 2007.
    """
    if dataset.kind == "coco":
        return evaluate_coco(dataset, predictions, ("bbox", "segm") if mask_on else ("bbox",))
    if mask_on:
        require_masks(dataset)
    return evaluate_voc(dataset, predictions, use_07_metric=dataset.year == 2007)


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """Only the table's numbers, in the table's order."""
    keys = [f"{task}/{name}" for task in ("bbox", "segm") for name in HEADLINE]
    return {key: metrics[key] for key in keys if key in metrics}
