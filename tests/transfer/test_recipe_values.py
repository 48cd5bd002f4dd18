"""Values that cannot work are one sentence with the key, what was given and what is expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssl_loc.transfer.recipe import ALL_DEFAULTS, load_recipe
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS
from ssl_loc.transfer.values import RULES
from ssl_loc.utils.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
# Parts of detectron2 that both engines refuse to leave at anything but their defaults.
REFUSED = (
    *("MODEL.ROI_KEYPOINT_HEAD.", "MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN.", "MODEL.RETINANET."),
    *("MODEL.ROI_BOX_CASCADE_HEAD.", "DATASETS.P", "TEST.AUG.", "TEST.K", "TEST.EX", "VIS_PERIOD", "GLOBAL."),
    *("MODEL.ANCHOR_GENERATOR.ANGLES", "MODEL.RPN.BOUNDARY_THRESH", "DATALOADER.REPEAT_THRESHOLD"),
    "MODEL.ROI_BOX_HEAD.FED_LOSS",
)


def test_every_default_is_allowed_and_every_rule_has_a_key() -> None:
    assert set(RULES) <= set(ALL_DEFAULTS)
    assert [key for key, rule in RULES.items() if not rule.holds(ALL_DEFAULTS[key])] == []


def test_every_number_and_list_has_a_rule() -> None:
    """Switches need none, names of classes are looked up by the engines, the rest of detectron2 is refused."""
    free = [
        key
        for key, default in DETECTRON2_DEFAULTS.items()
        if key not in RULES and not key.startswith(REFUSED) and not isinstance(default, (bool, str))
    ]
    assert free == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MODEL.PIXEL_MEAN", [123.0, 116.0], "3 numbers"),
        ("MODEL.PIXEL_MEAN", [123.0, "a", 103.0], "3 numbers"),
        ("MODEL.PIXEL_STD", [58.0, 0.0, 57.0], "above 0"),
        ("MODEL.BACKBONE.FREEZE_AT", -1, "0 (train everything) to 5"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64]], "has 2 rows but MODEL.RPN.IN_FEATURES names 1 levels"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[]], "sizes in pixels"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, -1]], "each at least 1"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0]], "above 0"),
        ("MODEL.RPN.IOU_THRESHOLDS", [0.7, 0.3], "background below foreground"),
        ("MODEL.RPN.IOU_THRESHOLDS", [0.5], "two numbers"),
        ("MODEL.RPN.IOU_THRESHOLDS", [0.0, 0.7], "above 0"),
        ("MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"], "res5 belongs to the head"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN", "'RPN'"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [], "at least one"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.5, "between 0 and 1"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10, 10, 5], "4 numbers"),
        ("MODEL.RESNETS.NORM", "SynchBN", "did you mean"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "at least 1"),
        ("INPUT.MIN_SIZE_TRAIN", [], "at least one"),
        ("INPUT.MIN_SIZE_TRAIN", [480.5], "pixels"),
        ("INPUT.RANDOM_FLIP", "both", "'horizontal', 'vertical', 'none'"),
        ("SOLVER.STEPS", [22000, 18000], "increasing"),
        ("SOLVER.STEPS", [0, 5], "above 0"),
        ("SOLVER.BASE_LR", -0.02, "above 0"),
        ("SOLVER.BASE_LR", float("nan"), "finite"),
        ("SOLVER.BASE_LR_END", 1.0, "above SOLVER.BASE_LR"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 1e-9]], "each at least 1"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [0.5], "each at least 1"),
        ("SOLVER.MOMENTUM", 1.5, "below 1"),
        ("SOLVER.WEIGHT_DECAY", -1e-4, "at least 0"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "none", "None or a number"),
        ("SOLVER.WARMUP_METHOD", "linaer", "did you mean linear?"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultistepLR", "did you mean WarmupMultiStepLR"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0, "above 0"),
        ("SOLVER.CHECKPOINT_PERIOD", -1, "at least 0"),
        ("TEST.PRECISE_BN.NUM_ITER", 0, "at least 1"),
        ("SEED", 2**32, "2^32"),
        ("OUTPUT_DIR", " ", "folder"),
    ],
)
def test_a_value_that_cannot_work_names_key_value_and_what_is_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(CONFIGS / "Base-RCNN-C4.yaml", [key, repr(value) if isinstance(value, list) else str(value)])
    assert key in str(error.value) and expected in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "INPUT.MIN_SIZE_TRAIN is .* two numbers"),
        (["SOLVER.NESTEROV", "True", "SOLVER.MOMENTUM", "0"], "SOLVER.NESTEROV .* momentum above 0"),
        (["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "40"], "OUT_CHANNELS is 40; expected a multiple of 32"),
        (["MODEL.FPN.IN_FEATURES", "['res3', 'res2']"], "MODEL.FPN.IN_FEATURES .* in order"),
        (["MODEL.FPN.IN_FEATURES", "['res2', 'res4']"], "MODEL.FPN.IN_FEATURES .* without a gap"),
        (
            ["MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"],
            "IN_FEATURES names .'res2'., which .*OUT_FEATURES",
        ),
        (
            ["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"],
            "ROI_HEADS.NAME is 'Res5ROIHeads' with .* expected .*'StandardROIHeads'",
        ),
        (
            ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.4, 0.6]"],
            "ROI_HEADS.IOU_THRESHOLDS .*ROI_HEADS.IOU_LABELS .*one label more",
        ),
        (["MODEL.ROI_BOX_HEAD.NAME", ""], "ROI_BOX_HEAD.NAME is ''; expected 'FastRCNNConvFCHead'"),
        (["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1, 2)"], "SOLVER.STEPS is .1, 2. with SOLVER.MAX_ITER 2"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "SOLVER.MAX_ITER", "3"], "SOLVER.NUM_DECAYS is 3"),
        (["MODEL.ROI_BOX_HEAD.NUM_FC", "0"], "NUM_FC and MODEL.ROI_BOX_HEAD.NUM_CONV are 0"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64, 80], [128], [256], [512]]"], "rows of different length"),
    ],
)
def test_values_that_do_not_go_together_are_named_together(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(CONFIGS / "Base-RCNN-FPN.yaml", overrides)
