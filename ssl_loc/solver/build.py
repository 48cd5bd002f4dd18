"""Optimisers by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ssl_loc.config import CfgNode, construct
from ssl_loc.solver.param_groups import param_groups
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.registry import Registry

OPTIMIZER_REGISTRY = Registry("OPTIMIZER")
OPTIMIZER_REGISTRY.__doc__ = """Called as ``construct(entry, cfg, model)`` -> ``torch.optim.Optimizer`` over the model's
trainable parameters. Its learning rate is overwritten every step by the schedule."""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser ``SOLVER.OPTIMIZER`` over the trainable parameters of ``model`` (on its final device)."""
    return construct(OPTIMIZER_REGISTRY.get(cfg.SOLVER.OPTIMIZER), cfg, model)


@OPTIMIZER_REGISTRY.register(name="SGD")
def sgd(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum; fused on CPU and GPU."""
    solver = cfg.SOLVER
    groups = param_groups(model, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM)
    check_trainable(cfg, groups)
    # fused: twice as fast as the loop on CPU, where foreach would be 2.7 times slower than the loop.
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for g in groups for p in g["params"])
    return torch.optim.SGD(
        groups,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        foreach=False,
        fused=fused,
    )


def check_trainable(cfg: CfgNode, groups: list[dict[str, Any]]) -> None:
    """Raise :class:`ConfigError` where there is nothing to train."""
    if not groups:
        raise ConfigError(
            f"the method {cfg.MODEL.METHOD} with losses {', '.join(cfg.LOSS.NAMES)} has no trainable parameter; "
            "check MODEL and LOSS"
        )
