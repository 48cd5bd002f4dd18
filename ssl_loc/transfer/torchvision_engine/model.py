"""Faster and Mask R-CNN around an ssl_loc trunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork

from ssl_loc.layers import FrozenBN
from ssl_loc.modeling.backbone import Backbone, build_backbone_from_description
from ssl_loc.transfer.recipe import Recipe, architecture
from ssl_loc.transfer.torchvision_engine.heads import (
    NORM_NAMES,
    ConvFCHead,
    Res5Head,
    box_predictor,
    mask_branch,
    norm_layer,
)
from ssl_loc.transfer.torchvision_engine.pooler import Pooler
from ssl_loc.transfer.torchvision_engine.roi_heads import Res5RoIHeads, RoIHeads, Target
from ssl_loc.transfer.torchvision_engine.rpn import RPN
from ssl_loc.utils.errors import ConfigError


class Pyramid(nn.Module):
    """Feature pyramid over trunk levels: {"res2": ...} -> {"p2": ..., "p6": ...}; "pN" has stride 2^N, the last one is
    the one before it subsampled by 2."""

    def __init__(self, features: Sequence[str], trunk: Backbone, channels: int, norm: str) -> None:
        super().__init__()
        self.features = list(features)
        levels = [int(math.log2(trunk.strides[name])) for name in self.features]
        self.strides = {f"p{level}": 2**level for level in [*levels, levels[-1] + 1]}
        self.body = FeaturePyramidNetwork([trunk.channels[f] for f in self.features], channels, None, norm_layer(norm))

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        out = list(self.body({name: maps[name] for name in self.features}).values())
        out.append(F.max_pool2d(out[-1], kernel_size=1, stride=2))
        return dict(zip(self.strides, out, strict=True))


class Detector(nn.Module):
    """Images -> losses (training) or detections.

    Args:
        trunk: maps by name.
        fpn: pyramid, or None for C4.
        pixel_mean, pixel_std: of the images as they come (recipe's channel order), 0..255.
        rpn_features: maps the RPN looks at.
        divisor: batches are padded to multiples of this (1: only to the largest image).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        trunk: Backbone,
        fpn: Pyramid | None,
        rpn: RPN,
        roi_heads: RoIHeads,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        rpn_features: Sequence[str],
        divisor: int = 1,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = fpn
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.rpn_features = list(rpn_features)
        self.divisor = divisor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """uint8 images (3, h, w) -> {loss name: scalar} in training, else one dict of detections per image."""
        batch = self.preprocess(images)
        features = self.features(batch.tensors)
        proposals, rpn_losses = self.rpn(batch, {name: features[name] for name in self.rpn_features}, targets)
        results, losses = self.roi_heads(features, proposals, batch.image_sizes, targets)
        if not self.training:
            return results
        named = {"loss_rpn_cls": rpn_losses["loss_objectness"], "loss_rpn_loc": rpn_losses["loss_rpn_box_reg"]}
        return {**losses, **named}

    def preprocess(self, images: list[Tensor]) -> ImageList:
        """Normalise and pad at the right and bottom with zeros (the mean colour)."""
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in images]
        height, width = (self.divisor * math.ceil(max(side) / self.divisor) for side in zip(*sizes, strict=True))
        batch = torch.zeros(len(images), 3, height, width, device=self.device)
        for row, image, (h, w) in zip(batch, images, sizes, strict=True):
            row[:, :h, :w] = (image.to(self.device) - self.pixel_mean) / self.pixel_std
        return ImageList(batch, sizes)

    def features(self, batch: Tensor) -> dict[str, Tensor]:
        """Maps the heads work on: trunk levels (C4) or pyramid levels (FPN)."""
        maps = self.trunk(batch)
        return maps if self.fpn is None else self.fpn(maps)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, FrozenBN):
                module.training = False
        return self


def build_detector(recipe: Recipe, description: dict[str, Any]) -> Detector:
    """A randomly initialised detector of ``recipe`` around the described trunk (see ``Backbone.describe``)."""
    trunk = build_backbone_from_description(description, norm=NORM_NAMES[recipe.MODEL.RESNETS.NORM])
    _check_widths(recipe, trunk)
    c4 = architecture(recipe) == "C4"
    fpn = None if c4 else _pyramid(recipe, trunk)
    strides = dict(trunk.strides) if fpn is None else fpn.strides
    channels = trunk.channels["res4"] if c4 else recipe.MODEL.FPN.OUT_CHANNELS
    for key, names in (("RPN", recipe.MODEL.RPN.IN_FEATURES), ("ROI_HEADS", recipe.MODEL.ROI_HEADS.IN_FEATURES)):
        if unknown := [name for name in names if name not in strides]:
            source = "this trunk" if c4 else f"MODEL.FPN.IN_FEATURES {list(recipe.MODEL.FPN.IN_FEATURES)}"
            raise ConfigError(
                f"MODEL.{key}.IN_FEATURES names {unknown}; {source} gives {', '.join(strides)} (pN has stride 2^N; a "
                "trunk of stem 'small' starts at p1): name some of these, with a row of ANCHOR_GENERATOR.SIZES each, "
                "as configs/detection/quick/scenes_narrow_FPN.yaml does for the small stem"
            )
    rpn = RPN.from_recipe(recipe, channels, [strides[name] for name in recipe.MODEL.RPN.IN_FEATURES])
    heads = _roi_heads(recipe, trunk, channels, strides)
    freeze(trunk, recipe.MODEL.BACKBONE.FREEZE_AT)
    return Detector(
        trunk,
        fpn,
        rpn,
        heads,
        recipe.MODEL.PIXEL_MEAN,
        recipe.MODEL.PIXEL_STD,
        recipe.MODEL.RPN.IN_FEATURES,
        divisor=1 if c4 else trunk.strides[recipe.MODEL.FPN.IN_FEATURES[-1]],
    )


