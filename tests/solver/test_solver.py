"""Schedules and parameter groups against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.solver import build_optimizer, build_schedule, scaled_lr
from ssl_loc.solver.limits import check_limits
from ssl_loc.solver.param_groups import param_groups
from ssl_loc.utils.errors import ConfigError


def cfg_with(*keys: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.1, "SOLVER.LR_SCALING", "none", *keys])
    return cfg


def test_cosine_per_iteration() -> None:
    lr = build_schedule(cfg_with(), max_iter=8, batches_per_epoch=4)
    for i in range(8):
        assert lr(i) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * i / 8)))
    assert lr(0) == pytest.approx(0.1) and lr(4) == pytest.approx(0.05)


def test_cosine_per_epoch_is_moco_s() -> None:
    """MoCo's main_moco.py: lr *= 0.5 * (1 + cos(pi * epoch / epochs)), set once per epoch."""
    lr = build_schedule(cfg_with("SOLVER.LR_UPDATE", "epoch"), max_iter=12, batches_per_epoch=4)
    for i in range(12):
        assert lr(i) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * (i // 4) / 3)))


def test_steps_fall_on_the_papers_epochs() -> None:
    """MoCo v1: 200 epochs, divided by ten at 120 and 160."""
    lr = build_schedule(cfg_with("SOLVER.SCHEDULE", "step"), max_iter=200 * 7, batches_per_epoch=7)
    assert [lr(7 * epoch) for epoch in (0, 119, 120, 159, 160, 199)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3]
    )
    assert lr(7 * 120 - 1) == pytest.approx(0.1)


def test_steps_of_a_tiny_run() -> None:
    lr = build_schedule(cfg_with("SOLVER.SCHEDULE", "step", "SOLVER.STEPS", [0.5]), max_iter=3, batches_per_epoch=10)
    assert [lr(i) for i in range(3)] == pytest.approx([0.1, 0.1, 0.01])


def test_linear_warm_up_meets_the_schedule() -> None:
    lr = build_schedule(
        cfg_with("SOLVER.WARMUP_ITERS", 4, "SOLVER.WARMUP_FACTOR", 0.2), max_iter=16, batches_per_epoch=4
    )
    end = 0.1 * 0.5 * (1 + math.cos(math.pi * 4 / 16))
    assert lr(0) == pytest.approx(0.02)
    assert lr(2) == pytest.approx(0.5 * (0.02 + end))
    assert lr(4) == pytest.approx(end)
    assert lr(5) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 5 / 16)))


def test_a_run_shorter_than_its_warm_up_climbs_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    keys = ("SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.0)
    lr = build_schedule(cfg_with(*keys), max_iter=4, batches_per_epoch=4)
    assert [lr(i) for i in range(4)] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    assert "SOLVER.WARMUP_ITERS is 10 but the run has 4 steps" in caplog.text


@pytest.mark.parametrize(("scaling", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_lr_follows_the_batch(scaling: str, expected: float) -> None:
    keys = ("SOLVER.LR_SCALING", scaling, "SOLVER.IMS_PER_BATCH", 1024, "SOLVER.REFERENCE_BATCH", 256)
    assert scaled_lr(cfg_with(*keys)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("SOLVER.SCHEDULE", "cosin", "did you mean cosine"),
        ("SOLVER.LR_UPDATE", "step", "choices: iter, epoch"),
        ("SOLVER.LR_SCALING", "linaer", "did you mean linear"),
        ("SOLVER.WARMUP_ITERS", -1, "expected 0"),
        ("SOLVER.REFERENCE_BATCH", 0, "SOLVER.REFERENCE_BATCH is 0"),
    ],
)
def test_bad_values_name_key_and_choices(key: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        build_schedule(cfg_with(key, value), 10, 5)
    assert key in str(error.value)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2, bias=False)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_norm_and_bias_have_their_own_weight_decay() -> None:
    decayed, plain = param_groups(Net(), 1e-4, 0.0)
    assert decayed["names"] == ["conv.weight", "fc.weight"] and decayed["weight_decay"] == 1e-4
    assert plain["names"] == ["conv.bias", "bn.weight", "bn.bias"] and plain["weight_decay"] == 0.0


def test_minus_one_decays_everything_alike() -> None:
    (group,) = param_groups(Net(), 1e-4, -1.0)
    assert group["names"] == ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight"]


def test_sgd_step_by_hand() -> None:
    """v = g + wd p; p -= lr v; second step v = m v + (g + wd p)."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    optimizer = build_optimizer(cfg_with("SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.MOMENTUM", 0.9), net)
    assert optimizer.defaults["fused"] is True and optimizer.defaults["foreach"] is False
    p, v = 2.0, 0.0
    for _ in range(2):
        optimizer.zero_grad()
        (3.0 * net.weight).sum().backward()
        optimizer.step()
        v = 0.9 * v + (3.0 + 0.5 * p)
        p -= 0.1 * v
        assert net.weight.item() == pytest.approx(p, rel=1e-6)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(cfg_with(), nn.Linear(1, 1).requires_grad_(False))


def test_unknown_optimizer_names_the_known() -> None:
    with pytest.raises(ConfigError, match="no OPTIMIZER is called 'Adam'.*Known: LARS, SGD"):
        build_optimizer(cfg_with("SOLVER.OPTIMIZER", "Adam"), torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.CLIP_NORM", -1.0),
        ("SOLVER.BASE_LR", -1.0),
        ("SOLVER.MAX_ITER", -5),
        ("SOLVER.MOMENTUM", 2.0),
        ("SOLVER.WEIGHT_DECAY", -1.0),
        ("SOLVER.STEPS", ["a"]),
        ("SOLVER.STEPS", [0.8, 0.6]),
        ("SOLVER.WARMUP_FACTOR", 1.5),
        ("ENGINE.LOG_PERIOD", 0),
        ("VERSION", 2),
        ("OUTPUT_DIR", ""),
    ],
)
def test_values_that_cannot_work_name_their_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key} is .*expected"):
        check_limits(cfg_with(key, value))


def test_defaults_are_within_their_limits() -> None:
    check_limits(get_cfg())
