"""Average precision of the PASCAL VOC devkit, over IoU .50:.05:.95.

Rules (VOC devkit; detectron2's evaluator follows the same):

- a detection is compared with the best-overlapping object of its class in its image only, and matches if IoU > t,
  strictly; the second match of an object is a false positive even if another object would fit;
- objects flagged ``difficult`` do not count as positives, and a detection matching one is neither right nor wrong;
- boxes are continuous here. The XML files are 1-based and inclusive; the loader's (xmin - 1, ymin - 1, xmax, ymax)
  makes the plain IoU equal to the devkit's with its "+ 1" widths;
- AP is the mean precision at eleven recall levels (VOC 2007) or the area under the envelope (from 2010 on).

Unlike detectron2's evaluator, a class without (non-difficult) objects is left out of the mean and named in the log; no
detections at all give 0; splits of one image, fractional coordinates and missing tags are fine.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.detection_scores import DetectionScores, class_row, curve
from ssl_loc.transfer.predictions import ImagePrediction, check_predictions
from ssl_loc.utils.errors import DataError

logger = logging.getLogger(__name__)

# .50:.05:.95, made from integers as detectron2 does, so that .55 is the float nearest to .55.
IOU_THRESHOLDS = tuple(t / 100.0 for t in range(50, 100, 5))
# Literally as in the devkit's port to Python: some of these are a rounding error above their decimal, and ``recall >=
# level`` is taken without tolerance. With ten objects per class a tolerance changes AP50 by up to 2 points.
RECALL_LEVELS = np.arange(0.0, 1.1, 0.1)


@dataclass
class ClassObjects:
    """Ground truth of one class: image position (m,), boxes (m, 4) float64, difficult (m,) bool; sorted by image."""

    image: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray


@dataclass
class ClassDetections:
    """Detections of one class: image position (n,), boxes (n, 4) float64, scores (n,) float64; best score first."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def evaluate_voc(
    dataset: DetectionDataset,
    predictions: Sequence[ImagePrediction],
    use_07_metric: bool,
    detectron2_compat: bool = False,
) -> DetectionScores:
    """VOC AP in percent.

    Args:
        dataset: ground truth; annotations with ``bbox`` XYXY, ``category_id``, ``difficult``.
        predictions: one per image at most; images without one count as without detections.
        use_07_metric: eleven-point AP (VOC 2007) instead of the area under the curve.
        detectron2_compat: round scores to 3 decimals and boxes to 1, sort unstably and count classes without objects as
            detectron2's evaluator does (0; NaN in the area metric if the class has detections). For parity tests only.

    Returns:
        Metrics "bbox/AP" (mean over the ten IoU thresholds), "bbox/AP50", "bbox/AP75" and "bbox/AP-<class>"; rows and
        curves of every class that has objects to find.

    Raises:
        DataError: no image has an object that counts, or a prediction is for an image or a class that the dataset does
            not have, or there are two for one image.
    """
    found = [_score_class(o, d, use_07_metric) for o, d in _by_class(dataset, predictions, detectron2_compat)]
    absent = [name for name, score in zip(dataset.classes, found, strict=True) if not score.objects]
    if absent and not detectron2_compat:
        logger.info("%s: left out of the mean, no objects to find: %s", dataset.name, ", ".join(absent))
    names = [name for name in dataset.classes if detectron2_compat or name not in absent]
    if not names:
        raise DataError(
            f"{dataset.name} has no annotated object that counts, so AP is not defined; check its annotations"
        )
    counted = {name: score for name, score in zip(dataset.classes, found, strict=True) if name in names}
    per_threshold = np.mean([score.ap for score in counted.values()], axis=0)
    metrics = {
        "bbox/AP": float(per_threshold.mean()),
        "bbox/AP50": float(per_threshold[0]),
        "bbox/AP75": float(per_threshold[5]),
    }
    metrics |= {f"bbox/AP-{name}": float(score.ap.mean()) for name, score in counted.items()}
    rows = {name: class_row(score.ap, score.objects) for name, score in counted.items()}
    curves = {name: curve(score.recall, score.precision, score.ap[0]) for name, score in counted.items()}
    return DetectionScores(dataset.name, "own", metrics, {"bbox": rows}, {"bbox": curves})


