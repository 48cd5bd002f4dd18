"""Words for metrics, and which of them are better high, better low, or neither."""

from __future__ import annotations

# Names for people; others are shown as they are, with blanks for underscores.
METRIC_NAMES = {
    "iou_mean": "mean IoU",
    "iou_median": "median IoU",
    "zero_cam_rate": "zero Grad-CAM",
    "iou_of_full_map": "IoU if the map were on everywhere",
    "top1": "top-1 %",
    "top1_k1": "top-1 %, one neighbour",
    "top1_best_epoch": "top-1 %, best epoch",
    "top5": "top-5 %",
    "bg_gap": "BG-gap",
    "challenge_robust": "robust %",
    "challenge_vulnerable": "vulnerable %",
    "original": "original",
    "mixed_same": "mixed-same",
    "mixed_rand": "mixed-rand",
    "mixed_next": "mixed-next",
    "only_fg": "only-FG",
    "no_fg": "no-FG",
    "only_bg_b": "only-BG-B",
    "only_bg_t": "only-BG-T",
    "mae": "MAE",
    "max_f": "max F",
    "mAP": "mAP",
    "probe_top1": "top-1 % of the classifier",
    "iou_mean_right": "mean IoU where the classifier is right",
    "iou_mean_wrong": "mean IoU where it is wrong",
    "energy_over_area": "gradient on the object, over its area",
    "mask_share": "gradient on the object if spread evenly",
    "energy_in_mask_right": "energy in mask where right",
    "energy_in_mask_wrong": "energy in mask where wrong",
    "on_background_right": "looks at the background, % of right answers",
    "on_background_wrong": "looks at the background, % of wrong answers",
    "nearest_same_class": "nearest of the same class %",
    "same_class": "neighbours of the same class %",
    "same_class_chance": "same class by chance %",
    "same_background": "neighbours on the same background %",
    "same_background_chance": "same background by chance %",
    "background_errors": "nearest: other class, same background %",
    "wrong_on_same_background": "wrong neighbours on the same background %",
    "wrong_on_same_background_chance": "the same by chance %",
}
# Settings of the Backgrounds Challenge, in the order of its paper.
SETTINGS = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t",
)  # fmt: skip
# The number that a protocol is quoted by; the first that a result has.
HEADLINES = (
    "iou_mean", "mixed_rand", "mAP", "top1", "nearest_same_class", "energy_over_area", "max_f", "bbox/AP", "AP",
)  # fmt: skip
# Metrics (beginnings of their names) of which less is better; of the others more is.
_LESS = (
    "zero_cam_rate", "mae", "challenge_vulnerable", "background_errors", "wrong_on_same_background", "on_background",
)  # fmt: skip
# Metrics that describe the data, or are good only beside others (who knows nothing has no BG-gap): nobody wins.
_NEUTRAL = (
    "iou_of_full_map", "bg_gap", "no_fg", "only_bg_b", "only_bg_t", "mask_share", "same_background", "probe_top1",
)  # fmt: skip
# Metrics in percent whose names do not say so; they have one decimal.
_PERCENT = (*SETTINGS, "bg_gap", "mAP")
# Levels to read the other numbers against, given by the data alone: the same for every model.
BASELINES = ("iou_of_full_map", "mask_share", "same_class_chance", "same_background_chance")


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def decimals(metric: str) -> int | None:
    """Decimals of a metric in percent; None: by the size of the numbers."""
    return 1 if metric in _PERCENT or "%" in metric_name(metric) else None


def sense(metric: str) -> str:
    """Which way is better: "max", "min", or "" where nobody wins."""
    if metric in _NEUTRAL or metric.endswith("_chance"):
        return ""
    return "min" if metric.startswith(_LESS) else "max"
