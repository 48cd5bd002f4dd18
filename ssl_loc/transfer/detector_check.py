"""Refuse to evaluate a detector under a recipe that makes another function of the same tensors.

Shapes give away another depth or number of classes; nothing gives away other pixel statistics, another channel order,
other anchors or another pooler: the tensors fit, and the AP is quietly wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ssl_loc.config.node import parse_literal, plain_values
from ssl_loc.transfer.combinations import ARCHITECTURES
from ssl_loc.transfer.detector_file import DetectorFile, read_detector
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.trunk_check import BATCH_NORMS
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)

# Norm layers that compute the same from the same tensors. GN and LN have equal tensors too, but do not.
_SAME_NORMS = (*BATCH_NORMS, "naiveSyncBN_N")
NORM_KEYS = tuple(f"MODEL.{part}.NORM" for part in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"))
_MASK_KEYS = tuple(f"MODEL.ROI_MASK_HEAD.POOLER_{name}" for name in ("RESOLUTION", "TYPE", "SAMPLING_RATIO"))
# What a detector computes, apart from its tensors. Thresholds, test sizes and data are the evaluation's own affair.
FUNCTION_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    *("MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.FPN.IN_FEATURES", "MODEL.FPN.FUSE_TYPE", *NORM_KEYS),
    *("MODEL.RESNETS.DEFORM_MODULATED", "MODEL.RESNETS.DEFORM_NUM_GROUPS"),
    *(f"MODEL.ANCHOR_GENERATOR.{name}" for name in ("SIZES", "ASPECT_RATIOS", "OFFSET")),
    *("MODEL.RPN.IN_FEATURES", "MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.ROI_HEADS.IN_FEATURES"),
    *(f"MODEL.ROI_BOX_HEAD.{name}" for name in ("BBOX_REG_WEIGHTS", "CLS_AGNOSTIC_BBOX_REG", "USE_SIGMOID_CE")),
    *(f"MODEL.ROI_BOX_HEAD.POOLER_{name}" for name in ("RESOLUTION", "TYPE", "SAMPLING_RATIO")),
    *_MASK_KEYS,
)
# Blocks of these depths have no 1x1 convolution to stride in.
_BASIC_DEPTHS = (18, 34)
# Old detectron2 files hold these keys of MODEL as tensors.
_CONSTANTS = {"pixel_mean": "PIXEL_MEAN", "pixel_std": "PIXEL_STD"}
# detectron2's own trainer writes its whole config here, beside the weights.
_CONFIG = "config.yaml"


def open_detector(path: str | Path, recipe: Recipe) -> DetectorFile:
    """Read a detector for evaluation under ``recipe`` and compare the two.

    Raises:
        WeightsError: the file is no detector.
        ConfigError: the recipe contradicts what the detector was trained with; names key, value, expected value.
            TRANSFER.ALLOW_NONSTANDARD turns it into a warning.
    """
    file = read_detector(path)
    told = flat_config(stated_config(file))
    beside = file.path.parent / _CONFIG
    source = str(path) if "recipe" in file.about or not beside.is_file() else f"{path} (with its {_CONFIG})"
    if not told:
        logger.warning(
            "%s does not say how it was trained, so these keys of the recipe are taken at their word: %s",
            path,
            ", ".join(f"{key} {recipe.flat()[key]}" for key in FUNCTION_KEYS[:4]),
        )
    check_detector(recipe, told, source)
    return file


def check_detector(recipe: Recipe, told: Mapping[str, Any], source: str) -> None:
    """Compare the keys that change what a detector computes with ``told`` ({full key: value}) of ``source``."""
    values = recipe.flat()
    keys = [key for key in FUNCTION_KEYS if matters(key, values)]
    problems = [
        f"{key} is {plain_values(values[key])!r} but {source} says {plain_values(told[key])!r}"
        for key in keys
        if key in told and not _equal(_kind(key, values[key]), _kind(key, told[key]))
    ]
    if problems and not recipe.TRANSFER.ALLOW_NONSTANDARD:
        raise ConfigError(
            f"the recipe contradicts the detector: {'; '.join(problems)}. Give the recipe it was trained with (its "
            "OUTPUT_DIR/recipe.yaml), or set TRANSFER.ALLOW_NONSTANDARD True if this is what you want"
        )
    for problem in problems:
        logger.warning("allowed by TRANSFER.ALLOW_NONSTANDARD: %s", problem)


def matters(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key of FUNCTION_KEYS has any effect beside the other keys of a flat recipe or config."""
    if key in _MASK_KEYS or key == "MODEL.ROI_MASK_HEAD.NORM":
        return bool(values.get("MODEL.MASK_ON", True))
    if key == "MODEL.RESNETS.STRIDE_IN_1X1":
        return values.get("MODEL.RESNETS.DEPTH") not in _BASIC_DEPTHS
    if key.startswith("MODEL.RESNETS.DEFORM_"):
        stages = values.get("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True])
        return any(parse_literal(stages) if isinstance(stages, str) else stages)
    if key.startswith("MODEL.FPN.") or key == "MODEL.ROI_BOX_HEAD.NORM":
        return ARCHITECTURES.get(str(values.get("MODEL.BACKBONE.NAME"))) != "C4"
    return True


def _kind(key: str, value: Any) -> Any:
    """The value, or one name for all norm layers that evaluate alike."""
    return "BN" if key in NORM_KEYS and value in _SAME_NORMS else value


def stated_config(file: DetectorFile) -> dict[str, Any]:
    """What a file says about its training, nested: its recipe; else the config.yaml that detectron2's own trainer
    writes beside it, and the pixel statistics that old files hold; {} if there is nothing."""
    recipe = file.about.get("recipe")
    if isinstance(recipe, Mapping):
        return dict(recipe)
    content = _beside(file.path)
    found = {name: file.constants[name].flatten().tolist() for name in _CONSTANTS if name in file.constants}
    if found:
        content["MODEL"] = {**content.get("MODEL", {}), **{_CONSTANTS[name]: value for name, value in found.items()}}
    return content


def _beside(path: Path) -> dict[str, Any]:
    beside = path.parent / _CONFIG
    if not beside.is_file():
        return {}
    try:
        content = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        logger.warning("%s, beside the detector, cannot be read: %s", beside, " ".join(str(error).split()))
        return {}
    logger.info("%s says how the detector was trained", beside)
    return content if isinstance(content, dict) else {}


def flat_config(node: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings -> {full key: value}."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flat_config(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value})
    return flat


def _equal(a: Any, b: Any) -> bool:
    # detectron2 writes tuples as text.
    a, b = (plain_values(parse_literal(x) if isinstance(x, str) else x) for x in (a, b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        # Pixel statistics may have been stored as float32.
        return abs(a - b) <= 1e-5 * max(abs(a), abs(b))
    return bool(a == b)
