"""SGD, learning rate and clipping by detectron2's rules."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.transfer.recipe import Recipe


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    """SGD with one group per (learning rate, weight decay): norm layers and, if asked, biases have their own."""
    solver = recipe.SOLVER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        is_norm = isinstance(module, (_BatchNorm, nn.GroupNorm))
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decay = solver.WEIGHT_DECAY_NORM if is_norm else solver.WEIGHT_DECAY
            factor = 1.0
            if name == "bias":
                factor = solver.BIAS_LR_FACTOR
                # As in detectron2, this key also wins over WEIGHT_DECAY_NORM.
                decay = decay if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.SGD(
        [{"params": p, "weight_decay": decay, "factor": factor} for (factor, decay), p in groups.items()],
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        fused=True,  # on CPU twice as fast as the loop over tensors
    )


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Learning rate of one iteration (0-based).

    Steps: BASE_LR x GAMMA^(steps passed). Cosine: half a cosine from BASE_LR to BASE_LR_END. The first WARMUP_ITERS go
    linearly from WARMUP_FACTOR x the start value to the schedule's value at the end of the warm-up.
    """
    solver = recipe.SOLVER
    warmup = min(solver.WARMUP_ITERS, solver.MAX_ITER)
    if iteration >= warmup:
        return solver.BASE_LR * _schedule(recipe, iteration)
    first, last = solver.WARMUP_FACTOR * _schedule(recipe, 0), _schedule(recipe, warmup)
    if solver.WARMUP_METHOD == "constant":
        return solver.BASE_LR * first
    return solver.BASE_LR * (first + (last - first) * iteration / warmup)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def clip_gradients(recipe: Recipe, model: nn.Module) -> None:
    """Clip each parameter's gradient by value or by its own norm, if SOLVER.CLIP_GRADIENTS is on."""
    node = recipe.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED:
        return
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if node.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameter, node.CLIP_VALUE)
        else:
            nn.utils.clip_grad_norm_(parameter, node.CLIP_VALUE, node.NORM_TYPE)


def _schedule(recipe: Recipe, iteration: int) -> float:
    solver = recipe.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * iteration / solver.MAX_ITER))
    return solver.GAMMA ** sum(1 for step in solver.STEPS if step <= iteration)
