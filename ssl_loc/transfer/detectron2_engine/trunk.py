"""Trunks as detectron2 modules: its own ResNet for the standard depths, the same blocks in other numbers otherwise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from fvcore.nn import weight_init
from torch import Tensor, nn

from ssl_loc.transfer.detectron2_engine.heads import Res5ROIHeadsExtraNorm
from ssl_loc.utils.errors import ConfigError, WeightsError

# depth -> (block, blocks per stage): He et al., "Deep Residual Learning", table 1.
DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
EXPANSION = {"basic": 1, "bottleneck": 4}
STANDARD_WIDTH = 64
_STOCK, _EXTRA_NORM = "Res5ROIHeads", "Res5ROIHeadsExtraNorm"


@dataclass(frozen=True)
class TrunkShape:
    """What a ResNet looks like.

    Attributes:
        depth: 18 .. 152.
        block: "basic" or "bottleneck".
        layers: blocks of the four stages.
        width: channels of the stem and of the first stage's 3x3 convolutions.
        stem: "imagenet" (7x7 stride 2 and max pooling) or "small" (3x3 stride 2, no pooling).
    """

    depth: int
    block: str
    layers: tuple[int, ...]
    width: int
    stem: str

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TrunkShape:
        """From an exported file's meta["backbone"]."""
        kwargs = dict(description.get("kwargs", {}))
        depth = kwargs.pop("depth", 50)
        if description.get("name") != "ResNet" or depth not in DEPTHS:
            raise WeightsError(
                f"the detectron2 engine builds ResNet trunks only, but the weights hold {dict(description)}; use "
                "--engine torchvision"
            )
        block, layers = DEPTHS[depth]
        block, layers = kwargs.pop("block", "") or block, tuple(kwargs.pop("layers", ())) or layers
        shape = cls(depth, block, layers, kwargs.pop("width", STANDARD_WIDTH), kwargs.pop("stem", "imagenet"))
        if kwargs or shape.stem not in ("imagenet", "small") or block not in EXPANSION:
            raise WeightsError(
                f"the detectron2 engine does not know this kind of ResNet trunk: {dict(description)}; use --engine "
                "torchvision"
            )
        return shape

    @property
    def standard(self) -> bool:
        """True if detectron2's own builder makes it from MODEL.RESNETS."""
        ordinary = (self.block, self.layers) == DEPTHS[self.depth] and self.stem == "imagenet"
        return ordinary and (self.block == "bottleneck" or self.width == STANDARD_WIDTH)

    def channels(self, stage: int) -> int:
        """Output channels of stage 0..3 (res2..res5)."""
        return self.width * 2**stage * EXPANSION[self.block]

    def stride(self, level: str) -> int:
        """Image px per cell of "res2" .. "res5"."""
        return (4 if self.stem == "imagenet" else 2) * 2 ** (int(level.removeprefix("res")) - 2)

    def digest(self) -> str:
        """Names this shape in detectron2's registries."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]


def fill_trunk(cfg: CfgNode, shape: TrunkShape) -> None:
    """Make ``cfg`` build this trunk. Standard ones stay with detectron2's builders; others get builders of ours."""
    resnets = cfg.MODEL.RESNETS
    if resnets.WIDTH_PER_GROUP not in (STANDARD_WIDTH, shape.width):
        raise ConfigError(
            f"MODEL.RESNETS.WIDTH_PER_GROUP is {resnets.WIDTH_PER_GROUP} but the trunk has {shape.width}; leave it out "
            "or correct it"
        )
    resnets.DEPTH = shape.depth
    resnets.STEM_OUT_CHANNELS = resnets.WIDTH_PER_GROUP = shape.width
    resnets.RES2_OUT_CHANNELS = shape.channels(0)
    heads = cfg.MODEL.ROI_HEADS.NAME
    # The stock head builds bottlenecks whatever the depth, so basic blocks need ours even without the extra norm.
    if heads in (_STOCK, _EXTRA_NORM) and not (
        shape.standard and (heads == _EXTRA_NORM or shape.block == "bottleneck")
    ):
        cfg.MODEL.ROI_HEADS.NAME = _register_heads(shape, extra_norm=heads == _EXTRA_NORM)
    if shape.standard:
        return
    changed = ("NUM_GROUPS", resnets.NUM_GROUPS != 1), ("DEFORM_ON_PER_STAGE", any(resnets.DEFORM_ON_PER_STAGE))
    if wrong := [f"MODEL.RESNETS.{name} {resnets[name]}" for name, is_changed in changed if is_changed]:
        raise ConfigError(
            f"a trunk of unusual shape ({shape}) cannot be built with {' and '.join(wrong)}; leave the default"
        )
    pyramid = "fpn" in cfg.MODEL.BACKBONE.NAME
    name = f"ssl_loc_trunk_{shape.digest()}{'_fpn' if pyramid else ''}"
    if name not in BACKBONE_REGISTRY:
        builder = _pyramid_builder(shape) if pyramid else _trunk_builder(shape)
        builder.__name__ = name
        BACKBONE_REGISTRY.register(builder)
    cfg.MODEL.BACKBONE.NAME = name


