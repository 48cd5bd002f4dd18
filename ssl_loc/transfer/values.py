"""Which values the keys of a recipe can take: one sentence for what users get wrong, before anything is built.

What is refused here would end in an assertion or a NaN deep inside of an engine, or would train something else without
a word. What only one engine cannot do is that engine's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssl_loc.config.node import plain_values
from ssl_loc.transfer.combinations import ARCHITECTURES, LEVELS, ROI_HEADS, check_combinations
from ssl_loc.utils.errors import ConfigError, did_you_mean

_NORMS = ("", "BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN", "FrozenBN", "GN", "LN")
_POOLERS = ("ROIAlignV2", "ROIAlign", "ROIPool")
_BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")
# numpy's generators, which draw the augmentations, take seeds below this.
_SEED_LIMIT = 2**32
# The only key where infinity means something: gradients clipped by their largest entry.
_MAY_BE_INFINITE = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _at_least(least: float) -> Rule:
    return Rule(f"a number of at least {least:g}", lambda v: _number(v) and v >= least)


def _above(limit: float) -> Rule:
    return Rule(f"a number above {limit:g}", lambda v: _number(v) and v > limit)


def _between(low: float, high: float) -> Rule:
    return Rule(f"a number between {low:g} and {high:g}", lambda v: _number(v) and low <= v <= high)


def _numbers(count: int, rule: Rule) -> Rule:
    words = f"{count} {'number' if count == 1 else 'numbers'}, each {rule.expected}"
    return Rule(words, lambda v: _sequence(v) and len(v) == count and all(map(rule.holds, v)))


def _some(what: str, holds: Callable[[Any], bool], empty: bool = False) -> Rule:
    words = f"a list of {what}{'' if empty else ', at least one'}"
    return Rule(words, lambda v: _sequence(v) and (empty or len(v) > 0) and all(map(holds, v)))


def _choice(*names: Any) -> Rule:
    return Rule(f"one of {', '.join(map(repr, names))}", lambda v: v in names)


def _sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _increasing(value: Sequence[Any]) -> bool:
    return all(a < b for a, b in zip(value, value[1:], strict=False))


def _thresholds(value: Any) -> bool:
    return _sequence(value) and len(value) == 2 and all(map(_number, value)) and 0 < value[0] <= value[1] <= 1


def _anchors(value: Any) -> bool:
    """Positive numbers, or lists of them, one or one per level."""
    if not _sequence(value) or not value:
        return False
    rows = value if all(map(_sequence, value)) else [value]
    return all(row and all(_number(x) and x > 0 for x in row) for row in rows)


def _sizes(value: Any) -> bool:
    """Anchors that hold a pixel; the offsets of boxes from smaller ones are beyond any number."""
    return _anchors(value) and all(x >= 1 for row in value for x in (row if _sequence(row) else [row]))


def _is_level(value: Any) -> bool:
    return value in LEVELS


def _is_map(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"res[2-5]|p[1-7]", value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


_COUNT, _POSITIVE, _FRACTION, _WEIGHT = _at_least(1), _above(0), _between(0, 1), _at_least(0)
_MAPS = _some("feature maps like res4 or p2", _is_map)
_SHAPED = {
    "POOLER_RESOLUTION": _COUNT,
    "POOLER_SAMPLING_RATIO": _WEIGHT,
    "POOLER_TYPE": _choice(*_POOLERS),
    "NUM_CONV": _WEIGHT,
    "CONV_DIM": _COUNT,
    "NORM": _choice(*_NORMS),
}


def _under(prefix: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    return {f"{prefix}.{name}": rule for name, rule in rules.items()}


RULES: dict[str, Rule] = {
    "VERSION": _choice(2),
    "OUTPUT_DIR": Rule("the path of a folder", _is_name),
    "SEED": Rule(
        f"a whole number below 2^32 (negative: random), not above {_SEED_LIMIT - 1}", lambda v: v < _SEED_LIMIT
    ),
    "FLOAT32_PRECISION": _choice("", "highest", "high", "medium"),
    "TRANSFER.LOG_PERIOD": _COUNT,
    "MODEL.DEVICE": Rule("cpu, cuda or cuda:0", lambda v: re.fullmatch(r"cpu|cuda(:\d+)?", v) is not None),
    "MODEL.PIXEL_MEAN": _numbers(3, Rule("on the 0-255 scale", lambda v: _number(v) and 0 <= v <= 255)),
    "MODEL.PIXEL_STD": _numbers(3, _POSITIVE),
    "MODEL.BACKBONE.NAME": _choice(*ARCHITECTURES),
    "MODEL.BACKBONE.FREEZE_AT": Rule(
        "0 (train everything) to 5 (freeze the stem and all stages)", lambda v: _whole(v) and 0 <= v <= 5
    ),
    **_under(
        "MODEL.FPN",
        {
            "IN_FEATURES": _some("res2 .. res5", _is_level, empty=True),
            "OUT_CHANNELS": _COUNT,
            "NORM": _choice(*_NORMS),
            "FUSE_TYPE": _choice("sum", "avg"),
        },
    ),
    "MODEL.PROPOSAL_GENERATOR.NAME": _choice("RPN"),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": _WEIGHT,
    "MODEL.ANCHOR_GENERATOR.NAME": _choice("DefaultAnchorGenerator"),
    "MODEL.ANCHOR_GENERATOR.SIZES": Rule(
        "lists of sizes in pixels, each at least 1, one list or one per level", _sizes
    ),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Rule("lists of ratios above 0, one list or one per level", _anchors),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Rule("a number from 0 to below 1", lambda v: 0 <= v < 1),
    **_under(
        "MODEL.RPN",
        {
            "HEAD_NAME": _choice("StandardRPNHead"),
            "IN_FEATURES": _MAPS,
            "IOU_THRESHOLDS": Rule("two numbers above 0 and up to 1, background below foreground", _thresholds),
            "IOU_LABELS": _numbers(3, _choice(-1, 0, 1)),
            "BATCH_SIZE_PER_IMAGE": _COUNT,
            "POSITIVE_FRACTION": _FRACTION,
            "BBOX_REG_LOSS_TYPE": _choice(*_BOX_LOSSES),
            "BBOX_REG_LOSS_WEIGHT": _WEIGHT,
            "BBOX_REG_WEIGHTS": _numbers(4, _POSITIVE),
            "SMOOTH_L1_BETA": _WEIGHT,
            "LOSS_WEIGHT": _WEIGHT,
            "PRE_NMS_TOPK_TRAIN": _COUNT,
            "PRE_NMS_TOPK_TEST": _COUNT,
            "POST_NMS_TOPK_TRAIN": _COUNT,
            "POST_NMS_TOPK_TEST": _COUNT,
            "NMS_THRESH": _FRACTION,
            "CONV_DIMS": _some("channel numbers (-1: those of the input)", lambda v: _whole(v) and (v == -1 or v > 0)),
        },
    ),
    **_under(
        "MODEL.ROI_HEADS",
        {
            "NAME": _choice(*(name for names in ROI_HEADS.values() for name in names)),
            "NUM_CLASSES": _COUNT,
            "IN_FEATURES": _MAPS,
            "IOU_THRESHOLDS": _some("numbers above 0 and up to 1", lambda v: _number(v) and 0 < v <= 1),
            "IOU_LABELS": _some("-1, 0 or 1", lambda v: v in (-1, 0, 1)),
            "BATCH_SIZE_PER_IMAGE": _COUNT,
            "POSITIVE_FRACTION": _FRACTION,
            "SCORE_THRESH_TEST": _FRACTION,
            "NMS_THRESH_TEST": _FRACTION,
        },
    ),
    **_under("MODEL.ROI_BOX_HEAD", _SHAPED),
    **_under(
        "MODEL.ROI_BOX_HEAD",
        {
            "BBOX_REG_LOSS_TYPE": _choice(*_BOX_LOSSES),
            "BBOX_REG_LOSS_WEIGHT": _WEIGHT,
            "BBOX_REG_WEIGHTS": _numbers(4, _POSITIVE),
            "SMOOTH_L1_BETA": _WEIGHT,
            "NUM_FC": _WEIGHT,
            "FC_DIM": _COUNT,
        },
    ),
    **_under("MODEL.ROI_MASK_HEAD", {"NAME": _choice("MaskRCNNConvUpsampleHead"), **_SHAPED}),
    **_under(
        "MODEL.RESNETS",
        {
            "DEPTH": _choice(18, 34, 50, 101, 152),
            "OUT_FEATURES": _some("res2 .. res5", _is_level),
            "NUM_GROUPS": _COUNT,
            "NORM": _choice(*_NORMS),
            "WIDTH_PER_GROUP": _COUNT,
            "RES5_DILATION": Rule(
                "1: with 2 detectron2 cannot build a pyramid, and a C4 detector's res5 has no dilation whatever is "
                "said here",
                lambda v: v == 1,
            ),
            "RES2_OUT_CHANNELS": _COUNT,
            "STEM_OUT_CHANNELS": _COUNT,
            "DEFORM_ON_PER_STAGE": _numbers(4, _choice(True, False)),
            "DEFORM_NUM_GROUPS": _COUNT,
        },
    ),
    **_under(
        "INPUT",
        {
            "MIN_SIZE_TRAIN": _some("short sides in pixels (0: as it is)", lambda v: _whole(v) and v >= 0),
            "MIN_SIZE_TRAIN_SAMPLING": _choice("choice", "range"),
            "MAX_SIZE_TRAIN": _COUNT,
            "MIN_SIZE_TEST": _WEIGHT,
            "MAX_SIZE_TEST": _COUNT,
            "RANDOM_FLIP": _choice("horizontal", "vertical", "none"),
            "FORMAT": _choice("RGB", "BGR"),
            "MASK_FORMAT": _choice("polygon", "bitmask"),
            "CROP.TYPE": _choice("relative_range", "relative", "absolute", "absolute_range"),
            "CROP.SIZE": _numbers(2, _POSITIVE),
        },
    ),
    "DATASETS.TRAIN": _some("dataset names", _is_name, empty=True),
    "DATASETS.TEST": _some("dataset names", _is_name, empty=True),
    "DATALOADER.NUM_WORKERS": _WEIGHT,
    "DATALOADER.SAMPLER_TRAIN": _choice(
        "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"
    ),
    **_under(
        "SOLVER",
        {
            "LR_SCHEDULER_NAME": _choice("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
            "MAX_ITER": _COUNT,
            "BASE_LR": _POSITIVE,
            "BASE_LR_END": _WEIGHT,
            "MOMENTUM": Rule("a number from 0 to below 1", lambda v: 0 <= v < 1),
            "WEIGHT_DECAY": _WEIGHT,
            "WEIGHT_DECAY_NORM": _WEIGHT,
            "WEIGHT_DECAY_BIAS": Rule("None or a number of at least 0", lambda v: v is None or _WEIGHT.holds(v)),
            "BIAS_LR_FACTOR": _WEIGHT,
            "GAMMA": _POSITIVE,
            "STEPS": Rule(
                "increasing iterations above 0",
                lambda v: all(_whole(step) and step > 0 for step in v) and _increasing(v),
            ),
            "NUM_DECAYS": _COUNT,
            "WARMUP_FACTOR": _FRACTION,
            "WARMUP_ITERS": _WEIGHT,
            "WARMUP_METHOD": _choice("linear", "constant"),
            "CHECKPOINT_PERIOD": Rule("at least 0 (0: only at the end)", _WEIGHT.holds),
            "IMS_PER_BATCH": _COUNT,
            "REFERENCE_WORLD_SIZE": Rule("a number of processes, or 0 (no scaling)", _WEIGHT.holds),
            "CLIP_GRADIENTS.CLIP_TYPE": _choice("value", "norm", "full_model"),
            "CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
            "CLIP_GRADIENTS.NORM_TYPE": _POSITIVE,
        },
    ),
    "TEST.EVAL_PERIOD": Rule("at least 0 (0: only at the end)", _WEIGHT.holds),
    "TEST.DETECTIONS_PER_IMAGE": _COUNT,
    "TEST.PRECISE_BN.NUM_ITER": _COUNT,
}


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values that no engine can use.

    Args:
        values: a recipe's flat {full key: value}.

    Raises:
        ConfigError: names the key, what was given and what is expected.
    """
    for key, value in values.items():
        if key not in _MAY_BE_INFINITE and not _finite(value):
            raise ConfigError(f"{key} is {plain_values(value)}; expected finite numbers")
        rule = RULES.get(key)
        if rule is not None and not rule.holds(value):
            near = did_you_mean(value, rule.expected.split("'")[1::2]) if isinstance(value, str) else ""
            raise ConfigError(f"{key} is {_shown(value)}; expected {rule.expected}{near}")
    check_combinations(values)


def _shown(value: Any) -> str:
    return repr(plain_values(value))


def _finite(value: Any) -> bool:
    if _sequence(value):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
