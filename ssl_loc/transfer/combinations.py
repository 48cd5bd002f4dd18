"""Which values of a recipe go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_loc.config.node import plain_values
from ssl_loc.utils.errors import ConfigError

# detectron2's architectures that recipes are about, by MODEL.BACKBONE.NAME.
ARCHITECTURES = {"build_resnet_backbone": "C4", "build_resnet_fpn_backbone": "FPN"}
# The heads that belong to them.
ROI_HEADS = {"C4": ("Res5ROIHeads", "Res5ROIHeadsExtraNorm"), "FPN": ("StandardROIHeads",)}
LEVELS = ("res2", "res3", "res4", "res5")
# detectron2's GroupNorm has this many groups, whatever the width.
_GN_GROUPS = 32


def check_combinations(values: Mapping[str, Any]) -> None:
    """Refuse values that are fine alone but not together.

    Args:
        values: a recipe's flat {full key: value}, each of which is allowed.

    Raises:
        ConfigError: names the keys and what is expected.
    """
    _check_anchor_rows(values)
    _check_solver(values)
    if values["INPUT.MIN_SIZE_TRAIN_SAMPLING"] == "range":
        sizes = values["INPUT.MIN_SIZE_TRAIN"]
        if len(sizes) != 2 or sizes[0] > sizes[1]:
            raise ConfigError(
                f"INPUT.MIN_SIZE_TRAIN is {plain_values(sizes)} with INPUT.MIN_SIZE_TRAIN_SAMPLING 'range'; expected "
                "two numbers, the smallest and the largest short side"
            )
    for key, channels in (
        ("MODEL.FPN.NORM", "MODEL.FPN.OUT_CHANNELS"),
        ("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_BOX_HEAD.CONV_DIM"),
        ("MODEL.ROI_MASK_HEAD.NORM", "MODEL.ROI_MASK_HEAD.CONV_DIM"),
    ):
        if values[key] == "GN" and values[channels] % _GN_GROUPS:
            raise ConfigError(
                f"{key} is 'GN', which has {_GN_GROUPS} groups, but {channels} is {values[channels]}; expected a "
                f"multiple of {_GN_GROUPS}"
            )
    _check_overlaps(values)
    _check_parts(values)


def _check_overlaps(values: Mapping[str, Any]) -> None:
    key, labels = "MODEL.ROI_HEADS.IOU_THRESHOLDS", "MODEL.ROI_HEADS.IOU_LABELS"
    thresholds = list(values[key])
    if thresholds != sorted(thresholds) or len(values[labels]) != len(thresholds) + 1:
        raise ConfigError(
            f"{key} is {thresholds} with {labels} {list(values[labels])}; expected thresholds in increasing order and "
            "one label more than thresholds"
        )


def _check_anchor_rows(values: Mapping[str, Any]) -> None:
    levels = len(values["MODEL.RPN.IN_FEATURES"])
    per_cell = {}
    for name in ("SIZES", "ASPECT_RATIOS"):
        key = f"MODEL.ANCHOR_GENERATOR.{name}"
        rows = values[key] if isinstance(values[key][0], (list, tuple)) else [values[key]]
        if len(rows) not in (1, levels):
            raise ConfigError(
                f"{key} has {len(rows)} rows but MODEL.RPN.IN_FEATURES names {levels} levels; expected one row or "
                f"{levels}"
            )
        per_cell[key] = {len(row) for row in rows}
    for key, counts in per_cell.items():
        if len(counts) > 1:
            raise ConfigError(
                f"{key} is {plain_values(values[key])}, with rows of different length; expected equally many anchors "
                "on every level, because one head serves all levels"
            )


def _check_solver(values: Mapping[str, Any]) -> None:
    if values["SOLVER.NESTEROV"] and not values["SOLVER.MOMENTUM"]:
        raise ConfigError("SOLVER.NESTEROV is True with SOLVER.MOMENTUM 0; expected a momentum above 0, or False")
    if values["SOLVER.LR_SCHEDULER_NAME"] == "WarmupStepWithFixedGammaLR":
        decays, length = values["SOLVER.NUM_DECAYS"], values["SOLVER.MAX_ITER"]
        if decays >= length:
            raise ConfigError(
                f"SOLVER.NUM_DECAYS is {decays} with SOLVER.LR_SCHEDULER_NAME 'WarmupStepWithFixedGammaLR' and "
                f"SOLVER.MAX_ITER {length}; expected fewer decays than iterations"
            )
    used = [step for step in values["SOLVER.STEPS"] if step <= values["SOLVER.MAX_ITER"]]
    if len(used) >= values["SOLVER.MAX_ITER"]:
        raise ConfigError(
            f"SOLVER.STEPS is {list(values['SOLVER.STEPS'])} with SOLVER.MAX_ITER {values['SOLVER.MAX_ITER']}; "
            "expected fewer steps than iterations"
        )
    rate, end = values["SOLVER.BASE_LR"], values["SOLVER.BASE_LR_END"]
    if end > rate:
        raise ConfigError(
            f"SOLVER.BASE_LR_END is {end}, above SOLVER.BASE_LR {rate}; expected the end of the cosine schedule at or "
            "below its start"
        )


def _check_parts(values: Mapping[str, Any]) -> None:
    """Backbone, levels and heads belong to one detector."""
    backbone, heads = values["MODEL.BACKBONE.NAME"], values["MODEL.ROI_HEADS.NAME"]
    levels, outputs = list(values["MODEL.FPN.IN_FEATURES"]), list(values["MODEL.RESNETS.OUT_FEATURES"])
    arch = ARCHITECTURES[backbone]
    if heads not in ROI_HEADS[arch]:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME is {heads!r} with MODEL.BACKBONE.NAME {backbone!r}; expected one of "
            f"{', '.join(map(repr, ROI_HEADS[arch]))}"
        )
    if arch == "C4":
        if "res4" not in outputs or "res5" in outputs:
            raise ConfigError(
                f"MODEL.RESNETS.OUT_FEATURES is {outputs} with MODEL.BACKBONE.NAME {backbone!r}; expected ['res4']: "
                "res5 belongs to the head"
            )
        if values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"][-1]:
            raise ConfigError(
                "MODEL.RESNETS.DEFORM_ON_PER_STAGE is True for res5, which is the head of a C4 detector and cannot be "
                "deformable; set the last entry False"
            )
        return
    if not levels or levels != [level for level in LEVELS if level in levels]:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {levels} with MODEL.BACKBONE.NAME {backbone!r}; expected levels among "
            f"{', '.join(LEVELS)}, in order"
        )
    if levels != list(LEVELS[LEVELS.index(levels[0]) :][: len(levels)]):
        raise ConfigError(f"MODEL.FPN.IN_FEATURES is {levels}; expected neighbouring levels, without a gap")
    if missing := [level for level in levels if level not in outputs]:
        raise ConfigError(f"MODEL.FPN.IN_FEATURES names {missing}, which MODEL.RESNETS.OUT_FEATURES {outputs} lacks")
    _check_box_head(values)


def _check_box_head(values: Mapping[str, Any]) -> None:
    box = "MODEL.ROI_BOX_HEAD"
    if values[f"{box}.NAME"] != "FastRCNNConvFCHead":
        raise ConfigError(
            f"{box}.NAME is {values[f'{box}.NAME']!r}; expected 'FastRCNNConvFCHead' with MODEL.BACKBONE.NAME "
            f"{values['MODEL.BACKBONE.NAME']!r}"
        )
    if not values[f"{box}.NUM_FC"] + values[f"{box}.NUM_CONV"]:
        raise ConfigError(f"{box}.NUM_FC and {box}.NUM_CONV are 0; expected at least one layer in the box head")
