"""Every registered method with every loss that it can feed, through the whole engine and into a detector."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import assert_equal_bits, cast_keys, last_state, tiny_cfg

from ssl_loc.checkpoint import export_backbone, load_backbone
from ssl_loc.config import CfgNode
from ssl_loc.engine import launch, train
from ssl_loc.evaluation.weights import open_weights
from ssl_loc.losses import LOSS_REGISTRY
from ssl_loc.losses.build import METHOD_NEEDS
from ssl_loc.modeling import METHOD_REGISTRY
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.torchvision_engine.model import build_detector
from ssl_loc.transfer.weights import FRESH_TORCHVISION, load_trunk, torchvision_key

Data = tuple[Path, Path]
RECIPE = Path(__file__).parents[2] / "configs" / "detection" / "quick" / "voc_R18_FPN.yaml"


def _keys(name: str, data: Data) -> list[Any]:
    """``name`` with all losses that fit it, narrow, in batches of 8."""
    gives = METHOD_REGISTRY.get(name).gives
    losses = [loss for loss, cls in LOSS_REGISTRY if cls.needs & set(METHOD_NEEDS) <= gives]
    return [
        *cast_keys(data, weight=0.5),
        *("MODEL.METHOD", name, "LOSS.NAMES", losses, "MODEL.NORM", "SyncBN"),
        *("MODEL.BYOL.DIM", 8, "MODEL.BYOL.HIDDEN", 16, "MODEL.SIMCLR.DIM", 8, "MODEL.SIMCLR.HIDDEN", 16),
        *("MODEL.INSTDISC.DIM", 8, "MODEL.INSTDISC.K", 6, "LOSS.CROSS_VIEW_ALIGNMENT.HIDDEN", 16),
        *("MODEL.RESNET.STEM", "imagenet", "AUGMENT.SIZE", 64, "SOLVER.OPTIMIZER", "LARS", "SOLVER.MAX_ITER", 4),
    ]


@pytest.fixture(scope="module", params=METHOD_REGISTRY.names())
def run(request: pytest.FixtureRequest, drawn: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Four steps with LARS, with a checkpoint after two."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    train(tiny_cfg(drawn, out, *_keys(request.param, drawn), "ENGINE.CHECKPOINT_PERIOD", 2))
    return request.param, out


def test_resumed_is_not_stopped(run: tuple[str, Path], drawn: Data, tmp_path: Path) -> None:
    name, whole = run
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    (half / "checkpoints" / "iter_0000004.pth").unlink()
    (half / "checkpoints" / "last_checkpoint").write_text("iter_0000002.pth\n")
    train(tiny_cfg(drawn, half, *_keys(name, drawn), "ENGINE.CHECKPOINT_PERIOD", 2), resume=True)
    assert_equal_bits(last_state(whole), last_state(half))


def test_export_loads_in_the_detector(run: tuple[str, Path], tmp_path: Path) -> None:
    name, out = run
    export_backbone(out, tmp_path / "b.pth")
    file = load_backbone(tmp_path / "b.pth")
    assert file.meta["method"] == name
    recipe = load_recipe(str(RECIPE), ["MODEL.RESNETS.RES2_OUT_CHANNELS", 8])
    model = build_detector(recipe, file.meta["backbone"])
    report = load_trunk(model, file.model, "FPN", torchvision_key, FRESH_TORCHVISION)
    assert report.loaded + len(report.dropped) == len(file.model)


def test_checkpoint_opens_for_evaluation(run: tuple[str, Path]) -> None:
    """Without knowing the data set (InstDisc's bank has a row for each of its images)."""
    method = open_weights(str(run[1]), device="cpu").method()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(method.encode(images).norm(dim=1), torch.ones(2))


def test_losses_are_finite_and_weights_move(run: tuple[str, Path]) -> None:
    first, last = (torch.load(run[1] / "checkpoints" / f"iter_000000{i}.pth", weights_only=True) for i in (2, 4))
    moved = [k for k, v in last["model"].items() if v.is_floating_point() and not torch.equal(v, first["model"][k])]
    assert any(key.endswith("layer4.0.conv1.weight") for key in moved)
    assert all(bool(torch.isfinite(v).all()) for v in last["model"].values())


def _train_each(cfgs: list[CfgNode]) -> list[int]:
    return [train(cfg)["iteration"] for cfg in cfgs]


def test_two_processes_train_what_one_does(drawn: Data, tmp_path: Path) -> None:
    """Through DistributedDataParallel: all that one small step leaves, to float32's digits. (MoCo has its own.)"""
    names = [name for name in METHOD_REGISTRY.names() if name != "MoCo"]
    short = ("SOLVER.MAX_ITER", 1, "SOLVER.BASE_LR", 0.01, "ENGINE.LOG_PERIOD", 1)

    def cfgs(folder: str) -> list[CfgNode]:
        return [tiny_cfg(drawn, tmp_path / folder / name, *_keys(name, drawn), *short) for name in names]

    assert _train_each(cfgs("one")) == [1] * len(names)
    # One launch for all: starting processes takes longest.
    launch(partial(_train_each, cfgs("two")), num_processes=2, device="cpu")
    for name in names:
        one, two = (last_state(tmp_path / folder / name)["model"] for folder in ("one", "two"))
        for key, value in one.items():
            message = f"{name} {key}"
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-4, msg=lambda m, k=message: f"{k}: {m}")
