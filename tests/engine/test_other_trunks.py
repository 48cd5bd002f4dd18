"""Trunks that are no ResNets: trained with both localization losses, exported, rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import cast_keys, tiny_cfg

from ssl_loc.checkpoint import export_backbone, load_backbone
from ssl_loc.engine import train
from ssl_loc.modeling import build_backbone_from_description
from ssl_loc.utils.errors import WeightsError

LOSSES = ["InfoNCE", "GradCAMAttention", "CrossViewAlignment"]


@pytest.mark.parametrize(
    ("name", "more"),
    [("AlexNetBN", ["MODEL.ALEXNET_BN.WIDTH", 4]), ("VGG16BN", ["MODEL.VGG16_BN.WIDTH", 2])],
)
def test_train_export_rebuild(drawn: tuple[Path, Path], tmp_path: Path, name: str, more: list[Any]) -> None:
    keys = [*cast_keys(drawn), "LOSS.NAMES", LOSSES, "LOSS.CROSS_VIEW_ALIGNMENT.STAGES", [3, 4]]
    # The last map of 96 px has 2 x 2 cells, enough for batch statistics.
    keys += ["MODEL.BACKBONE.NAME", name, "AUGMENT.SIZE", 96, "SOLVER.MAX_ITER", 2, *more]
    result = train(tiny_cfg(drawn, tmp_path / "run", *keys))
    assert result["iteration"] == 2
    export_backbone(tmp_path / "run", tmp_path / "trunk.pth")
    file = load_backbone(tmp_path / "trunk.pth")
    assert file.meta["backbone"]["name"] == name
    trunk = build_backbone_from_description(file.meta["backbone"]).eval()
    trunk.load_state_dict(file.model)
    assert bool(torch.isfinite(trunk(torch.zeros(1, 3, 96, 96))["res5"]).all())
    with pytest.raises(WeightsError, match="is not a tensor of a ResNet trunk"):
        export_backbone(tmp_path / "run", tmp_path / "d2.pth", "detectron2")
