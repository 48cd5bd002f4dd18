"""Small hooks: learning rate and checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ssl_loc.checkpoint import Checkpointer
from ssl_loc.engine.guard import NonFiniteLossError
from ssl_loc.engine.state import RunState
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.solver import Schedule
from ssl_loc.utils import comm


class LearningRate(Hook):
    """Sets every parameter group's learning rate before each step (times the group's "lr_scale" if it has one)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def before_step(self, loop: TrainLoop) -> None:
        lr = self.schedule(loop.iteration)
        for group in loop.step.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)


class PeriodicCheckpoint(Hook):
    """Writes a checkpoint every ``period`` steps (0 = never), at the end, and when the run is stopped."""

    def __init__(self, checkpointer: Checkpointer, state: RunState, period: int) -> None:
        self.checkpointer, self.state, self.period = checkpointer, state, period
        self._written = -1

    def before_train(self, loop: TrainLoop) -> None:
        self._written = loop.start_iteration if loop.start_iteration else -1

    def after_step(self, loop: TrainLoop) -> None:
        if self.period and (loop.iteration + 1) % self.period == 0:
            self._write(loop.iteration + 1)

    def after_train(self, loop: TrainLoop) -> None:
        if loop.iteration != self._written:
            self._write(loop.iteration)

    def _write(self, iteration: int) -> None:
        check_weights(self.state.step.model, iteration, self.checkpointer.last())
        content = self.state.capture()  # collective: random states of all processes
        if comm.is_main_process():
            self.checkpointer.save(iteration, content)
        self._written = iteration
        comm.barrier()


def check_weights(model: nn.Module, iteration: int, last: Path | None) -> None:
    """Refuse to write weights that are NaN or infinite: a gradient can break while every loss is still finite.

    Raises:
        NonFiniteLossError: names the parameters; the same in every process, since their weights are the same.
    """
    named = list(model.named_parameters())
    fine = torch.stack([p.detach().isfinite().all() for _, p in named]).tolist()
    broken = [name for (name, _), ok in zip(named, fine, strict=True) if not ok]
    if broken:
        raise NonFiniteLossError(
            f"{len(broken)} of {len(named)} parameters are not finite after {iteration} iterations, the first is "
            f"{broken[0]}, although the losses were: a gradient overflowed. The last checkpoint stays "
            f"({last or 'none yet'}). Lower SOLVER.BASE_LR, set SOLVER.CLIP_NORM, or train without AMP"
        )
