"""CVSA's second stage: from a first stage's trunk, with early stages frozen, through the whole engine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import assert_equal_bits, cast_keys, last_state, tiny_cfg

from ssl_loc.checkpoint.checkpointer import method_state
from ssl_loc.engine import train
from ssl_loc.engine.model import TrainingModel
from ssl_loc.engine.run import build_step
from ssl_loc.losses import build_losses
from ssl_loc.modeling import build_method
from ssl_loc.utils.errors import ConfigError, WeightsError

Data = tuple[Path, Path]
FROZEN = ("conv1.", "bn1.", "layer1.", "layer2.")
TRUNKS = ("query_trunk.", "key_trunk.")


@pytest.fixture(scope="module")
def stage_1(drawn: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stage_1")
    train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 2))
    return out


def stage_2_keys(data: Data, stage_1: Path | str, *more: Any) -> list[Any]:
    return [
        *cast_keys(data),
        *("LOSS.NAMES", ["InfoNCE", "CrossViewAlignment"], "LOSS.CROSS_VIEW_ALIGNMENT.HIDDEN", 16),
        *("MODEL.INIT_FROM", str(stage_1), "MODEL.FREEZE_AT", 2, "SEED", 5, *more),
    ]


def test_frozen_tensors_stay_to_the_bit_and_others_move(drawn: Data, stage_1: Path, tmp_path: Path) -> None:
    train(tiny_cfg(drawn, tmp_path / "two", *stage_2_keys(drawn, stage_1, "SOLVER.MAX_ITER", 3)))
    first, second = (method_state(last_state(out)) for out in (stage_1, tmp_path / "two"))
    given = {name.removeprefix("query_trunk."): t for name, t in first.items() if name.startswith("query_trunk.")}
    frozen = 0
    for trunk in TRUNKS:
        for name, tensor in given.items():
            same = torch.equal(second[trunk + name], tensor)
            assert same == name.startswith(FROZEN), f"{trunk}{name}"
            frozen += same
    assert frozen > 2 * 20


def test_frozen_parameters_are_not_the_optimisers(drawn: Data, stage_1: Path, tmp_path: Path) -> None:
    step = build_step(tiny_cfg(drawn, tmp_path, *stage_2_keys(drawn, stage_1)), torch.device("cpu"), 16)
    names = [name for group in step.optimizer.param_groups for name in group["names"]]
    assert not any(part in name for name in names for part in ("conv1.weight_", "key_trunk", "target_necks"))
    prefix = "method.query_trunk."
    trunk = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    assert trunk and all(name.startswith(("layer3.", "layer4.")) for name in trunk)
    assert any("CrossViewAlignment.predictors.res5" in name for name in names)


def test_random_weights_are_not_frozen(drawn: Data, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MODEL.FREEZE_AT is 2 but MODEL.INIT_FROM is empty"):
        train(tiny_cfg(drawn, tmp_path / "x", "MODEL.FREEZE_AT", 2))


def test_other_pixels_are_refused(drawn: Data, stage_1: Path, tmp_path: Path) -> None:
    keys = ("MODEL.INIT_FROM", str(stage_1), "MODEL.PIXEL_STD", [1.0, 1.0, 1.0])
    with pytest.raises(WeightsError, match="was trained with pixel_std .58.395, .* set MODEL.PIXEL_STD to the file's"):
        train(tiny_cfg(drawn, tmp_path / "x", *keys))


def test_attention_at_a_frozen_level_stops_at_build(drawn: Data, tmp_path: Path) -> None:
    cfg = tiny_cfg(drawn, tmp_path, *cast_keys(drawn), "MODEL.INIT_FROM", "x", "MODEL.FREEZE_AT", 4)
    with pytest.raises(ConfigError, match="GradCAMAttention needs the gradient at res5.* MODEL.FREEZE_AT 3 or less"):
        TrainingModel(build_method(cfg), build_losses(cfg))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_number_of_stages_trains(drawn: Data, stage_1: Path, tmp_path: Path, count: int) -> None:
    keys = stage_2_keys(drawn, stage_1, "MODEL.FREEZE_AT", count, "SOLVER.MAX_ITER", 1)
    if count == 4:  # nothing of the trunk is trained, so the loss on its last map is refused
        keys += ["LOSS.NAMES", ["InfoNCE"]]
    train(tiny_cfg(drawn, tmp_path / "run", *keys))
    first, second = (method_state(last_state(out)) for out in (stage_1, tmp_path / "run"))
    moved = {
        name.split(".")[1]
        for name in first
        if name.startswith("query_trunk.") and not torch.equal(first[name], second[name])
    }
    assert moved == {f"layer{i}" for i in range(count + 1, 5)}


def test_resume_equals_no_stop_and_does_not_read_stage_1(drawn: Data, stage_1: Path, tmp_path: Path) -> None:
    """Necks, predictors, target necks and their momentum buffers are in the checkpoint."""
    copied = tmp_path / "copied"
    shutil.copytree(stage_1, copied)
    keys = stage_2_keys(drawn, copied, "SOLVER.SCHEDULE", "step", "SOLVER.STEPS", [])
    train(tiny_cfg(drawn, tmp_path / "whole", *keys, "SOLVER.MAX_ITER", 4))
    train(tiny_cfg(drawn, tmp_path / "cut", *keys, "SOLVER.MAX_ITER", 2))
    shutil.rmtree(copied)
    train(tiny_cfg(drawn, tmp_path / "cut", *keys, "SOLVER.MAX_ITER", 4), resume=True)
    assert_equal_bits(last_state(tmp_path / "whole"), last_state(tmp_path / "cut"))
