"""VGG16 with batch norm, without its fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.modeling.backbone.build import BACKBONE_REGISTRY
from ssl_loc.modeling.backbone.sequential import SequentialBackbone
from ssl_loc.utils.errors import ConfigError

# Multiples of the width per convolution, block by block: configuration D of Simonyan and Zisserman 2015, table 1.
BLOCKS = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
# Five poolings halve the image.
SMALLEST = 32


@register_config("MODEL.VGG16_BN")
def vgg16_bn_config() -> CfgNode:
    node = CfgNode()
    # Channels of the first block; the others have 2, 4, 8 and 8 times as many. 64 is the published network.
    node.WIDTH = 64
    return node


@BACKBONE_REGISTRY.register()
class VGG16BN(SequentialBackbone):
    """VGG16 with batch norm (DiLo paper, table 3): ``torchvision.models.vgg16_bn().features``, same names and values.

    Levels: the last maps of blocks 3, 4 and 5 before pooling ("res2" .. "res4", strides 4, 8, 16) and the last pooled
    map ("res5", stride 32), whose average replaces the fully connected layers.

    Args:
        norm: channels -> norm layer.
        width: channels of the first block.
    """

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, width: int = 64) -> None:
        if width < 1:
            raise ConfigError(f"MODEL.VGG16_BN.WIDTH is {width}; expected a number >= 1")
        layers: list[nn.Module] = []
        block_ends, inside = [], 3
        for block in BLOCKS:
            for multiple in block:
                out = width * multiple
                layers += [nn.Conv2d(inside, out, 3, padding=1), norm(out), nn.ReLU(inplace=True)]
                inside = out
            block_ends.append(len(layers))
            layers.append(nn.MaxPool2d(2, 2))
        super().__init__(layers, (*block_ends[2:], len(layers)), SMALLEST, {"width": width})

    @classmethod
    def from_config(cls, cfg: CfgNode, norm: Callable[[int], nn.Module]) -> dict[str, Any]:
        return {"norm": norm, "width": cfg.MODEL.VGG16_BN.WIDTH}
