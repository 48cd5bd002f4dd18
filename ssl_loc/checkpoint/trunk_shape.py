"""Is a set of tensors a whole ResNet, and if not, what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.inferred_backbone import infer_backbone
from ssl_loc.utils.errors import WeightsError

# Names that an error spells out; the rest is counted.
_LISTED = 6
# Blocks per stage of the published ResNets (He et al., table 1) and the kind of their blocks.
_PUBLISHED = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


def check_trunk(tensors: Mapping[str, Tensor], path: str | os.PathLike, what: str, custom: bool = False) -> None:
    """Refuse tensors that are not exactly those of one ResNet.

    Args:
        what: the tensors in words, for messages.
        custom: allow other numbers of blocks than published ones, and a 3x3 first convolution.

    Raises:
        WeightsError: a variant that is not built here, or names and shapes that are missing, left over or wrong.
    """
    if variant := _variant(tensors):
        raise WeightsError(f"{path}: {what} is {variant}")
    try:
        description = infer_backbone(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {what} is not whole: {error}") from None
    stem = description["kwargs"]["stem"]
    if stem != "imagenet" and not custom:
        raise WeightsError(
            f"{path}: {what} has a 3x3 first convolution, as networks for CIFAR have; no tensor says its stride or "
            "whether pooling follows, and those with stride 1 are not built here. If its stride is 2 and no pooling "
            f'follows, say so in {os.path.basename(path)}.json: "backbone": {description}'
        )
    wanted = shapes_of(description)
    problems = shape_problems({key: tuple(value.shape) for key, value in tensors.items()}, wanted)
    if not problems and not custom:
        problems = _unpublished(description)
    if problems:
        raise WeightsError(
            f"{path}: {what} is no whole {spoken(description)}: {'; '.join(problems)}. Nothing was taken; get a whole "
            "file, or say where the trunk is (--prefix of tools/export_backbone.py) if this is not it"
        )


def shapes_of(description: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a described trunk.

    Raises:
        UserError: it describes no trunk.
    """
    import torch

    from ssl_loc.modeling.backbone import build_backbone_from_description

    with torch.device("meta"):
        state = build_backbone_from_description(dict(description)).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def shape_problems(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What differs, in words; empty = nothing."""
    missing = [key for key in wanted if key not in found]
    extra = [key for key in found if key not in wanted]
    wrong = [
        f"{key} {found[key]} instead of {shape}" for key, shape in wanted.items() if found.get(key, shape) != shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({listed(missing)})")
    if extra:
        problems.append(f"{len(extra)} that it does not have ({listed(extra)})")
    if wrong:
        problems.append(f"{len(wrong)} of another shape ({listed(wrong)})")
    return problems


def listed(names: Sequence[str]) -> str:
    """Names for a message: the first few, then how many more."""
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def spoken(description: Mapping[str, Any]) -> str:
    """ "ResNet-50" or, for other numbers of blocks, "ResNet with blocks [1, 2, 1, 1]"."""
    kwargs = description["kwargs"]
    for depth, blocks in _PUBLISHED[kwargs["block"]].items():
        if tuple(kwargs["layers"]) == blocks or (not kwargs["layers"] and kwargs["depth"] == depth):
            return f"ResNet-{depth}" + (f" of width {kwargs['width']}" if kwargs["width"] != 64 else "")
    return f"{kwargs['block']} ResNet with {kwargs['layers']} blocks"


def _unpublished(description: Mapping[str, Any]) -> list[str]:
    kwargs = description["kwargs"]
    if not kwargs["layers"] or tuple(kwargs["layers"]) in _PUBLISHED[kwargs["block"]].values():
        return []
    known = ", ".join(f"{list(blocks)} (ResNet-{depth})" for depth, blocks in _PUBLISHED[kwargs["block"]].items())
    return [
        f"its stages have {kwargs['layers']} blocks, published are {known}, so blocks may be missing; if it was "
        f'trained so, say "backbone": {dict(description)} in a json beside it'
    ]


def _variant(tensors: Mapping[str, Tensor]) -> str:
    """Words for a network that only resembles a ResNet, "" for none."""
    if any(key.startswith(("conv1.0.", "stem.0.")) for key in tensors):
        return "a ResNet with a deep stem (three 3x3 convolutions, as ResNet-C/D, timm's resnet50d), not built here"
    if any(".se." in key or ".se_module." in key or ".attn." in key for key in tensors):
        return "a ResNet with squeeze-and-excitation or other attention in its blocks, which is not built here"
    if any(key.endswith(("downsample.1.weight", "downsample.2.weight")) and v.dim() > 1 for key, v in tensors.items()):
        return "a ResNet with average pooling in its shortcuts (ResNet-D), which is not built here"
    stem, first = tensors.get("conv1.weight"), tensors.get("layer1.0.conv1.weight")
    second = tensors.get("layer1.0.conv2.weight")
    if second is not None and first is not None and second.dim() == first.dim() == 4:
        if second.shape[1] < first.shape[0]:
            return "a ResNeXt (grouped convolutions), which is not built here"
        if stem is not None and first.shape[0] != stem.shape[0] and "layer1.0.conv3.weight" in tensors:
            return (
                f"a ResNet whose blocks are {first.shape[0] / stem.shape[0]:g} times as wide inside (torchvision's "
                "wide_resnet), which is not built here"
            )
    if tensors and not any(key.endswith(".running_mean") for key in tensors):
        return "a ResNet without batch statistics (group norm, or frozen and folded ones), which is not built here"
    return ""
