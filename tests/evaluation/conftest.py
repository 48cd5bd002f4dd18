"""A drawn data set, a tiny run on disk, and a method whose Grad-CAM is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.nn.functional as F
from helpers.evaluation import draw_photos, save_run, tiny_config
from torch import Tensor, nn

from ssl_loc.config import CfgNode


class ColorTrunk(nn.Module):
    """A = mean colour per 32 x 32 cell, so channels are red, green, blue; z = GAP(A)."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"res5": F.avg_pool2d(x, 32)}

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        return maps["res5"].mean((2, 3))


class ColorMethod(nn.Module):
    """q = z and s = q . k without normalisation, so alpha = k and G = ReLU(sum_c k_c A_c) in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self._trunk = ColorTrunk()

    def trunk(self) -> ColorTrunk:
        return self._trunk

    def normalize(self, images: Tensor) -> Tensor:
        return images.float() / 255

    def embed(self, pooled: Tensor) -> Tensor:
        return pooled

    def similarity(self, q: Tensor, k: Tensor) -> Tensor:
        return (q * k).sum(1)

    def encode_target(self, images: Tensor, normalized: bool = False) -> Tensor:
        return (images if normalized else self.normalize(images)).mean((2, 3))


@pytest.fixture
def color_method() -> ColorMethod:
    return ColorMethod()


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    return draw_photos(tmp_path)


@pytest.fixture
def tiny_cfg() -> CfgNode:
    return tiny_config()


@pytest.fixture
def run_folder(tmp_path: Path, tiny_cfg: CfgNode) -> Path:
    return save_run(tmp_path / "runs" / "tiny", tiny_cfg)
