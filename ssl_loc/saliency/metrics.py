"""How good saliency maps are, against masks: F-measure, mean absolute error, IoU, and how sure the numbers are.

The measures of the salient-object benchmark (Borji, Cheng, Jiang, Li: "Salient Object Detection: A Benchmark", 2015;
F-measure: Achanta et al. 2009): maps are 8-bit, thresholds 0..255, a pixel is predicted from the threshold on.

Conventions where public scripts differ: an image whose mask is empty is left out (and counted); where nothing is
predicted the precision is 0; the adaptive threshold is min(1, 2 x mean of the map), and at least one grey level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ssl_loc.saliency.bootstrap import bootstrap_counts
from ssl_loc.utils.errors import DataError

LEVELS = 256
# beta^2 of the F-measure: precision counts more than recall (Achanta et al. 2009).
BETA2 = 0.3
# Resamples of the bootstrap: the standard error itself is then known to about 2 %.
SAMPLES = 1000
METRICS = ("max_f", "adaptive_f", "mean_f", "iou", "mae", "max_f_per_image", "adaptive_f_per_image")


def f_measure(precision: np.ndarray, recall: np.ndarray, beta2: float = BETA2) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R); 0 where both are 0."""
    below = beta2 * precision + recall
    return np.where(below > 0, (1 + beta2) * precision * recall / np.where(below > 0, below, 1.0), 0.0)


def to_grey(saliency: np.ndarray, stretch: bool = False) -> np.ndarray:
    """A map, float in [0, 1] or uint8, as uint8 levels, round(255 s).

    Args:
        saliency: (H, W).
        stretch: move the minimum to 0 and the maximum to 1 first; a constant map stays as it is.

    Raises:
        DataError: values are not finite or outside of [0, 1].
    """
    if saliency.dtype == np.uint8 and not stretch:
        return saliency
    values = saliency.astype(np.float64) / (255.0 if saliency.dtype == np.uint8 else 1.0)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"a map of shape {saliency.shape} is empty or has values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise DataError(f"a map has values from {low:g} to {high:g}; expected 0 to 1 (float) or 0 to 255 (uint8)")
    if stretch and high > low:
        values = (values - low) / (high - low)
    return np.rint(values * 255).astype(np.uint8)


def match_size(grey: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """A uint8 map at ``size`` (H, W), bilinear, and whether it had another size."""
    if grey.shape == tuple(size):
        return grey, False
    return cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), True


@dataclass(frozen=True)
class ImageScore:
    """One map against one mask.

    Attributes:
        precision, recall: float64 (256,), at the thresholds 0..255.
        adaptive_precision, adaptive_recall, iou: at the adaptive threshold.
        mae: mean absolute difference of map and mask.
    """

    precision: np.ndarray
    recall: np.ndarray
    adaptive_precision: float
    adaptive_recall: float
    iou: float
    mae: float


