"""A drawn data set and a tiny run on disk, for the evaluation and visualisation rooms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

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
    "DEVICE": "cpu",
}


def tiny_config() -> CfgNode:
    """A MoCo that runs in milliseconds."""
    cfg = get_cfg()
    cfg.merge_from_dict(TINY)
    return cfg


def draw_photos(folder: Path) -> tuple[Path, Path]:
    """Five pictures with a red object (its mask beside) on blue, and one whose mask is empty -> (images, masks)."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
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
