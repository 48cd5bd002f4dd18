"""Names of a ResNet trunk's tensors: torchvision's (ours, and timm's) and detectron2's."""

from __future__ import annotations

import re

from ssl_loc.utils.errors import WeightsError

# The classifier of a torchvision ResNet. A projection head may be called fc too (fc.0.weight): that is another thing.
CLASSIFIER = ("fc.weight", "fc.bias")

_STEM = re.compile(r"(conv1|bn1)\.(\w+)")
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn)([1-3])\.(\w+)")
_SHORTCUT = re.compile(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)")
_D2_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
_D2_BLOCK = re.compile(r"res([2-5])\.(\d+)\.conv([1-3])\.(norm\.)?(\w+)")
_D2_SHORTCUT = re.compile(r"res([2-5])\.(\d+)\.shortcut\.(norm\.)?(\w+)")


def trunk_to_detectron2(key: str) -> str:
    """Trunk name in torchvision's form ("layer1.0.bn1.weight") -> detectron2's ("res2.0.conv1.norm.weight").

    Raises:
        WeightsError: the name is not a ResNet trunk tensor.
    """
    if m := _STEM.fullmatch(key):
        return f"stem.conv1.{'norm.' if m[1] == 'bn1' else ''}{m[2]}"
    if m := _BLOCK.fullmatch(key):
        return f"res{int(m[1]) + 1}.{m[2]}.conv{m[4]}.{'norm.' if m[3] == 'bn' else ''}{m[5]}"
    if m := _SHORTCUT.fullmatch(key):
        return f"res{int(m[1]) + 1}.{m[2]}.shortcut.{'norm.' if m[3] == '1' else ''}{m[4]}"
    raise WeightsError(
        f"'{key}' is not a tensor of a ResNet trunk; expected conv1, bn1 and layer1..layer4 in torchvision's names "
        "(export the trunk with tools/export_backbone.py)"
    )


def trunk_from_detectron2(key: str) -> str:
    """Inverse of :func:`trunk_to_detectron2`."""
    if m := _D2_STEM.fullmatch(key):
        return f"{'bn1' if m[1] else 'conv1'}.{m[2]}"
    if m := _D2_BLOCK.fullmatch(key):
        return f"layer{int(m[1]) - 1}.{m[2]}.{'bn' if m[4] else 'conv'}{m[3]}.{m[5]}"
    if m := _D2_SHORTCUT.fullmatch(key):
        return f"layer{int(m[1]) - 1}.{m[2]}.downsample.{'1' if m[3] else '0'}.{m[4]}"
    raise WeightsError(f"'{key}' is not a trunk tensor in detectron2's names; expected stem.conv1 and res2..res5")
