"""Recipes for detectors that train in a second on drawn data; both engines take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_loc.transfer.recipe import Recipe, load_recipe

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
QUICK = {
    "C4": "quick/voc_R18_C4.yaml",
    "FPN": "quick/voc_R18_FPN.yaml",
    "mask": "quick/coco_R18_FPN_mask.yaml",
    "C4 mask": "quick/coco_R18_C4_mask.yaml",
}
NARROW = {"depth": 18, "width": 8, "layers": [1, 1, 1, 1]}


def tiny_recipe(kind: str, names: dict[str, str], out: Path | str, *overrides: Any) -> Recipe:
    """A quick recipe ("C4", "FPN", "mask" or "C4 mask"), smaller still, on the data of ``draw_detection_data``."""
    style = "coco" if "mask" in kind else "voc"
    keys = {
        "TRANSFER.BACKBONE.KWARGS": NARROW,
        "TRANSFER.LOG_PERIOD": 1,
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
        "INPUT.MIN_SIZE_TRAIN": (64, 80),
        "INPUT.MIN_SIZE_TEST": 64,
        "DATASETS.TRAIN": (names[f"{style}_train"],),
        "DATASETS.TEST": (names[f"{style}_test"],),
        "SOLVER.MAX_ITER": 3,
        "SOLVER.STEPS": (2,),
        "SOLVER.WARMUP_ITERS": 1,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "TEST.PRECISE_BN.NUM_ITER": 2,
        "OUTPUT_DIR": str(out),
    }
    if kind == "C4 mask":
        keys |= {"MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
    elif kind != "C4":
        keys |= {"MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
    words = [str(word) for pair in keys.items() for word in pair]
    return load_recipe(CONFIGS / QUICK[kind], [*words, *map(str, overrides)])
