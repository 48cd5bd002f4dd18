"""The C4 box head of the self-supervised protocols: res5 plus one norm layer."""

from __future__ import annotations

from collections import OrderedDict

from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

# Depths whose stages are basic blocks, with the number of blocks in res5.
_BASIC_RES5 = {18: 2, 34: 3}


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5 head with a norm layer (of kind MODEL.RESNETS.NORM) on its output, before the spatial mean.

    Self-supervised trunks end in features of another scale than supervised ones; the extra layer is part of the
    protocol since MoCo (section 4.2: "an extra normalization layer after conv5"). The parameters are called
    ``roi_heads.res5.norm.*``, as in MoCo's and VirTex's code. The stock head knows bottleneck stages only; this one
    also builds the basic blocks of ResNet-18 and -34.
    """

    # False in variants that only need the other trunk shapes.
    extra_norm = True

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        blocks, channels = cls.build_stage(cfg)
        if not cls.extra_norm:
            return blocks, channels
        named = OrderedDict(blocks.named_children())
        named["norm"] = get_norm(cfg.MODEL.RESNETS.NORM, channels)
        return nn.Sequential(named), channels

    @classmethod
    def build_stage(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        """The blocks of res5 and their output channels: half the channels and twice the stride come in."""
        node = cfg.MODEL.RESNETS
        channels = node.RES2_OUT_CHANNELS * 8
        if node.DEPTH not in _BASIC_RES5:
            bottleneck = node.NUM_GROUPS * node.WIDTH_PER_GROUP * 8
            stage = ResNet.make_stage(
                BottleneckBlock,
                3,
                stride_per_block=[2, 1, 1],
                in_channels=channels // 2,
                bottleneck_channels=bottleneck,
                out_channels=channels,
                num_groups=node.NUM_GROUPS,
                norm=node.NORM,
                stride_in_1x1=node.STRIDE_IN_1X1,
            )
            return nn.Sequential(*stage), channels
        count = _BASIC_RES5[node.DEPTH]
        stage = ResNet.make_stage(
            BasicBlock,
            count,
            stride_per_block=[2] + [1] * (count - 1),
            in_channels=channels // 2,
            out_channels=channels,
            norm=node.NORM,
        )
        return nn.Sequential(*stage), channels