def freeze(trunk: nn.Module, stages: int) -> None:
    """Freeze the stem (``stages`` >= 1) and the first ``stages`` - 1 stages, their norm layers included."""
    names = ["conv1", "bn1"] if stages >= 1 else []
    names += [f"layer{i}" for i in range(1, stages)]
    for name in names:
        part = getattr(trunk, name)
        part.requires_grad_(False)
        if isinstance(part, nn.BatchNorm2d) or hasattr(part, "running_mean"):
            setattr(trunk, name, _frozen(part))
        for parent in part.modules():
            for child_name, child in parent.named_children():
                if hasattr(child, "running_mean"):
                    setattr(parent, child_name, _frozen(child))


def _frozen(norm: Any) -> FrozenBN:
    frozen = FrozenBN(norm.num_features, norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen


def _check_widths(recipe: Recipe, trunk: Backbone) -> None:
    found = {
        "RES2_OUT_CHANNELS": trunk.channels["res2"],
        "STEM_OUT_CHANNELS": trunk.get_parameter("conv1.weight").shape[0],
    }
    defaults = {"RES2_OUT_CHANNELS": 256, "STEM_OUT_CHANNELS": 64}
    for key, channels in found.items():
        value = recipe.MODEL.RESNETS[key]
        if value not in (channels, defaults[key]):
            raise ConfigError(
                f"MODEL.RESNETS.{key} is {value} but the trunk (of the weights, or of TRANSFER.BACKBONE.KWARGS) has "
                f"{channels}; leave it out or correct it"
            )


def _pyramid(recipe: Recipe, trunk: Backbone) -> Pyramid:
    node = recipe.MODEL.FPN
    names, outputs = list(node.IN_FEATURES), list(recipe.MODEL.RESNETS.OUT_FEATURES)
    if not names or [n for n in names if n not in trunk.strides] or names != sorted(names):
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {names}; expected levels among {', '.join(trunk.strides)}, in order"
        )
    if missing := [name for name in names if name not in outputs]:
        raise ConfigError(f"MODEL.FPN.IN_FEATURES names {missing}, which MODEL.RESNETS.OUT_FEATURES {outputs} lacks")
    return Pyramid(names, trunk, node.OUT_CHANNELS, node.NORM)


def _roi_heads(recipe: Recipe, trunk: Backbone, channels: int, strides: dict[str, int]) -> RoIHeads:
    node, box = recipe.MODEL.ROI_HEADS, recipe.MODEL.ROI_BOX_HEAD
    c4 = architecture(recipe) == "C4"
    head, features = _res5_head(recipe, trunk) if c4 else _conv_fc_head(recipe, channels)
    masks: dict[str, Any] = {}
    if recipe.MODEL.MASK_ON:
        mask = recipe.MODEL.ROI_MASK_HEAD
        inside = features if c4 else channels
        parts = mask_branch(inside, mask.CONV_DIM, mask.NUM_CONV, node.NUM_CLASSES, norm_layer(mask.NORM))
        masks = {"mask_head": parts[0], "mask_predictor": parts[1]}
        if not c4:  # whose masks share the box head's maps
            masks["mask_roi_pool"] = _pooler(recipe, mask, strides)
    return (Res5RoIHeads if c4 else RoIHeads)(
        beta=box.SMOOTH_L1_BETA,
        box_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        append_truth=node.PROPOSAL_APPEND_GT,
        box_roi_pool=_pooler(recipe, box, strides),
        box_head=head,
        box_predictor=box_predictor(features, node.NUM_CLASSES),
        fg_iou_thresh=node.IOU_THRESHOLDS[0],
        bg_iou_thresh=node.IOU_THRESHOLDS[0],
        batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
        positive_fraction=node.POSITIVE_FRACTION,
        bbox_reg_weights=tuple(box.BBOX_REG_WEIGHTS),
        score_thresh=node.SCORE_THRESH_TEST,
        nms_thresh=node.NMS_THRESH_TEST,
        detections_per_img=recipe.TEST.DETECTIONS_PER_IMAGE,
        **masks,
    )


def _conv_fc_head(recipe: Recipe, channels: int) -> tuple[nn.Module, int]:
    box = recipe.MODEL.ROI_BOX_HEAD
    convs, fcs = [box.CONV_DIM] * box.NUM_CONV, [box.FC_DIM] * box.NUM_FC
    head = ConvFCHead(channels, box.POOLER_RESOLUTION, convs, fcs, norm_layer(box.NORM))
    return head, head.out_features


def _res5_head(recipe: Recipe, trunk: Backbone) -> tuple[nn.Module, int]:
    extra = recipe.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    make = norm_layer(recipe.MODEL.RESNETS.NORM) if extra else None
    channels = trunk.channels["res5"]
    head = Res5Head(trunk.get_submodule("layer4"), make(channels) if make else None)
    # The trunk ends at layer3; its last stage now belongs to the head and runs on RoIs.
    trunk.layer4 = nn.Identity()
    return head, channels


def _pooler(recipe: Recipe, node: Any, strides: dict[str, int]) -> Pooler:
    names = list(recipe.MODEL.ROI_HEADS.IN_FEATURES)
    return Pooler(
        names,
        [strides[name] for name in names],
        node.POOLER_RESOLUTION,
        node.POOLER_SAMPLING_RATIO,
        aligned=node.POOLER_TYPE == "ROIAlignV2",
    )
