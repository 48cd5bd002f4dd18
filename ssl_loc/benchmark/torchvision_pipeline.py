"""The data pipeline of MoCo-style code bases, torchvision on PIL pictures: the baseline of the data benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms


class PilBlur:
    """Gaussian blur of MoCo v2: PIL's, radius U(.1, 2)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=self.rng.uniform(0.1, 2.0)))


class TorchvisionMoCoV2:
    """Paths -> two normalised batches by torchvision v1 transforms on PIL pictures, as in MoCo v2, without masks."""

    def __init__(self, size: int = 224, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([PilBlur(np.random.default_rng(seed))], p=0.5),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )

    def __call__(self, paths: Sequence[str]) -> list[Tensor]:
        rows = []
        for path in paths:
            with open(path, "rb") as stream:
                image = Image.open(stream).convert("RGB")
            rows.append([self.transform(image), self.transform(image)])
        return default_collate(rows)
