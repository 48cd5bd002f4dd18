"""How good the detections of a single image are: which are right, and the image's own AP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_loc.transfer.predictions import ImagePrediction

IOU = 0.5
RIGHT, WRONG, IGNORED = "right", "wrong", "ignored"


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (n, 4) and (m, 4), XYXY in pixels -> (n, m); empty boxes give 0."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(x[:, 2:] - x[:, :2], 0, None), axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def judge(prediction: ImagePrediction, annotations: Sequence[dict[str, Any]]) -> list[str]:
    """Per detection, in its order: right (the best-scored on an object of its class, IoU >= .5), wrong, or ignored.

    Ignored are those that hit an object which the metrics leave out (VOC "difficult", a COCO crowd).
    """
    verdicts = [WRONG] * len(prediction)
    if not annotations or not len(prediction):
        return verdicts
    truth = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    labels = np.array([a["category_id"] for a in annotations])
    optional = np.array([is_optional(a) for a in annotations])
    overlap = box_iou(prediction.boxes.astype(np.float64), truth)
    taken = np.zeros(len(truth), dtype=bool)
    for i in np.argsort(-prediction.scores, kind="stable"):
        fits = np.where(labels == prediction.classes[i], overlap[i], 0.0)
        free = np.where(taken | optional, 0.0, fits)
        if free.max() >= IOU:
            taken[free.argmax()] = True
            verdicts[i] = RIGHT
        elif np.where(optional, fits, 0.0).max() >= IOU:
            verdicts[i] = IGNORED
    return verdicts


def image_ap(prediction: ImagePrediction | None, annotations: Sequence[dict[str, Any]]) -> float:
    """AP in percent at IoU .5 of one image by itself, all its classes together; NaN without objects to find.

    The area under the highest precision at each recall, so no score threshold is involved.
    """
    objects = sum(not is_optional(a) for a in annotations)
    if not objects:
        return float("nan")
    if prediction is None or not len(prediction):
        return 0.0
    order = np.argsort(-prediction.scores, kind="stable")
    verdicts = np.array(judge(prediction, annotations))[order]
    right = (verdicts == RIGHT)[verdicts != IGNORED]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(100 * best[right].sum() / objects)


def is_optional(annotation: dict[str, Any]) -> bool:
    """Whether the metrics neither want this object found nor punish its detection."""
    return bool(annotation.get("difficult") or annotation.get("iscrowd"))


def choose_images(values: Sequence[float], count: int) -> list[tuple[int, str]]:
    """Indices of images to show, best first, with why: "best", "worst" or "" (evenly drawn from the others).

    Args:
        values: one number per image; NaN ones are only taken where there is nothing else.
        count: images; a third best, a third worst.
    """
    known = [i for i, v in enumerate(values) if v == v]
    if len(known) <= 1 or min(values[i] for i in known) == max(values[i] for i in known):
        return [(i, "") for i in _evenly(known or list(range(len(values))), count)]
    ranked = sorted(known, key=lambda i: (-values[i], i))
    ends = min(count // 3, len(ranked) // 2)
    best, worst = ranked[:ends], ranked[len(ranked) - ends :]
    # An image as good as the best is not "worst", whatever its rank.
    worst = [i for i in worst if values[i] < values[ranked[0]]]
    rest = [i for i in known if i not in best and i not in worst]
    middle = _evenly(rest, count - len(best) - len(worst))
    why = {**dict.fromkeys(middle, ""), **dict.fromkeys(worst, "worst"), **dict.fromkeys(best, "best")}
    return [*((i, why[i]) for i in best), *((i, "") for i in middle), *((i, why[i]) for i in worst)]


def _evenly(items: Sequence[int], count: int) -> list[int]:
    if count <= 0 or not items:
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round()
    return [items[int(i)] for i in dict.fromkeys(places)]
