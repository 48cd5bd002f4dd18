"""A classifier checkpoint as a fully convolutional network: feature maps, and logits of one class."""

from __future__ import annotations

import os
import pickle
import struct
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ssl_loc.utils.errors import DataError, WeightsError

# ImageNet statistics, RGB in 0..1: what torchvision's and most other classifiers were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Longer pictures are squeezed to this aspect: at the same short side a strip of 1 x 3000 px would fill the memory.
MAX_ASPECT = 8
# Words that wrappers put in front of names, and keys that training scripts put around the weights.
_PREFIXES = ("module.", "model.", "backbone.", "encoder.")
# What torch.load raises for files that are no checkpoints, or damaged ones.
_DAMAGE = (RuntimeError, EOFError, pickle.UnpicklingError, struct.error, LookupError, ValueError, TypeError)
_CONTAINERS = ("state_dict", "model", "model_state", "net")


class Classifier(nn.Module):
    """Maps of the last trunk level, and a linear layer on their average.

    Args:
        maps: (N, 3, h, w) normalised -> (N, C, h', w').
        fc: C -> classes.
    """

    def __init__(self, maps: nn.Module, fc: nn.Linear) -> None:
        super().__init__()
        self.maps, self.fc = maps, fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x).mean((2, 3)))


def load_classifier(path: str | os.PathLike) -> Classifier:
    """Any ResNet in torchvision's names with its ``fc`` layer (ResNet, ResNeXt and Wide ResNet of any depth).

    Raises:
        WeightsError: the file is missing, is no such checkpoint, or holds a trunk without its classifier.
    """
    state = _read(path)
    for name in ("conv1.weight", "layer4.0.conv1.weight"):
        if name not in state:
            raise WeightsError(
                f"{path} has no tensor {name}; expected a ResNet classifier in torchvision's names (conv1, bn1, "
                "layer1.0.conv1, ..., fc)"
            )
    if "fc.weight" not in state:
        raise WeightsError(
            f"{path} is a trunk without a classifier (no fc.weight); class-specific maps need the linear layer too"
        )
    net = _resnet(state)
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit a torchvision ResNet: {error}") from None
    stem = [net.conv1, net.bn1, net.relu, net.maxpool]
    maps = nn.Sequential(*stem, net.layer1, net.layer2, net.layer3, net.layer4)
    return Classifier(maps, net.fc).eval().requires_grad_(False)


def _read(path: str | os.PathLike) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read classifier {path}: {error.strerror or error}") from None
    except _DAMAGE:
        # PyTorch's own text advises to load the file unsafely.
        raise WeightsError(
            f"{path} is no checkpoint of tensors and plain values; expected the state dict of a torchvision ResNet, or "
            "a container of one, e.g. written by torch.save(model.state_dict(), FILE)"
        ) from None
    for key in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    for prefix in _PREFIXES:
        if f"{prefix}conv1.weight" in tensors:
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors


def _resnet(state: dict[str, Tensor]) -> ResNet:
    """An empty network of the shape that the weights have."""
    blocks = [len({k.split(".")[1] for k in state if k.startswith(f"layer{i}.")}) for i in range(1, 5)]
    classes = int(state["fc.weight"].shape[0])
    if "layer1.0.conv3.weight" not in state:
        return ResNet(BasicBlock, blocks, num_classes=classes)
    width, inside = (int(n) for n in state["layer1.0.conv2.weight"].shape[:2])
    groups = width // inside
    return ResNet(Bottleneck, blocks, num_classes=classes, groups=groups, width_per_group=width // groups)


def prepare_image(image: np.ndarray, side: int) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, h, w), normalised; the shorter side becomes ``side`` px, nothing is cropped.

    The longer side becomes at most MAX_ASPECT x ``side``, out of proportion where the picture is thinner than that.
    """
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    scale = side / min(image.shape[:2])
    size = [min(MAX_ASPECT * side, max(side, round(length * scale))) for length in image.shape[:2]]
    x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False) / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def choose_class(logits: Tensor, target: int | None) -> int:
    """The class asked for, or that of the largest logit.

    Raises:
        DataError: the classifier has no such class.
    """
    if target is None:
        return int(logits.argmax())
    if not 0 <= target < logits.numel():
        raise DataError(f"class {target} was asked for; the classifier has classes 0 to {logits.numel() - 1}")
    return target


def resize_map(values: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> float32 (H, W), bilinear."""
    return F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
