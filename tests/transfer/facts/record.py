#!/usr/bin/env python
"""Write down the names and shapes of detectron2's parameters for the detectors of our recipes.

The tests compare with these facts where detectron2 is not installed. Run again when it or a base recipe changes:

  python tests/transfer/facts/record.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CONFIGS = FOLDER.parents[2] / "configs" / "detection"
MASKS = ("MODEL.MASK_ON", "True", "MODEL.ROI_HEADS.NUM_CLASSES", "80")
# Fact -> recipe, overrides, depth of the trunk.
CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "C4_R18": ("Base-RCNN-C4.yaml", ("MODEL.RESNETS.DEPTH", "18"), 18),
    "C4_R50": ("Base-RCNN-C4.yaml", (), 50),
    "FPN_R18": ("Base-RCNN-FPN.yaml", ("MODEL.RESNETS.DEPTH", "18"), 18),
    "FPN_R50_mask": ("Base-RCNN-FPN.yaml", MASKS, 50),
    "C4_R50_mask": ("Base-RCNN-C4.yaml", (*MASKS, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "14"), 50),
}


def live_tensors(case: str) -> dict[str, list[int]]:
    """{name: shape} of the detector that detectron2 builds."""
    import torch
    from detectron2.modeling import build_model

    from ssl_loc.transfer.build import TransferJob, Trunk
    from ssl_loc.transfer.detectron2_engine.engine import make_config

    recipe, description = recipe_of(case)
    with tempfile.TemporaryDirectory() as folder:
        job = TransferJob(recipe, Path(folder), trunk=Trunk({}, {"backbone": description}))
        cfg = make_config(job, recipe, description)
    with torch.random.fork_rng(devices=[]):
        state = build_model(cfg).state_dict()
    return {name: list(value.shape) for name, value in state.items()}


def recipe_of(case: str) -> tuple[Any, dict[str, Any]]:
    """(recipe, description of the trunk) of a fact."""
    from ssl_loc.transfer.recipe import load_recipe

    name, overrides, depth = CASES[case]
    # Plain BN has the tensors of every synchronised kind, and builds everywhere.
    norms = [word for part in ("RESNETS", "FPN") for word in (f"MODEL.{part}.NORM", "BN")]
    words = [*(norms if "FPN" in name else norms[:2]), "MODEL.DEVICE", "cpu", *overrides]
    return load_recipe(CONFIGS / name, words), {"name": "ResNet", "kwargs": {"depth": depth}}


def stored_tensors(case: str) -> dict[str, list[int]]:
    """{name: shape} as written down."""
    return json.loads((FOLDER / f"detectron2_{case}.json").read_text(encoding="utf-8"))


def main() -> None:
    for case in CASES:
        rows = [f"{json.dumps(name)}: {json.dumps(shape)}" for name, shape in live_tensors(case).items()]
        path = FOLDER / f"detectron2_{case}.json"
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
        print(f"{path.name}: {len(rows)} tensors, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