def precision_recall(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], category: int, iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(recall, precision, score) of one class along its detections, best first; empty arrays without any."""
    objects, detections = _by_class(dataset, predictions)[category]
    best_iou, best = match(objects, detections)
    recall, precision = _curve(objects, best_iou, best, iou)
    return recall, precision, detections.scores


@dataclass
class _ClassScore:
    """AP in percent (thresholds,), objects that count, and the full curve at IoU .5."""

    ap: np.ndarray
    objects: int
    recall: np.ndarray
    precision: np.ndarray


def _score_class(objects: ClassObjects, detections: ClassDetections, use_07_metric: bool) -> _ClassScore:
    best_iou, best = match(objects, detections)
    curves = [_curve(objects, best_iou, best, threshold) for threshold in IOU_THRESHOLDS]
    ap = np.array([100.0 * average_precision(*points, use_07_metric) for points in curves])
    return _ClassScore(ap, int(np.count_nonzero(~objects.difficult)), *curves[0])


def _by_class(
    dataset: DetectionDataset, predictions: Sequence[ImagePrediction], compat: bool = False
) -> list[tuple[ClassObjects, ClassDetections]]:
    """Ground truth and detections of every class, in the order of ``dataset.classes``."""
    check_predictions(dataset, predictions)
    objects = _objects(dataset)
    index = {record["image_id"]: position for position, record in enumerate(dataset.dicts)}
    image = np.array([index[p.image_id] for p in predictions for _ in range(len(p))], dtype=np.int64)
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(p.boxes for p in predictions)])
    scores = np.concatenate([np.zeros(0, np.float32), *(p.scores for p in predictions)])
    classes = np.concatenate([np.zeros(0, np.int64), *(p.classes for p in predictions)])
    if compat:
        boxes, scores = _as_text(boxes, scores)
    pairs = []
    for category, of_class in enumerate(objects):
        chosen = np.flatnonzero(classes == category)
        # Stable: equal scores keep the order in which the detector gave them, on every machine.
        order = chosen[np.argsort(-scores[chosen], kind=None if compat else "stable")]
        found = ClassDetections(image[order], boxes[order].astype(np.float64), scores[order].astype(np.float64))
        pairs.append((of_class, found))
    return pairs


def _objects(dataset: DetectionDataset) -> list[ClassObjects]:
    found: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in dataset.classes]
    for position, record in enumerate(dataset.dicts):
        for annotation in record["annotations"]:
            found[annotation["category_id"]].append((position, annotation))
    return [
        ClassObjects(
            image=np.array([position for position, _ in listed], dtype=np.int64),
            boxes=np.array([a["bbox"] for _, a in listed], dtype=np.float64).reshape(-1, 4),
            difficult=np.array([bool(a.get("difficult", 0)) for _, a in listed], dtype=bool),
        )
        for listed in found
    ]


def _as_text(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is left after detectron2's text file: 1-based boxes with one decimal, scores with three."""
    shift = np.array([1, 1, 0, 0], dtype=boxes.dtype)
    text = np.array([[float(f"{side:.1f}") for side in row] for row in boxes + shift]).reshape(-1, 4)
    return text - shift, np.array([float(f"{value:.3f}") for value in scores.tolist()])


def match(objects: ClassObjects, detections: ClassDetections) -> tuple[np.ndarray, np.ndarray]:
    """Best-overlapping object of every detection: IoU (n,) (-1 where its image has none) and object position (n,)."""
    total = len(detections.image)
    best_iou, best = np.full(total, -1.0), np.zeros(total, dtype=np.int64)
    start = np.searchsorted(objects.image, detections.image, side="left")
    count = np.searchsorted(objects.image, detections.image, side="right") - start
    busy = np.flatnonzero(count)
    if not len(busy):
        return best_iou, best
    # One row per (detection, object of its image), in detection order: every IoU of the class in one array operation.
    first = np.concatenate(([0], np.cumsum(count[busy])[:-1]))
    rows = np.repeat(np.arange(len(busy)), count[busy])
    candidate = np.arange(len(rows)) - first[rows] + start[busy][rows]
    iou = _iou(detections.boxes[busy][rows], objects.boxes[candidate])
    highest = np.maximum.reduceat(iou, first)
    # Of equal overlaps the first object is taken, as argmax does.
    at_best = np.flatnonzero(iou == highest[rows])
    _, unique_at = np.unique(rows[at_best], return_index=True)
    best_iou[busy], best[busy] = highest, candidate[at_best[unique_at]]
    return best_iou, best


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row-wise IoU of continuous XYXY boxes (n, 4) x (n, 4) -> (n,); 0 where both are empty."""
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0.0)
    common = sides.prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _curve(
    objects: ClassObjects, best_iou: np.ndarray, best: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection, best first; recall is NaN for a class without objects that count."""
    hit = best_iou > threshold
    # ``hit`` implies that the class has objects, so the look-up below never reads an empty array.
    ignored = np.zeros_like(hit)
    ignored[hit] = objects.difficult[best[hit]]
    claims = np.flatnonzero(hit & ~ignored)
    _, first = np.unique(best[claims], return_index=True)
    right = np.zeros(len(hit))
    right[claims[first]] = 1.0
    wrong = 1.0 - right
    wrong[ignored] = 0.0
    right, wrong = np.cumsum(right), np.cumsum(wrong)
    positives = np.count_nonzero(~objects.difficult)
    recall = right / positives if positives else np.full(len(right), np.nan)
    # The smallest float keeps 0/0 at 0 where the first detections match difficult objects.
    return recall, right / np.maximum(right + wrong, np.finfo(np.float64).eps)


def average_precision(recall: np.ndarray, precision: np.ndarray, use_07_metric: bool) -> float:
    """AP in 0..1 of a recall/precision curve (VOC devkit): eleven points, or the area under the precision envelope."""
    if use_07_metric:
        reached = [precision[recall >= level] for level in RECALL_LEVELS]
        return float(sum(values.max() if len(values) else 0.0 for values in reached) / len(RECALL_LEVELS))
    recall = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate(([0.0], precision, [0.0]))[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps + 1]))
