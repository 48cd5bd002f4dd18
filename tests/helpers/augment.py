"""Small inputs for the augmenter tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.structures import Sample
from ssl_loc.utils.errors import DataError


def make_cfg(views: list[list[Any]], size: int = 32, **augment: Any) -> CfgNode:
    """A config with ``views`` and keys of AUGMENT given as NODE={KEY: value} or KEY=value."""
    cfg = get_cfg()
    cfg.merge_from_dict({"AUGMENT": {"VIEWS": views, "SIZE": size, **augment}})
    return cfg


def smooth_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A muted, smooth colour image (3, H, W), uint8, in channels-last memory."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    phase = rng.uniform(0, 6, (3, 2))
    planes = [np.sin(x / 37 + a) * 12 + np.cos(y / 29 + b) * 12 + 120 for a, b in phase]
    # Like photos: the channels share most of the contrast.
    light = np.sin(x / 19 + y / 31)[:, :, None] * 50
    image = np.stack(planes, 2) + light + rng.normal(0, 4, (height, width, 3))
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    """A map that is 255 inside ``box`` (XYXY) and 0 outside."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def make_sample(height: int = 96, width: int = 128, mask: torch.Tensor | None = None, seed: int = 0) -> Sample:
    return Sample(smooth_image(height, width, seed), mask, path="a.jpg")


class SampleList:
    """A set of donors that is already in memory; "unreadable" ones are None."""

    def __init__(self, samples: Sequence[Sample | None]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, index: int) -> Sample:
        sample = self.samples[index]
        if sample is None:
            raise DataError(f"cannot read image {index}.jpg")
        return sample
