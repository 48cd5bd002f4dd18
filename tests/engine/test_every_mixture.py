"""Every mixture of a method, an augmenter and a loss that the matrix calls possible: trained, stopped, handed over."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import assert_equal_bits, last_state, tiny_cfg
from torch import nn

from ssl_loc.checkpoint import export_backbone, load_backbone
from ssl_loc.compatibility import Cell, Matrix
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters import AUGMENTER_REGISTRY
from ssl_loc.data.build import build_pretrain_loader
from ssl_loc.engine import train
from ssl_loc.engine.run import build_step
from ssl_loc.losses import LOSS_REGISTRY
from ssl_loc.modeling import METHOD_REGISTRY
from ssl_loc.structures import MethodOutput
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.torchvision_engine.model import build_detector
from ssl_loc.transfer.weights import FRESH_TORCHVISION, load_trunk, torchvision_key

Data = tuple[Path, Path]
RECIPE = Path(__file__).parents[2] / "configs" / "detection" / "quick" / "voc_R18_FPN.yaml"
MATRIX = Matrix(get_cfg())
# The package's own parts: a test that imports a project must not add to those of others.
PARTS = {
    name
    for registry in (METHOD_REGISTRY, AUGMENTER_REGISTRY, LOSS_REGISTRY)
    for name, part in registry
    if part.__module__.startswith("ssl_loc.")
}
CELLS = [cell for cell in MATRIX.cells() if cell.possible and {cell.method, cell.augmenter, cell.loss} <= PARTS]
# What no cell has by itself: two losses, two augmenters, one view. (method, views, losses)
PASTE, SWAP, CROP = "CopyPaste", "SaliencySwap", "SaliencyConstrainedCrop"
MIXTURES = {
    "CAST x DiLo": ("MoCo", [[PASTE, CROP]] * 2, ["InfoNCE", "GradCAMAttention"]),
    "CAST on BYOL": ("BYOL", [[CROP]] * 2, ["NegativeCosine", "GradCAMAttention"]),
    "CAST on SimCLR": ("SimCLR", [[CROP]] * 2, ["NTXent", "GradCAMAttention"]),
    "CVSA on MoCo": ("MoCo", [[SWAP]] * 2, ["InfoNCE", "CrossViewAlignment"]),
    "CVSA x DiLo": ("BYOL", [[PASTE, SWAP]] * 2, ["NegativeCosine", "CrossViewAlignment"]),
    "CVSA x CAST": ("BYOL", [[SWAP, CROP]] * 2, ["NegativeCosine", "CrossViewAlignment", "GradCAMAttention"]),
    "everything": ("MoCo", [[PASTE, SWAP, CROP]] * 2, ["InfoNCE", "CrossViewAlignment", "GradCAMAttention"]),
    "a view of each": ("BYOL", [[PASTE, CROP], [SWAP]], ["NegativeCosine", "CrossViewAlignment"]),
    "both bank losses": ("InstDisc", [[PASTE, CROP]] * 2, ["InfoNCE", "NCE", "GradCAMAttention"]),
    "one view": ("InstDisc", [[PASTE, CROP]], ["NCE", "GradCAMAttention"]),
}


def _keys(data: Data, method: str, views: list[list[str]], losses: list[str]) -> list[Any]:
    return [
        *("MODEL.METHOD", method, "AUGMENT.VIEWS", views, "LOSS.NAMES", losses),
        *("DATA.MASKS.SOURCE", "folder", "DATA.MASKS.ROOT", str(data[1])),
        *("MODEL.RESNET.STEM", "imagenet", "AUGMENT.SIZE", 64, "SOLVER.IMS_PER_BATCH", 4),
        *("MODEL.MOCO.K", 8, "MODEL.MOCO.DIM", 8, "MODEL.BYOL.DIM", 8, "MODEL.BYOL.HIDDEN", 16),
        *("MODEL.SIMCLR.DIM", 8, "MODEL.SIMCLR.HIDDEN", 16, "MODEL.INSTDISC.DIM", 8, "MODEL.INSTDISC.K", 6),
        *("LOSS.CROSS_VIEW_ALIGNMENT.DIM", 8, "LOSS.CROSS_VIEW_ALIGNMENT.HIDDEN", 8, "MODEL.NORM", "BN"),
        # Of four maps of four cells all may be negative, and a rectified one then has no gradient.
        *("LOSS.GRAD_CAM_ATTENTION.NORM", "minmax_only"),
        *("SOLVER.MAX_ITER", 2, "ENGINE.CHECKPOINT_PERIOD", 1, "ENGINE.LOG_PERIOD", 1),
    ]


def _check_gradient(cfg: CfgNode) -> None:
    """One forward and backward, as the engine makes them."""
    loader = build_pretrain_loader(cfg)
    model = build_step(cfg, torch.device("cpu"), loader.dataset_size).model.train()
    outputs: list[MethodOutput] = []
    model.method.register_forward_hook(lambda method, given, output: outputs.append(output))
    total = model(next(iter(loader))).total
    total.backward()
    assert bool(torch.isfinite(total))
    first = next(module for module in model.method.trunk().modules() if isinstance(module, nn.Conv2d)).weight
    assert first.grad is not None and bool(torch.isfinite(first.grad).all()) and bool(first.grad.any())
    for pair in outputs[0].pairs:
        fixed = [pair.k, pair.negatives, *pair.target_maps.values()]
        assert not any(value.requires_grad for value in fixed if value is not None)
    target = [p for p in model.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in target)
    if "target_map" in model.method.gives:
        assert len(target) >= len(list(model.method.trunk().parameters()))


def _check_resume(cfg: CfgNode) -> None:
    """One step, a stop and another step leave what two steps leave."""
    assert train(cfg)["iteration"] == 2
    out = Path(cfg.OUTPUT_DIR) / "checkpoints"
    whole = last_state(cfg.OUTPUT_DIR)
    (out / "iter_0000002.pth").unlink()
    (out / "last_checkpoint").write_text("iter_0000001.pth\n")
    assert train(cfg, resume=True)["iteration"] == 2
    assert_equal_bits(whole, last_state(cfg.OUTPUT_DIR))
    assert all(math.isfinite(value.double().abs().sum()) for value in whole["model"].values() if value.numel())


def _check_export(out: Path, detector: nn.Module) -> None:
    """The trunk's tensors arrive in a detector, all of them."""
    export_backbone(out, out / "trunk.pth")
    file = load_backbone(out / "trunk.pth")
    report = load_trunk(detector, file.model, "FPN", torchvision_key, FRESH_TORCHVISION)
    assert report.loaded + len(report.dropped) == len(file.model)
    inside = detector.state_dict()
    used = [name for name in file.model if name not in report.dropped]
    assert all(torch.equal(inside[torchvision_key(name, "FPN")], file.model[name]) for name in used)


