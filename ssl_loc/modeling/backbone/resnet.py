"""ResNet trunks out of torchvision's blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from ssl_loc.config import CfgNode, register_config
from ssl_loc.modeling.backbone.backbone import Backbone
from ssl_loc.modeling.backbone.build import BACKBONE_REGISTRY
from ssl_loc.utils.errors import ConfigError, check_choice

# depth -> (block, blocks per stage): He et al., "Deep Residual Learning", table 1.
DEPTHS: dict[int, tuple[str, tuple[int, int, int, int]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
}
BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
STEMS = ("imagenet", "small")


@register_config("MODEL.RESNET")
def resnet_config() -> CfgNode:
    node = CfgNode()
    # 18, 34 or 50: block and blocks per stage of torchvision's network.
    node.DEPTH = 50
    # Channels of the first stage; later stages have 2, 4, 8 times as many (and bottlenecks put out 4 times those).
    # 128 with DEPTH 50 is the "ResNet-50 w2x" of MoCo, SimCLR and DiLo: every layer twice as wide, 94 M parameters.
    node.WIDTH = 64
    # Blocks of the four stages instead of DEPTH's, e.g. [2, 2, 1, 1]; [] = by DEPTH.
    node.LAYERS = []
    # "basic" or "bottleneck" instead of DEPTH's block; "" = by DEPTH.
    node.BLOCK = ""
    # "imagenet" (7x7 stride 2 and max pooling: res2..res5 at strides 4, 8, 16, 32) or "small" (3x3 stride 2, no
    # pooling: strides 2, 4, 8, 16; for images under about 128 px).
    node.STEM = "imagenet"
    return node


@BACKBONE_REGISTRY.register()
class ResNet(Backbone):
    """ResNet without classifier; stride in the 3x3 convolution, torchvision's names and initialisation.

    Args:
        norm: channels -> norm layer.
        depth: 18, 34 or 50.
        width: channels of the first stage.
        layers: blocks of the four stages; empty = by depth.
        block: "basic", "bottleneck", or "" = by depth.
        stem: "imagenet" or "small".
    """

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        depth: int = 50,
        width: int = 64,
        layers: Sequence[int] = (),
        block: str = "",
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        block, blocks = _architecture(depth, layers, block, stem, width)
        self._kwargs = {"depth": depth, "width": width, "layers": list(layers), "block": block, "stem": stem}
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        kind, inside = BLOCKS[block], width
        self.channels, self.strides = {}, {}
        for i, count in enumerate(blocks):
            planes = width * 2**i
            setattr(self, f"layer{i + 1}", _stage(kind, inside, planes, count, 1 if i == 0 else 2, norm))
            inside = planes * kind.expansion
            self.channels[f"res{i + 2}"] = inside
            self.strides[f"res{i + 2}"] = (4 if stem == "imagenet" else 2) * 2**i
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # As in torchvision; norm layers start at weight 1, bias 0 by themselves.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @classmethod
    def from_config(cls, cfg: CfgNode, norm: Callable[[int], nn.Module]) -> dict[str, Any]:
        node = cfg.MODEL.RESNET
        return {
            "norm": norm,
            "depth": node.DEPTH,
            "width": node.WIDTH,
            "layers": node.LAYERS,
            "block": node.BLOCK,
            "stem": node.STEM,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, h, w) -> {"res2": (N, C2, h/s2, w/s2), ..., "res5": ...}."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {}
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            maps[f"res{i + 1}"] = x
        return maps

    def stages(self) -> list[list[nn.Module]]:
        stem = [self.conv1, self.get_submodule("bn1"), self.get_submodule("layer1")]
        return [stem, *([self.get_submodule(f"layer{i}")] for i in (2, 3, 4))]

    def describe(self) -> dict[str, Any]:
        return {"name": "ResNet", "kwargs": dict(self._kwargs)}


def _architecture(depth: int, layers: Sequence[int], block: str, stem: str, width: int) -> tuple[str, tuple[int, ...]]:
    """Block name and blocks per stage, after checking every argument."""
    if depth not in DEPTHS:
        raise ConfigError(f"MODEL.RESNET.DEPTH is {depth}; choices: {', '.join(map(str, DEPTHS))}")
    check_choice("MODEL.RESNET.BLOCK", block, ("", *BLOCKS))
    check_choice("MODEL.RESNET.STEM", stem, STEMS)
    if layers and (len(layers) != 4 or any(not isinstance(n, int) or n < 1 for n in layers)):
        raise ConfigError(
            f"MODEL.RESNET.LAYERS is {list(layers)}; expected four numbers >= 1, or [] for those of DEPTH"
        )
    if width < 1:
        raise ConfigError(f"MODEL.RESNET.WIDTH is {width}; expected a number >= 1")
    own_block, own_layers = DEPTHS[depth]
    return block or own_block, tuple(layers) or own_layers


def _stage(
    kind: type[BasicBlock] | type[Bottleneck],
    inside: int,
    planes: int,
    count: int,
    stride: int,
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    """One stage as torchvision builds it: the first block strides, with a 1x1 shortcut where shapes change."""
    outside = planes * kind.expansion
    shortcut = None
    if stride != 1 or inside != outside:
        shortcut = nn.Sequential(conv1x1(inside, outside, stride), norm(outside))
    blocks = [kind(inside, planes, stride, shortcut, norm_layer=norm)]
    blocks += [kind(outside, planes, norm_layer=norm) for _ in range(1, count)]
    return nn.Sequential(*blocks)
