"""AlexNet with batch norm, without its fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.modeling.backbone.build import BACKBONE_REGISTRY
from ssl_loc.modeling.backbone.sequential import SequentialBackbone
from ssl_loc.utils.errors import ConfigError

# The first convolution (11 px, stride 4, padding 2) and three unpadded poolings of 3 px with stride 2 leave nothing of
# smaller images.
SMALLEST = 63


@register_config("MODEL.ALEXNET_BN")
def alexnet_bn_config() -> CfgNode:
    node = CfgNode()
    # Channels of the first convolution; the others have 3, 6, 4 and 4 times as many. 64 is torchvision's network.
    node.WIDTH = 64
    return node


@BACKBONE_REGISTRY.register()
class AlexNetBN(SequentialBackbone):
    """AlexNet with batch norm after each convolution (DiLo paper, table 3).

    The convolutions are those of ``torchvision.models.alexnet`` (Krizhevsky 2014); torchvision has no batch-norm
    variant, so the layers are numbered as in its vgg16_bn: convolution, norm, ReLU. Levels: after convolutions 1, 2
    and 5 ("res2" .. "res4", strides 4, 8, 16) and after the last pooling ("res5", stride 32), whose average replaces
    the fully connected layers. Its borders are not padded, so maps are up to one cell smaller than size / stride
    (224 px: 55, 27, 13, 6).

    Args:
        norm: channels -> norm layer.
        width: channels of the first convolution.
    """

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, width: int = 64) -> None:
        if width < 1:
            raise ConfigError(f"MODEL.ALEXNET_BN.WIDTH is {width}; expected a number >= 1")
        w = [width * multiple for multiple in (1, 3, 6, 4, 4)]

        def block(convolution: nn.Conv2d) -> list[nn.Module]:
            return [convolution, norm(convolution.out_channels), nn.ReLU(inplace=True)]

        layers = [
            *block(nn.Conv2d(3, w[0], 11, stride=4, padding=2)),
            nn.MaxPool2d(3, 2),
            *block(nn.Conv2d(w[0], w[1], 5, padding=2)),
            nn.MaxPool2d(3, 2),
            *block(nn.Conv2d(w[1], w[2], 3, padding=1)),
            *block(nn.Conv2d(w[2], w[3], 3, padding=1)),
            *block(nn.Conv2d(w[3], w[4], 3, padding=1)),
            nn.MaxPool2d(3, 2),
        ]
        super().__init__(layers, (3, 7, 17, 18), SMALLEST, {"width": width})

    @classmethod
    def from_config(cls, cfg: CfgNode, norm: Callable[[int], nn.Module]) -> dict[str, Any]:
        return {"norm": norm, "width": cfg.MODEL.ALEXNET_BN.WIDTH}
