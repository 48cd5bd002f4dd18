"""Which recipe keys the torchvision engine honours; a non-default value of any other key is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_loc.config.node import plain_values
from ssl_loc.transfer.detector_check import FUNCTION_KEYS, matters
from ssl_loc.transfer.recipe import ALL_DEFAULTS, Recipe, architecture, non_default_keys, require_honoured
from ssl_loc.transfer.schema import OWN_DEFAULTS
from ssl_loc.utils.errors import ConfigError

ENGINE = "torchvision"
_STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"


def _under(prefix: str, names: str) -> list[str]:
    return [f"{prefix}.{name}" for name in names.split()]


HONOURED = frozenset(
    [
        "VERSION",
        "OUTPUT_DIR",
        "SEED",
        *OWN_DEFAULTS,
        *_under("MODEL", "MASK_ON DEVICE PIXEL_MEAN PIXEL_STD"),
        *_under("MODEL.BACKBONE", "NAME FREEZE_AT"),
        *_under("MODEL.RESNETS", "DEPTH NORM STRIDE_IN_1X1 OUT_FEATURES RES2_OUT_CHANNELS STEM_OUT_CHANNELS"),
        *_under("MODEL.FPN", "IN_FEATURES OUT_CHANNELS NORM"),
        *_under("MODEL.PROPOSAL_GENERATOR", "MIN_SIZE"),
        *_under("MODEL.ANCHOR_GENERATOR", "SIZES ASPECT_RATIOS OFFSET"),
        *_under("MODEL.RPN", "IN_FEATURES IOU_THRESHOLDS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION NMS_THRESH"),
        *_under("MODEL.RPN", "SMOOTH_L1_BETA BBOX_REG_WEIGHTS LOSS_WEIGHT BBOX_REG_LOSS_WEIGHT"),
        *_under("MODEL.RPN", "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST"),
        *_under("MODEL.ROI_HEADS", "NAME NUM_CLASSES IN_FEATURES IOU_THRESHOLDS BATCH_SIZE_PER_IMAGE"),
        *_under("MODEL.ROI_HEADS", "POSITIVE_FRACTION SCORE_THRESH_TEST NMS_THRESH_TEST PROPOSAL_APPEND_GT"),
        *_under("MODEL.ROI_BOX_HEAD", "NAME BBOX_REG_WEIGHTS SMOOTH_L1_BETA BBOX_REG_LOSS_WEIGHT"),
        *_under("MODEL.ROI_BOX_HEAD", "POOLER_RESOLUTION POOLER_SAMPLING_RATIO POOLER_TYPE"),
        *_under("MODEL.ROI_BOX_HEAD", "NUM_FC FC_DIM NUM_CONV CONV_DIM NORM"),
        *_under("MODEL.ROI_MASK_HEAD", "NAME POOLER_RESOLUTION POOLER_SAMPLING_RATIO POOLER_TYPE"),
        *_under("MODEL.ROI_MASK_HEAD", "NUM_CONV CONV_DIM NORM"),
        *_under("INPUT", "MIN_SIZE_TRAIN MIN_SIZE_TRAIN_SAMPLING MAX_SIZE_TRAIN MIN_SIZE_TEST MAX_SIZE_TEST"),
        *_under("INPUT", "RANDOM_FLIP FORMAT MASK_FORMAT"),
        *_under("DATASETS", "TRAIN TEST"),
        *_under("DATALOADER", "NUM_WORKERS ASPECT_RATIO_GROUPING FILTER_EMPTY_ANNOTATIONS"),
        *_under("SOLVER", "LR_SCHEDULER_NAME MAX_ITER BASE_LR BASE_LR_END MOMENTUM NESTEROV"),
        *_under("SOLVER", "WEIGHT_DECAY WEIGHT_DECAY_NORM WEIGHT_DECAY_BIAS BIAS_LR_FACTOR"),
        *_under("SOLVER", "GAMMA STEPS WARMUP_FACTOR WARMUP_ITERS WARMUP_METHOD CHECKPOINT_PERIOD IMS_PER_BATCH"),
        *_under("SOLVER", "REFERENCE_WORLD_SIZE AMP.ENABLED"),
        *_under("SOLVER.CLIP_GRADIENTS", "ENABLED CLIP_TYPE CLIP_VALUE NORM_TYPE"),
        *_under("TEST", "EVAL_PERIOD DETECTIONS_PER_IMAGE PRECISE_BN.ENABLED PRECISE_BN.NUM_ITER"),
    ]
)

# Key -> values it may take here. Everything else detectron2 allows needs code that torchvision does not have.
CHOICES: dict[str, tuple[str, ...]] = {
    "MODEL.RESNETS.NORM": ("BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN"),
    "MODEL.FPN.NORM": ("", "BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN", "GN"),
    "MODEL.ROI_BOX_HEAD.NORM": ("", "BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN", "GN"),
    "MODEL.ROI_MASK_HEAD.NORM": ("", "BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN", "GN"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}
# Without a pyramid, detectron2 ignores these. A recipe that sets them expects something that would not happen.
_UNUSED_IN_C4 = (
    "MODEL.FPN.",
    *_under("MODEL.ROI_BOX_HEAD", "NAME NUM_FC FC_DIM NUM_CONV CONV_DIM NORM"),
    "MODEL.ROI_MASK_HEAD.POOLER_",
)
HEADS = {"C4": ("Res5ROIHeads", "Res5ROIHeadsExtraNorm"), "FPN": ("StandardROIHeads",)}


def check_recipe(recipe: Recipe) -> None:
    """Refuse what this engine cannot do.

    Raises:
        ConfigError: naming every such key, its value and the choices.
    """
    problems = recipe_problems(recipe)
    if problems:
        raise ConfigError("; ".join(problems))


def recipe_problems(recipe: Recipe) -> list[str]:
    """A sentence for each key that this engine cannot honour."""
    problems = []
    try:
        require_honoured(recipe, HONOURED, ENGINE)
    except ConfigError as error:
        problems.append(str(error))
    values = recipe.flat()
    arch = architecture(recipe)
    for key, choices in {**CHOICES, "MODEL.ROI_HEADS.NAME": HEADS[arch]}.items():
        if values[key] not in choices:
            problems.append(
                f"{key} is {values[key]!r}; the torchvision engine expects one of {', '.join(map(repr, choices))} "
                f"with MODEL.BACKBONE.NAME {recipe.MODEL.BACKBONE.NAME!r} (or use --engine detectron2)"
            )
    if values[_STRIDE]:
        problems.append(f"{_STRIDE} is True; the torchvision engine only strides in 3x3, set False")
    if arch == "C4":
        problems += _c4_problems(recipe)
    elif recipe.MODEL.ROI_BOX_HEAD.NAME != "FastRCNNConvFCHead":
        problems.append(
            f"MODEL.ROI_BOX_HEAD.NAME is {recipe.MODEL.ROI_BOX_HEAD.NAME!r}; expected 'FastRCNNConvFCHead' with a "
            "feature pyramid"
        )
    for key in ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "MODEL.RPN.IOU_THRESHOLDS"):
        count = 1 if "ROI" in key else 2
        if len(values[key]) != count:
            problems.append(f"{key} is {values[key]}; expected {count} number(s)")
    return problems


def detector_problems(told: Mapping[str, Any]) -> list[str]:
    """A sentence for each key under which this engine cannot compute what a finished detector computes.

    Args:
        told: what the detector's file says about its training, {full key: value}; it may be in part.
    """
    problems = []
    for key in (key for key in FUNCTION_KEYS if key in told and matters(key, told)):
        value = told[key]
        if key in CHOICES and value not in CHOICES[key]:
            problems.append(f"{key} is {value!r}; the torchvision engine has {', '.join(map(repr, CHOICES[key]))}")
        elif key == _STRIDE and value:
            problems.append(f"{key} is True; the torchvision engine only strides in 3x3")
        elif key not in HONOURED and plain_values(value) != plain_values(ALL_DEFAULTS[key]):
            problems.append(f"{key} is {value!r}; the torchvision engine has {ALL_DEFAULTS[key]!r} only")
    return problems


def _c4_problems(recipe: Recipe) -> list[str]:
    problems = []
    wanted = {
        "MODEL.RESNETS.OUT_FEATURES": recipe.MODEL.RESNETS.OUT_FEATURES,
        "MODEL.RPN.IN_FEATURES": recipe.MODEL.RPN.IN_FEATURES,
        "MODEL.ROI_HEADS.IN_FEATURES": recipe.MODEL.ROI_HEADS.IN_FEATURES,
    }
    for key, value in wanted.items():
        if list(value) != ["res4"]:
            problems.append(f"{key} is {list(value)}; a C4 detector on the torchvision engine expects ['res4']")
    for key, value in non_default_keys(recipe).items():
        if key.startswith(_UNUSED_IN_C4):
            problems.append(
                f"{key} is {value!r}, but a C4 detector does not use it (boxes and masks come from res5, pooled as "
                f"MODEL.ROI_BOX_HEAD.POOLER_* says); leave its default ({ALL_DEFAULTS[key]!r})"
            )
    return problems