def score_map(saliency: np.ndarray, mask: np.ndarray, *, stretch: bool = False) -> ImageScore | None:
    """Compare a map (H, W), float in [0, 1] or uint8, with a mask (H, W), bool or uint8 (> 127 is the object).

    Returns None for an empty mask: recall has no meaning there.

    Raises:
        DataError: the sizes differ, or the map's values cannot be used.
    """
    if saliency.shape != mask.shape or mask.ndim != 2:
        raise DataError(f"a map has shape {saliency.shape}, its mask {mask.shape}; expected the same (height, width)")
    inside = mask if mask.dtype == np.bool_ else mask > 127
    objects = int(np.count_nonzero(inside))
    if not objects:
        return None
    grey = to_grey(saliency, stretch)
    everywhere = np.bincount(grey.ravel(), minlength=LEVELS)
    hits = np.bincount(grey[inside], minlength=LEVELS)
    # Pixels at or above each threshold.
    predicted = np.cumsum(everywhere[::-1])[::-1]
    right = np.cumsum(hits[::-1])[::-1]
    precision = right / np.maximum(predicted, 1)
    recall = right / objects
    # The smallest level at or above min(255, 2 x mean), in whole numbers: no rounding decides. A black map predicts
    # nothing (from level 0 on it would predict everything, and score like a white one).
    total = int(everywhere @ np.arange(LEVELS))
    level = min(255, max(1, -(-2 * total // grey.size)))
    error = int((everywhere - hits) @ np.arange(LEVELS)) + int(hits @ np.arange(255, -1, -1))
    return ImageScore(
        precision,
        recall,
        adaptive_precision=float(precision[level]),
        adaptive_recall=float(recall[level]),
        iou=float(right[level] / (predicted[level] + objects - right[level])),
        mae=error / (255 * grey.size),
    )


@dataclass(frozen=True)
class MapScores:
    """Scores of N images, in the order of ``names``.

    Attributes:
        names: the images.
        precision, recall: float32 (N, 256).
        adaptive_precision, adaptive_recall, iou, mae: float64 (N,).
        without_object: images left out because their mask is empty.
    """

    names: list[str]
    precision: np.ndarray
    recall: np.ndarray
    adaptive_precision: np.ndarray
    adaptive_recall: np.ndarray
    iou: np.ndarray
    mae: np.ndarray
    without_object: list[str] = field(default_factory=list)

    @classmethod
    def collect(cls, scores: Sequence[tuple[str, ImageScore | None]]) -> MapScores:
        """Join (name, :func:`score_map`) of many images.

        Raises:
            DataError: no image has an object.
        """
        good = [(name, score) for name, score in scores if score is not None]
        if not good:
            raise DataError(f"none of {len(scores)} masks has an object; expected grey values above 127")
        return cls(
            [name for name, _ in good],
            np.array([s.precision for _, s in good], dtype=np.float32),
            np.array([s.recall for _, s in good], dtype=np.float32),
            np.array([s.adaptive_precision for _, s in good]),
            np.array([s.adaptive_recall for _, s in good]),
            np.array([s.iou for _, s in good]),
            np.array([s.mae for _, s in good]),
            [name for name, score in scores if score is None],
        )

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> MapScores:
        """The scores of ``names``, in that order."""
        at = {name: i for i, name in enumerate(self.names)}
        rows = np.array([at[name] for name in names], dtype=np.int64)
        adaptive = self.adaptive_precision[rows], self.adaptive_recall[rows]
        return MapScores(
            list(names), self.precision[rows], self.recall[rows], *adaptive, self.iou[rows], self.mae[rows]
        )

    @property
    def adaptive_f(self) -> np.ndarray:
        """F-measure of each image at its adaptive threshold, float64 (N,)."""
        return f_measure(self.adaptive_precision, self.adaptive_recall)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall averaged over images, float64 (256,) each, at the thresholds 0..255."""
        return self.precision.mean(axis=0, dtype=np.float64), self.recall.mean(axis=0, dtype=np.float64)

    def metrics(self) -> dict[str, float]:
        """The numbers, see :func:`weighted_metrics`."""
        values = weighted_metrics(self, np.ones((1, len(self)), dtype=np.float64))
        return {name: float(value[0]) for name, value in values.items()}

    def standard_errors(self, samples: int = SAMPLES, seed: int = 0) -> dict[str, float]:
        """Bootstrap standard error of every number: images are drawn with replacement."""
        values = weighted_metrics(self, bootstrap_counts(len(self), samples, seed))
        return {name: float(value.std(ddof=1)) for name, value in values.items()}


def weighted_metrics(scores: MapScores, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric for each way of weighting the images.

    The habit of the benchmark is to average precision and recall over images and to take F of the averages: max_f and
    mean_f are its maximum and mean over thresholds, adaptive_f its value at each image's adaptive threshold. The names
    with _per_image average the F-measures of the images instead; they are lower, and not comparable with the others.

    Args:
        scores: N images.
        counts: (B, N), how often each image counts; rows sum to the same number.

    Returns:
        Name -> float64 (B,).
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    precision, recall = scores.precision.astype(np.float64), scores.recall.astype(np.float64)
    f = f_measure(weights @ precision, weights @ recall)
    return {
        "max_f": f.max(axis=1),
        "adaptive_f": f_measure(weights @ scores.adaptive_precision, weights @ scores.adaptive_recall),
        "mean_f": f.mean(axis=1),
        "iou": weights @ scores.iou,
        "mae": weights @ scores.mae,
        "max_f_per_image": (weights @ f_measure(precision, recall)).max(axis=1),
        "adaptive_f_per_image": weights @ scores.adaptive_f,
    }


@dataclass(frozen=True)
class Difference:
    """How two sets of maps differ on the same images: first minus second, and its bootstrap standard error."""

    value: float
    error: float


def paired_differences(
    first: MapScores, second: MapScores, samples: int = SAMPLES, seed: int = 0
) -> tuple[dict[str, Difference], int]:
    """First minus second for every metric, on the images that both have -> (differences, number of images).

    Both are resampled together: on the same photos two estimators differ far less than two samples of photos do.

    Raises:
        DataError: they have no image in common.
    """
    known = set(second.names)
    common = [name for name in first.names if name in known]
    if not common:
        raise DataError("the two sets of maps have no image in common, so they cannot be compared")
    a, b = first.select(common), second.select(common)
    counts = bootstrap_counts(len(common), samples, seed)
    drawn_a, drawn_b = weighted_metrics(a, counts), weighted_metrics(b, counts)
    full_a, full_b = a.metrics(), b.metrics()
    differences = {
        name: Difference(full_a[name] - full_b[name], float((drawn_a[name] - drawn_b[name]).std(ddof=1)))
        for name in METRICS
    }
    return differences, len(common)
