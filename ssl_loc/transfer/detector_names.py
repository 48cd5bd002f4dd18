"""A whole detector's weights between the two engines: names, and the place of the background class.

torchvision puts background first (row 0 of the classifier, of the box deltas and of the masks); detectron2 puts it last
in the classifier and has no rows for it elsewhere. Anchors are in the same order on both engines, so RPN weights need
no permutation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_loc.checkpoint.trunk_names import trunk_from_detectron2
from ssl_loc.transfer.weights import detectron2_key, torchvision_key
from ssl_loc.utils.errors import WeightsError

# (torchvision engine, detectron2, number of the first detectron2 layer); "#" counts layers.
_HEADS = (
    ("rpn.head.conv.0.0", "proposal_generator.rpn_head.conv", 0),
    ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits", 0),
    ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas", 0),
    ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.cls_score", 0),
    ("roi_heads.box_predictor.bbox_pred", "roi_heads.box_predictor.bbox_pred", 0),
    ("roi_heads.box_head.norm", "roi_heads.res5.norm", 0),
    ("roi_heads.box_head.fcs.#", "roi_heads.box_head.fc#", 1),
    ("roi_heads.box_head.convs.#.0", "roi_heads.box_head.conv#", 1),
    ("roi_heads.box_head.convs.#.1", "roi_heads.box_head.conv#.norm", 1),
    ("roi_heads.mask_head.#.0", "roi_heads.mask_head.mask_fcn#", 1),
    ("roi_heads.mask_head.#.1", "roi_heads.mask_head.mask_fcn#.norm", 1),
    ("roi_heads.mask_predictor.conv5_mask", "roi_heads.mask_head.deconv", 0),
    ("roi_heads.mask_predictor.mask_fcn_logits", "roi_heads.mask_head.predictor", 0),
)
_PYRAMID = (("fpn.body.inner_blocks", "backbone.fpn_lateral"), ("fpn.body.layer_blocks", "backbone.fpn_output"))
# More layers of one kind than this no head has.
_MAX_LAYERS = 16
_CLASSIFIER = "roi_heads.box_predictor.cls_score"
_DELTAS = "roi_heads.box_predictor.bbox_pred"
_MASKS = "roi_heads.mask_predictor.mask_fcn_logits"


def detector_to_detectron2(state: Mapping[str, Tensor], arch: str, first_level: int = 2) -> dict[str, Tensor]:
    """State dict of our torchvision detector -> names and layout of the detectron2 detector of the same recipe.

    Args:
        arch: "C4" or "FPN".
        first_level: log2 of the stride of the finest pyramid level.
    """
    layers = _layer_names(first_level)
    out = {}
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        if layer in layers:
            out[f"{layers[layer]}.{tensor}"] = _background_away(layer, value)
        else:
            trunk = key.removeprefix("trunk.").removeprefix("roi_heads.box_head.")
            out[detectron2_key(trunk, arch)] = value
    return out


def detector_from_detectron2(state: Mapping[str, Tensor], arch: str, first_level: int = 2) -> dict[str, Tensor]:
    """Inverse of :func:`detector_to_detectron2`; the background rows that detectron2 lacks become zeros (unused)."""
    layers = {theirs: ours for ours, theirs in _layer_names(first_level).items()}
    out = {}
    for key, value in state.items():
        layer, _, tensor = key.rpartition(".")
        if layer in layers:
            out[f"{layers[layer]}.{tensor}"] = _background_back(layers[layer], value)
            continue
        for prefix in ("backbone.bottom_up.", "backbone.", "roi_heads."):
            if key.startswith(prefix):
                out[torchvision_key(trunk_from_detectron2(key.removeprefix(prefix)), arch)] = value
                break
        else:
            raise WeightsError(
                f"'{key}' is no tensor of a detectron2 {arch} detector that the torchvision engine knows"
            )
    return out


def _layer_names(first_level: int) -> dict[str, str]:
    names = {}
    for ours, theirs, first in _HEADS:
        for i in range(_MAX_LAYERS if "#" in ours else 1):
            names[ours.replace("#", str(i))] = theirs.replace("#", str(i + first))
    for ours, theirs in _PYRAMID:
        for i in range(_MAX_LAYERS):
            names[f"{ours}.{i}.0"] = f"{theirs}{i + first_level}"
            names[f"{ours}.{i}.1"] = f"{theirs}{i + first_level}.norm"
    return names


def _background_away(layer: str, value: Tensor) -> Tensor:
    if layer == _CLASSIFIER:
        return torch.cat([value[1:], value[:1]])
    if layer == _DELTAS:
        return value[4:]
    return value[1:] if layer == _MASKS else value


def _background_back(layer: str, value: Tensor) -> Tensor:
    if layer == _CLASSIFIER:
        return torch.cat([value[-1:], value[:-1]])
    if layer in (_DELTAS, _MASKS):
        rows = 4 if layer == _DELTAS else 1
        return torch.cat([torch.zeros_like(value[:1]).expand(rows, *value.shape[1:]), value])
    return value
