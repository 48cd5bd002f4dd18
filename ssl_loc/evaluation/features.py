"""Pooled trunk features of a labelled dataset, computed once per weights and kept for the next protocol."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.data import LabelledSplit
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.progress import progress_bar

# Test transform of the ImageNet protocols: shorter side 256, centre crop 224; other sizes keep the proportion.
RESIZE_RATIO = 256 / 224


@dataclass(frozen=True)
class FeatureOptions:
    """How features are taken: input side in px (0 = the size the weights were trained on), images per forward."""

    size: int = 0
    batch_size: int = 64

    @classmethod
    def from_options(cls, options: CfgNode) -> FeatureOptions:
        return cls(size=options.SIZE, batch_size=options.BATCH_SIZE)

    def input_size(self, weights: Weights) -> int:
        return self.size or weights.input_size()


def eval_transform(image: Tensor, size: int) -> Tensor:
    """Shorter side to ``size * 256 / 224`` (bilinear, antialiased), then the central square.

    uint8 (3, H, W) -> uint8 (3, size, size).
    """
    h, w = image.shape[1:]
    short = round(size * RESIZE_RATIO)
    scale = short / min(h, w)
    new = (max(short, round(h * scale)), max(short, round(w * scale)))
    x = F.interpolate(image[None].float(), new, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    return x[:, top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)


def extract_split(weights: Weights, split: LabelledSplit, options: FeatureOptions) -> tuple[Tensor, Tensor]:
    """Features float32 (N, D) and labels int64 (N,) of a split; the trunk is checked not to have changed."""
    size = options.input_size(weights)
    key = ("features", split.name, len(split), size)
    if key not in weights.cache:
        trunk = weights.trunk()
        before = state_digest(trunk.backbone)
        parts = []
        images: list[Tensor] = []
        for image in progress_bar(split.images(), total=len(split), desc=f"features of {split.name}", unit="image"):
            images.append(eval_transform(image, size))
            if len(images) == options.batch_size:
                parts.append(trunk.features(torch.stack(images)))
                images = []
        if images:
            parts.append(trunk.features(torch.stack(images)))
        assert state_digest(trunk.backbone) == before, "the frozen trunk changed while its features were taken"
        weights.cache[key] = torch.cat(parts)
    return weights.cache[key], split.labels()


def state_digest(module: nn.Module) -> str:
    """Digest of every parameter and buffer, byte for byte."""
    digest = hashlib.sha256()
    for name, value in _sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sorted(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(items, key=lambda item: item[0])
