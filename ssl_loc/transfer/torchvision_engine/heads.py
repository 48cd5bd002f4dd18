"""Heads of the detector with detectron2's initialisation, and norm layers by detectron2's names."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import Conv2dNormActivation

from ssl_loc.layers import make_norm

# detectron2's name -> ours. naiveSyncBN weighs processes equally; with equal batches per process that is SyncBN.
NORM_NAMES = {"BN": "BN", "SyncBN": "SyncBN", "naiveSyncBN": "SyncBN", "nnSyncBN": "SyncBN", "FrozenBN": "FrozenBN"}
# detectron2's "GN" has this many groups, whatever the width.
_GN_GROUPS = 32


def norm_layer(name: str) -> Callable[[int], nn.Module] | None:
    """``channels -> layer`` for a detectron2 norm name; None for ""."""
    if not name:
        return None
    if name == "GN":
        return lambda channels: nn.GroupNorm(_GN_GROUPS, channels)
    return make_norm(NORM_NAMES[name])


class Res5Head(nn.Module):
    """C4 head: the trunk's last stage on each RoI and one extra norm layer: (R, C, m, m) -> (R, D, m/2, m/2)."""

    def __init__(self, layer4: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.layer4 = layer4
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(x)
        return x if self.norm is None else self.norm(x)


class ConvFCHead(nn.Module):
    """FPN box head: 3x3 convolutions, then fully connected layers, each with ReLU: (R, C, m, m) -> (R, D)."""

    def __init__(
        self,
        channels: int,
        resolution: int,
        convs: list[int],
        fcs: list[int],
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        layers = []
        for width in convs:
            layers.append(Conv2dNormActivation(channels, width, norm_layer=norm))
            nn.init.kaiming_normal_(layers[-1][0].weight, mode="fan_out", nonlinearity="relu")
            if layers[-1][0].bias is not None:
                nn.init.zeros_(layers[-1][0].bias)
            channels = width
        self.convs = nn.Sequential(*layers)
        size = channels * (resolution**2 if fcs else 1)
        self.fcs = nn.ModuleList()
        for width in fcs:
            layer = nn.Linear(size, width)
            # "Xavier" of Caffe2: uniform with variance 1 / fan_in.
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.fcs.append(layer)
            size = width
        self.out_features = size

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x))
        return x


def box_predictor(features: int, classes: int) -> FastRCNNPredictor:
    """Class scores and box deltas for ``classes`` + background."""
    predictor = FastRCNNPredictor(features, classes + 1)
    # Small weights: the first predictions are near uniform and near the proposal (Fast R-CNN paper, section 3.3).
    nn.init.normal_(predictor.cls_score.weight, std=0.01)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
    nn.init.zeros_(predictor.cls_score.bias)
    nn.init.zeros_(predictor.bbox_pred.bias)
    return predictor


def mask_branch(
    channels: int, width: int, depth: int, classes: int, norm: Callable[[int], nn.Module] | None
) -> tuple[nn.Module, nn.Module]:
    """(convolutions, upsampling and predictor) for ``classes``; torchvision keeps an unused background channel."""
    head = MaskRCNNHeads(channels, [width] * depth, 1, norm)
    predictor = MaskRCNNPredictor(width if depth else channels, width, classes + 1)
    nn.init.zeros_(predictor.conv5_mask.bias)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(predictor.mask_fcn_logits.bias)
    return head, predictor
