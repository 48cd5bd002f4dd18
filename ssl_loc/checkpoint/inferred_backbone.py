"""What kind of ResNet a set of tensors is, for files that do not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ssl_loc.utils.errors import WeightsError

# Kernel side of the first convolution -> stem: 7x7 with max pooling, or 3x3 without.
_STEMS = {7: "imagenet", 3: "small"}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.conv1\.weight")


def infer_backbone(trunk: Mapping[str, Tensor]) -> dict[str, Any]:
    """Description ``{"name", "kwargs"}`` of the trunk with these tensors (torchvision's names).

    Shapes tell everything but where the stride is and how pixels were prepared.

    Raises:
        WeightsError: the tensors are no ResNet's.
    """
    from ssl_loc.modeling.backbone.resnet import DEPTHS  # imports torchvision

    layers = [0, 0, 0, 0]
    for match in filter(None, map(_BLOCK.fullmatch, trunk)):
        layers[int(match[1]) - 1] = max(layers[int(match[1]) - 1], int(match[2]) + 1)
    stem = trunk.get("conv1.weight")
    if stem is None or stem.dim() != 4 or stem.shape[-1] not in _STEMS or not all(layers):
        found = "nothing" if stem is None else tuple(stem.shape)
        raise WeightsError(
            f"the trunk is no ResNet that this project builds: its conv1.weight is {found} and its stages have "
            f"{layers} blocks; expected a 7x7 or 3x3 first convolution and four stages"
        )
    block = "bottleneck" if "layer1.0.conv3.weight" in trunk else "basic"
    depths = [depth for depth, shape in DEPTHS.items() if shape == (block, tuple(layers))]
    # Without a standard depth, the blocks are counted out; the depth then only names the kind of block.
    depth = depths[0] if depths else 50 if block == "bottleneck" else 18
    kwargs = {"depth": depth, "width": int(stem.shape[0]), "layers": [] if depths else layers}
    return {"name": "ResNet", "kwargs": {**kwargs, "block": block, "stem": _STEMS[int(stem.shape[-1])]}}