@pytest.fixture(scope="module")
def detector(drawn: Data, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A detector on the trunk that all mixtures train."""
    out = tmp_path_factory.mktemp("detector") / "run"
    train(tiny_cfg(drawn, out, *_keys(drawn, "MoCo", [["RandomResizedCrop"]] * 2, ["InfoNCE"])))
    export_backbone(out, out / "trunk.pth")
    recipe = load_recipe(str(RECIPE), ["MODEL.RESNETS.RES2_OUT_CHANNELS", 8])
    return build_detector(recipe, load_backbone(out / "trunk.pth").meta["backbone"])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.method}-{cell.augmenter}-{cell.loss}")
def test_possible_cell(cell: Cell, drawn: Data, detector: nn.Module, tmp_path: Path) -> None:
    keys = _keys(drawn, cell.method, [MATRIX.pipeline(cell.augmenter)] * 2, [cell.loss])
    if not cell.data:
        keys += ["DATA.MASKS.SOURCE", "none"]
    _check_all(tiny_cfg(drawn, tmp_path / "run", *keys), detector)


@pytest.mark.parametrize("name", MIXTURES)
def test_larger_mixture(name: str, drawn: Data, detector: nn.Module, tmp_path: Path) -> None:
    method, views, losses = MIXTURES[name]
    assert not any(MATRIX.problem(method, steps, losses, len(views)) for steps in views)
    _check_all(tiny_cfg(drawn, tmp_path / "run", *_keys(drawn, *MIXTURES[name])), detector)


def _check_all(cfg: CfgNode, detector: nn.Module) -> None:
    _check_gradient(cfg)
    _check_resume(cfg)
    _check_export(Path(cfg.OUTPUT_DIR), detector)
