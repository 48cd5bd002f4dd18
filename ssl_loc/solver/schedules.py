"""The learning rate as a pure function of the iteration: nothing to save, nothing to restore."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fvcore.common.param_scheduler import CosineParamScheduler

from ssl_loc.config import CfgNode
from ssl_loc.utils.errors import ConfigError, check_choice

# SOLVER.LR_SCALING: exponent of IMS_PER_BATCH / REFERENCE_BATCH.
_SCALING = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}
_UPDATES = ("iter", "epoch")
_SCHEDULES = ("cosine", "step")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run.

    Attributes:
        lr: learning rate that ``shape`` multiplies.
        shape: progress in [0, 1) -> factor.
        max_iter: length of the run in optimiser steps.
        hold_iters: the factor changes every this many steps (1, or the steps of an epoch).
        warmup_iters: linear warm-up in steps, from ``warmup_factor * lr`` to the schedule's value at its end.
    """

    lr: float
    shape: Callable[[float], float]
    max_iter: int
    hold_iters: int = 1
    warmup_iters: int = 0
    warmup_factor: float = 0.0

    def __call__(self, iteration: int) -> float:
        """Learning rate of step ``iteration`` (0-based)."""
        if iteration < self.warmup_iters:
            done = iteration / self.warmup_iters
            # A dry run may end within its warm-up: it climbs towards the full rate, not towards the schedule's end.
            end = self._factor(self.warmup_iters if self.warmup_iters < self.max_iter else 0)
            return self.lr * ((1 - done) * self.warmup_factor + done * end)
        return self.lr * self._factor(iteration)

    def _factor(self, iteration: int) -> float:
        held = iteration // self.hold_iters * self.hold_iters
        return self.shape(min(held / self.max_iter, 1.0))


def step_shape(steps: Sequence[float], gamma: float) -> Callable[[float], float]:
    """``gamma`` to the number of ``steps`` (fractions of the run) passed."""
    ordered = sorted(steps)
    # 0.6 * 200 epochs must fall on epoch 120 although 0.6 has no exact binary form.
    return lambda where: gamma ** bisect.bisect_right(ordered, where + 1e-9)


def build_schedule(cfg: CfgNode, max_iter: int, batches_per_epoch: int) -> Schedule:
    """Schedule of ``SOLVER`` for a run of ``max_iter`` steps."""
    solver = cfg.SOLVER
    check_choice("SOLVER.SCHEDULE", solver.SCHEDULE, _SCHEDULES)
    check_choice("SOLVER.LR_UPDATE", solver.LR_UPDATE, _UPDATES)
    if solver.WARMUP_ITERS < 0:
        raise ConfigError(f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}; expected 0 (no warm-up) or a number of steps")
    if solver.WARMUP_ITERS >= max_iter:
        _logger.warning(
            "SOLVER.WARMUP_ITERS is %d but the run has %d steps: the learning rate never reaches its value",
            solver.WARMUP_ITERS,
            max_iter,
        )
    if solver.SCHEDULE == "cosine":
        shape: Callable[[float], float] = CosineParamScheduler(1.0, 0.0)
    else:
        if not all(0 < s < 1 for s in solver.STEPS):
            raise ConfigError(f"SOLVER.STEPS is {solver.STEPS}; expected fractions of the run between 0 and 1")
        shape = step_shape(solver.STEPS, solver.GAMMA)
    return Schedule(
        lr=scaled_lr(cfg),
        shape=shape,
        max_iter=max_iter,
        hold_iters=batches_per_epoch if solver.LR_UPDATE == "epoch" else 1,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
    )


def scaled_lr(cfg: CfgNode) -> float:
    """``BASE_LR * (IMS_PER_BATCH / REFERENCE_BATCH) ** exponent`` with the exponent of ``LR_SCALING``."""
    solver = cfg.SOLVER
    check_choice("SOLVER.LR_SCALING", solver.LR_SCALING, tuple(_SCALING))
    if solver.REFERENCE_BATCH < 1:
        raise ConfigError(
            f"SOLVER.REFERENCE_BATCH is {solver.REFERENCE_BATCH}; expected the batch BASE_LR was tuned at"
        )
    return solver.BASE_LR * (solver.IMS_PER_BATCH / solver.REFERENCE_BATCH) ** _SCALING[solver.LR_SCALING]
