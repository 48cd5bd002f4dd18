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
}
# Settings of the Backgrounds Challenge, in the order of its paper.
SETTINGS = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t",
)  # fmt: skip
# The number that a protocol is quoted by; the first that a result has.
HEADLINES = ("iou_mean", "mixed_rand", "mAP", "top1", "max_f", "bbox/AP", "AP")
# Metrics of which less is better -> the words that say so in a picture; of the others more is.
LOWER_IS_BETTER = dict.fromkeys(("zero_cam_rate", "mae", "challenge_vulnerable"), "less is better")
# Metrics that describe the data, or are good only beside others (who knows nothing has no BG-gap): nobody wins.
NEUTRAL = ("iou_of_full_map", "bg_gap", "no_fg", "only_bg_b", "only_bg_t")


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))
