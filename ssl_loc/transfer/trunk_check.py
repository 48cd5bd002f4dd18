"""Refuse, before anything is built, the recipes that would run and quietly ruin a pretrained trunk.

None of these settings makes detectron2 raise or warn, yet each changes what the trunk computes: stride in the 1x1
convolution alters stage outputs by 80-90%, swapped channels by about as much, a pixel std of 1 by a factor of hundreds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)

# Pixel statistics closer than this (0..255 scale) count as equal; constants are quoted with 2 or 3 decimals.
_TOLERANCE = 0.01
# Channels of a standard ResNet's stem.
STANDARD_WIDTH = 64
# Norm layers whose tensors are those of batch norm, so that a batch-norm trunk fits.
BATCH_NORMS = ("BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN")


def check_trunk(recipe: Recipe, meta: Mapping[str, Any], random: bool = False) -> None:
    """Compare a recipe with what the weight file says about itself.

    Args:
        meta: of an exported backbone (pixel_mean, pixel_std, channel_order, stride_in_1x1, backbone).
        random: the trunk is randomly initialised, so there are no pretrained layers to protect.

    Raises:
        ConfigError: one sentence with the key, its value, the expected value. TRANSFER.ALLOW_NONSTANDARD turns it
            into a warning.
    """
    check_kind(meta)
    sizes = _size_problems(recipe, meta, random)
    problems = [*_pixel_problems(recipe, meta), *_structure_problems(recipe, meta), *sizes]
    frozen_at = recipe.MODEL.BACKBONE.FREEZE_AT
    if frozen_at > 0:
        problems.append(
            f"MODEL.BACKBONE.FREEZE_AT is {frozen_at}, which freezes the stem and first stages; expected 0 for a "
            "self-supervised or random trunk"
        )
    if recipe.MODEL.RESNETS.NORM == "FrozenBN":
        logger.warning(
            "MODEL.RESNETS.NORM is FrozenBN: the statistics of %s stay fixed during fine-tuning, which often "
            "diverges at the usual learning rates; the published recipes use SyncBN",
            "a random trunk" if random else "a self-supervised trunk",
        )
    if problems and not recipe.TRANSFER.ALLOW_NONSTANDARD:
        raise ConfigError(
            f"the recipe contradicts the trunk: {'; '.join(problems)}. Correct the key(s)"
            # A detector has the widths of its trunk whatever is allowed.
            + (
                ""
                if problems == sizes and _wrong_widths(recipe, meta)
                else ", or set TRANSFER.ALLOW_NONSTANDARD True if this is what you want"
            )
        )
    for problem in problems:
        logger.warning("allowed by TRANSFER.ALLOW_NONSTANDARD: %s", problem)


def check_kind(meta: Mapping[str, Any]) -> None:
    """Refuse a trunk that no detector here can carry.

    Raises:
        ConfigError: it is no ResNet.
    """
    name = meta.get("backbone", {}).get("name", "ResNet")
    if name != "ResNet":
        raise ConfigError(
            f"the weights hold the trunk {name}, but the detectors of both engines are built on ResNets; pretrain with "
            "MODEL.BACKBONE.NAME ResNet, or evaluate this trunk with tools/evaluate.py (knn, linear)"
        )


def _pixel_problems(recipe: Recipe, meta: Mapping[str, Any]) -> list[str]:
    order = recipe.INPUT.FORMAT
    mean, std = list(recipe.MODEL.PIXEL_MEAN), list(recipe.MODEL.PIXEL_STD)
    want_order = meta.get("channel_order", "RGB")
    want_mean, want_std = list(meta["pixel_mean"]), list(meta["pixel_std"])
    problems = []
    if order != want_order:
        problems.append(f"INPUT.FORMAT is {order!r} but the trunk was trained on {want_order}; expected {want_order!r}")
    if 0 < max(mean) <= 1:
        problems.append(f"MODEL.PIXEL_MEAN is {mean}, on the 0-1 scale; expected {want_mean} on the 0-255 scale")
    elif not _close(mean, want_mean):
        swapped = " (yours is in the other channel order)" if _close(mean[::-1], want_mean) else ""
        problems.append(f"MODEL.PIXEL_MEAN is {mean}; expected {want_mean}, as in pretraining{swapped}")
    if not _close(std, want_std):
        why = " (1 is detectron2's default for Caffe weights)" if std == [1.0, 1.0, 1.0] else ""
        problems.append(f"MODEL.PIXEL_STD is {std}; expected {want_std}, as in pretraining{why}")
    return problems


def _structure_problems(recipe: Recipe, meta: Mapping[str, Any]) -> list[str]:
    resnets = recipe.MODEL.RESNETS
    problems = []
    in_1x1 = bool(meta.get("stride_in_1x1", False))
    if resnets.STRIDE_IN_1X1 != in_1x1:
        where = "1x1" if in_1x1 else "3x3"
        problems.append(
            f"MODEL.RESNETS.STRIDE_IN_1X1 is {resnets.STRIDE_IN_1X1} but the trunk strides in its {where} "
            f"convolutions; expected {in_1x1}"
        )
    if resnets.NORM not in BATCH_NORMS:
        problems.append(f"MODEL.RESNETS.NORM is {resnets.NORM!r}; expected one of {', '.join(BATCH_NORMS)}")
    return problems


def _size_problems(recipe: Recipe, meta: Mapping[str, Any], random: bool) -> list[str]:
    """Depth and widths at once, with the words that correct them: one key corrected would only lead to the next."""
    resnets, depth = recipe.MODEL.RESNETS, depth_of(meta)
    wrong = {}
    if depth is not None and depth != resnets.DEPTH:
        wrong["MODEL.RESNETS.DEPTH"] = (resnets.DEPTH, depth)
    wrong |= _wrong_widths(recipe, meta)
    if not wrong:
        return []
    given = " and ".join(f"{key} is {value}" for key, (value, _) in wrong.items())
    right = " ".join(f"{key} {value}" for key, (_, value) in wrong.items())
    kind = "a ResNet" if depth is None else f"a ResNet-{depth}"
    sizes = ", ".join(f"{key} {channels}" for key, channels in widths_of(meta).items())
    source = "TRANSFER.BACKBONE.KWARGS describes" if random else "the weights hold"
    return [f"{given} but {source} {kind}{f' ({sizes})' if sizes else ''}: add {right} to the command"]


def _wrong_widths(recipe: Recipe, meta: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Full key -> (value, the trunk's)."""
    values = {key: recipe.MODEL.RESNETS[key] for key in widths_of(meta)}
    return {
        f"MODEL.RESNETS.{key}": (values[key], channels)
        for key, channels in widths_of(meta).items()
        # Both engines take the widths from the trunk, so detectron2's default need not be corrected.
        if values[key] not in (channels, DETECTRON2_DEFAULTS[f"MODEL.RESNETS.{key}"])
    }


def depth_of(meta: Mapping[str, Any]) -> int | None:
    """Depth of a standard ResNet from the description in an exported file; None where it does not say."""
    depth = meta.get("backbone", {}).get("kwargs", {}).get("depth")
    return int(depth) if depth else None


def widths_of(meta: Mapping[str, Any]) -> dict[str, int]:
    """Channels of res2 and of the stem, under MODEL.RESNETS' keys; empty where the description is no ResNet's."""
    # Imports torchvision.
    from ssl_loc.modeling.backbone.resnet import BLOCKS, DEPTHS

    kwargs, depth = meta.get("backbone", {}).get("kwargs", {}), depth_of(meta)
    if meta.get("backbone", {}).get("name", "ResNet") != "ResNet" or depth not in DEPTHS:
        return {}
    width = int(kwargs.get("width", STANDARD_WIDTH))
    expansion = BLOCKS[kwargs.get("block") or DEPTHS[depth][0]].expansion
    return {"RES2_OUT_CHANNELS": width * expansion, "STEM_OUT_CHANNELS": width}


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= _TOLERANCE for x, y in zip(a, b, strict=True))