def check_levels(cfg: CfgNode, shape: TrunkShape) -> None:
    """The maps that RPN and box heads ask for exist; levels of a pyramid are named by stride ("p3" has stride 8)."""
    if "fpn" in cfg.MODEL.BACKBONE.NAME:
        steps = [int(math.log2(shape.stride(level))) for level in cfg.MODEL.FPN.IN_FEATURES]
        there, source = [f"p{step}" for step in [*steps, steps[-1] + 1]], "MODEL.FPN.IN_FEATURES"
    else:
        there, source = list(cfg.MODEL.RESNETS.OUT_FEATURES), "MODEL.RESNETS.OUT_FEATURES"
    for key, wanted in (("RPN", cfg.MODEL.RPN.IN_FEATURES), ("ROI_HEADS", cfg.MODEL.ROI_HEADS.IN_FEATURES)):
        absent = [level for level in wanted if level not in there]
        if absent:
            raise ConfigError(
                f"MODEL.{key}.IN_FEATURES names {', '.join(absent)}, but with this trunk (stem {shape.stem!r}, levels "
                f"named by stride) the maps are {', '.join(there)}; correct the key or {source}"
            )


def make_stage(shape: TrunkShape, stage: int, norm: str) -> list[CNNBlockBase]:
    """Blocks of stage 0..3; the first block of stages 1..3 has stride 2, in the 3x3 convolution."""
    stride = 1 if stage == 0 else 2
    inside = shape.width if stage == 0 else shape.channels(stage - 1)
    kwargs: dict[str, Any] = {"block_class": BasicBlock}
    if shape.block == "bottleneck":
        kwargs = {
            "block_class": BottleneckBlock,
            "bottleneck_channels": shape.width * 2**stage,
            "stride_in_1x1": False,
        }
    count = shape.layers[stage]
    return ResNet.make_stage(
        num_blocks=count,
        stride_per_block=[stride] + [1] * (count - 1),
        in_channels=inside,
        out_channels=shape.channels(stage),
        norm=norm,
        **kwargs,
    )


class SmallStem(CNNBlockBase):
    """3x3 convolution with stride 2 and no pooling, for small images."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__(in_channels, out_channels, 2)
        self.conv1 = Conv2d(in_channels, out_channels, 3, 2, 1, bias=False, norm=get_norm(norm, out_channels))
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) -> (N, C, h/2, w/2)."""
        return F.relu_(self.conv1(x))


def _trunk_builder(shape: TrunkShape) -> Any:
    def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        norm = cfg.MODEL.RESNETS.NORM
        stem_class = SmallStem if shape.stem == "small" else BasicStem
        stem = stem_class(input_shape.channels, shape.width, norm)
        stages = [make_stage(shape, stage, norm) for stage in range(4)]
        features = cfg.MODEL.RESNETS.OUT_FEATURES
        return ResNet(stem, stages, out_features=features, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)

    return build


def _pyramid_builder(shape: TrunkShape) -> Any:
    trunk = _trunk_builder(shape)

    def build(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
        node = cfg.MODEL.FPN
        # Levels are named by stride ("p3" has stride 8); the stock top block is tied to "p5", which a trunk with other
        # strides may not have.
        top = LastLevelMaxPool()
        top.in_feature = f"p{int(math.log2(shape.stride(node.IN_FEATURES[-1])))}"
        return FPN(
            trunk(cfg, input_shape),
            node.IN_FEATURES,
            node.OUT_CHANNELS,
            norm=node.NORM,
            top_block=top,
            fuse_type=node.FUSE_TYPE,
        )

    return build


def _register_heads(shape: TrunkShape, extra_norm: bool) -> str:
    name = f"Res5ROIHeads{'ExtraNorm' if extra_norm else ''}_{shape.digest()}"
    if name not in ROI_HEADS_REGISTRY:

        def stage(cls: type, cfg: CfgNode) -> tuple[nn.Sequential, int]:
            return nn.Sequential(*make_stage(shape, 3, cfg.MODEL.RESNETS.NORM)), shape.channels(3)

        members = {"build_stage": classmethod(stage), "extra_norm": extra_norm}
        ROI_HEADS_REGISTRY.register(type(name, (Res5ROIHeadsExtraNorm,), members))
    return name
