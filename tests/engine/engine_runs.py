"""Tiny runs for the engine tests: drawn photos with one object each, their masks, a narrow network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ssl_loc.checkpoint import Checkpointer, load_checkpoint
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.saliency.manifest import write_manifest

IMAGES = 16
CAST = ("LOSS.NAMES", ["InfoNCE", "GradCAMAttention"])


def draw_images(root: Path, count: int = IMAGES) -> tuple[Path, Path]:
    """Write ``count`` JPEGs (48 x 56 px, a bright rectangle on noise) and their masks; return both folders."""
    images, masks = root / "images", root / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = cv2.GaussianBlur(rng.integers(0, 160, (48, 56, 3), dtype=np.uint8), (0, 0), 2)
        mask = np.zeros((48, 56), np.uint8)
        top, left = int(rng.integers(2, 20)), int(rng.integers(2, 24))
        mask[top : top + 22, left : left + 26] = 255
        picture[mask > 0] = rng.integers(120, 255, 3)
        cv2.imwrite(str(images / f"im{i:02d}.jpg"), picture)
        cv2.imwrite(str(masks / f"im{i:02d}.png"), mask)
    write_manifest(masks, estimator="drawn", preset="test", uses_labels=False, version="1")
    return images, masks


def tiny_cfg(data: tuple[Path, Path], out: Path | str, *overrides: Any) -> CfgNode:
    """A frozen config: MoCo, ResNet of width 8 on 32 px views, batches of 8, 6 steps, then ``overrides``."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("OUTPUT_DIR", str(out), "DEVICE", "cpu"),
            *("DATA.TRAIN", f"folder:{data[0]}", "DATA.NUM_WORKERS", 0),
            *("AUGMENT.SIZE", 32, "MODEL.RESNET.DEPTH", 18, "MODEL.RESNET.WIDTH", 8),
            *("MODEL.RESNET.LAYERS", [1, 1, 1, 1], "MODEL.RESNET.STEM", "small"),
            *("MODEL.MOCO.K", 24, "MODEL.MOCO.DIM", 16, "MODEL.MOCO.M", 0.9, "MODEL.NORM_GROUPS", 2),
            *("SOLVER.IMS_PER_BATCH", 8, "SOLVER.MAX_ITER", 6, "SOLVER.LR_SCALING", "none"),
            *("ENGINE.LOG_PERIOD", 2, "ENGINE.CHECKPOINT_PERIOD", 0),
            *overrides,
        ]
    )
    cfg.freeze()
    return cfg


def cast_keys(data: tuple[Path, Path], phi: float = 0.2, weight: float = 3.0) -> list[Any]:
    """Overrides that make MoCo to CAST: masks, constrained crop, attention loss."""
    return [
        *("DATA.MASKS.SOURCE", "folder", "DATA.MASKS.ROOT", str(data[1])),
        *("AUGMENT.VIEWS", [["SaliencyConstrainedCrop", "RandomFlip"]] * 2),
        *("AUGMENT.CONSTRAINED_CROP.PHI", phi, "LOSS.GRAD_CAM_ATTENTION.WEIGHT", weight),
        *CAST,
    ]


def last_state(out: Path | str) -> dict[str, Any]:
    """The last checkpoint of a run folder, loaded."""
    last = Checkpointer(out).last()
    assert last is not None, f"no checkpoint in {out}"
    return load_checkpoint(last)


def tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor of model, optimiser and random state, by name."""
    flat: dict[str, torch.Tensor] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            flat[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(f"{name}.{i}", item)

    for part in ("model", "optimizer", "rng"):
        walk(part, state[part])
    return flat


def assert_equal_bits(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Two loaded checkpoints hold the same iteration and the same bits."""
    first, second = tensors(a), tensors(b)
    assert a["iteration"] == b["iteration"]
    assert first.keys() == second.keys() and len(first) > 50
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, e.g. {different[:5]}"
