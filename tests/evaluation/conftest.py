"""A drawn data set, a tiny run on disk, and a method whose Grad-CAM is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ssl_loc.checkpoint import Checkpointer
from ssl_loc.checkpoint.metadata import run_metadata
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.modeling import build_method

TINY = {
    "MODEL": {
        "RESNET": {"DEPTH": 18, "WIDTH": 4, "STEM": "small"},
        "MOCO": {"K": 16, "DIM": 8},
        "NORM": "BN",
    },
    "AUGMENT": {"SIZE": 48},
}


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
    """Five pictures with a red object (its mask beside) on blue, and one whose mask is empty -> (images, masks)."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        h, w = int(rng.integers(90, 140)), int(rng.integers(90, 140))
        mask = np.zeros((h, w), np.uint8)
        if i < 5:
            mask[:, : int(w * rng.uniform(0.3, 0.6))] = 255
        image = np.zeros((h, w, 3), np.uint8)
        image[..., 0], image[..., 2] = mask, 255 - mask
        Image.fromarray(image).save(images / f"{i}.png")
        Image.fromarray(mask).save(masks / f"{i}.png")
    return images, masks


@pytest.fixture
def tiny_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_dict(TINY)
    return cfg


def save_run(folder: Path, cfg: CfgNode, seed: int = 0) -> Path:
    """A run folder with one checkpoint of a randomly initialised method, in the project's own format."""
    torch.manual_seed(seed)
    method = build_method(cfg)
    whole = nn.ModuleDict({"method": method})
    meta = run_metadata(cfg, whole, method, 5, {"source": "none", "estimator": "", "uses_labels": False})
    state = {"model": whole.state_dict(), "config": cfg.to_dict(), "meta": meta}
    Checkpointer(folder).save(3, state)
    (folder / "config.yaml").write_text(cfg.dump_yaml())
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, tiny_cfg: CfgNode) -> Path:
    return save_run(tmp_path / "runs" / "tiny", tiny_cfg)
