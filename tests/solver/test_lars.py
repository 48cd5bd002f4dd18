"""LARS against a worked example, a slow loop and SGD."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.solver import build_optimizer
from ssl_loc.solver.lars import LARS
from ssl_loc.solver.limits import check_limits
from ssl_loc.utils.errors import ConfigError


def cfg_with(*keys: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "LARS", "SOLVER.BASE_LR", 0.1, *keys])
    return cfg


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def backward(model: nn.Module, seed: int) -> None:
    model.zero_grad()
    model(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed))).square().sum().backward()


def test_two_steps_worked_out_by_hand() -> None:
    """w = (3, 4), g = (0, 2), weight decay .5, eta .1, momentum .9, lr 1 and then .5.

    Step 1: g' = g + .5 w = (1.5, 4); ||w|| = 5, ||g'|| = sqrt(18.25); r = .5 / sqrt(18.25) = .1170411;
    v = r g' = (.1755617, .4681646); w = (2.8244383, 3.5318354).
    Step 2: g' = (1.4122192, 3.7659177); ||w|| = 4.5223128, ||g'|| = 4.0220019; r = .1124394; r g' = (.1587890,
    .4234373); v = .9 v + r g' = (.3167946, .8447855); w - .5 v = (2.6660410, 3.1094427).
    """
    w = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    optimizer = LARS([w], lr=1.0, momentum=0.9, weight_decay=0.5, eta=0.1)
    w.grad = torch.tensor([[0.0, 2.0]])
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([[2.8244383, 3.5318354]]), rtol=1e-6, atol=0)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    torch.testing.assert_close(w.data, torch.tensor([[2.6660410, 3.1094427]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_batched_update_is_the_loop_over_parameters(nesterov: bool) -> None:
    ours = net()
    slow = copy.deepcopy(ours)
    optimizer = build_optimizer(cfg_with("SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.NESTEROV", nesterov), ours)
    velocity = {name: torch.zeros_like(p) for name, p in slow.named_parameters()}
    for step in range(3):
        lr = 0.1 / (step + 1)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for model in (ours, slow):
            backward(model, step)
        optimizer.step()
        with torch.no_grad():
            for name, p in slow.named_parameters():
                g = p.grad.clone()
                if p.ndim > 1:
                    g += 0.01 * p
                    g *= 0.001 * p.norm() / g.norm()
                velocity[name] = 0.9 * velocity[name] + g
                p -= lr * (g + 0.9 * velocity[name] if nesterov else velocity[name])
    for (name, a), b in zip(ours.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_norm_layers_and_biases_are_left_to_sgd() -> None:
    model = net()
    adapted, plain = build_optimizer(cfg_with("SOLVER.WEIGHT_DECAY", 1e-6), model).param_groups
    assert adapted["names"] == ["0.weight", "3.weight"] and adapted["adapt"] and adapted["weight_decay"] == 1e-6
    assert plain["names"] == ["0.bias", "1.weight", "1.bias", "3.bias"] and not plain["adapt"]
    assert plain["weight_decay"] == 0
    assert build_optimizer(cfg_with("SOLVER.WEIGHT_DECAY_NORM", 0.2), model).param_groups[1]["weight_decay"] == 0.2
    (everything,) = build_optimizer(cfg_with("SOLVER.LARS.EXCLUDE_NORM_AND_BIAS", False), model).param_groups
    assert len(everything["names"]) == 6 and everything["adapt"]


def test_a_length_of_zero_is_not_adapted() -> None:
    """A weight at 0 takes the plain gradient (else it stayed there); a gradient of 0 makes no NaN."""
    zero, still, other = (nn.Parameter(torch.full((1, 2), v)) for v in (0.0, 3.0, 1.0))
    zero.grad, still.grad, other.grad = (torch.full((1, 2), v) for v in (2.0, 0.0, 1.0))
    LARS([zero, still, other], lr=0.5, momentum=0.0, eta=0.1).step()
    assert zero.tolist() == [[-1.0, -1.0]] and still.tolist() == [[3.0, 3.0]]
    assert other.tolist() == [[pytest.approx(0.95)] * 2]


def test_lengths_are_float32() -> None:
    """The length 80 000 has no float16; the step of .001 * 80 000 / 2 has (to the 32 that lie between neighbours)."""
    w = nn.Parameter(torch.full((1, 4), 40000.0, dtype=torch.float16))
    w.grad = torch.ones_like(w)
    LARS([w], lr=1.0, momentum=0.0, eta=0.001).step()
    assert w.tolist() == [[pytest.approx(39960, abs=32)] * 4]


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))
    optimizer = LARS([used, unused], lr=0.1)
    used.grad = torch.ones(1, 2)
    optimizer.step()
    assert unused.tolist() == [[1.0, 1.0]] and unused not in optimizer.state


def test_resumed_is_not_stopped() -> None:
    whole, first = net(), net()
    optimizer = build_optimizer(cfg_with(), whole)
    for step in range(4):
        backward(whole, step)
        optimizer.step()
    optimizer = build_optimizer(cfg_with(), first)
    for step in range(2):
        backward(first, step)
        optimizer.step()
    second = net()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = build_optimizer(cfg_with(), second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(2, 4):
        backward(second, step)
        resumed.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER.LARS.ETA is 0.0; expected"):
        build_optimizer(cfg_with("SOLVER.LARS.ETA", 0.0), net())
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(cfg_with(), nn.Linear(1, 1).requires_grad_(False))
    check_limits(cfg_with())
