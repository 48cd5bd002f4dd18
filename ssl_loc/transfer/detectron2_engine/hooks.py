"""What happens around each training step, beside detectron2's own hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from torch import nn

from ssl_loc.transfer import running_statistics
from ssl_loc.transfer.detector_file import FINAL
from ssl_loc.transfer.detectron2_engine.data import TrainingLoader
from ssl_loc.transfer.detectron2_engine.model import StrictCheckpointer
from ssl_loc.transfer.sampling import step_seed
from ssl_loc.transfer.stop import RunStopped, Stop
from ssl_loc.transfer.training_log import TrainingLog
from ssl_loc.utils import comm

logger = logging.getLogger(__name__)

# Not numbers of the step: the time per process (its maximum is logged), and the rate, which is logged as it is.
_LEFT_OUT = ("rank_data_time", "lr")


class SeedEachStep(HookBase):
    """Seeds torch from (seed, iteration, rank) before every step; see :func:`ssl_loc.transfer.sampling.step_seed`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        torch.manual_seed(step_seed(self._seed, self.trainer.iter, comm.get_rank()))


class PreciseBN(hooks.PreciseBN):
    """detectron2's, repeatable: the same batches and draws each time, so that a resumed run gets equal statistics.

    It can be stopped between two batches.
    """

    def __init__(self, model: nn.Module, loader: TrainingLoader, num_iter: int, seed: int, stop: Stop) -> None:
        super().__init__(0, model, loader, num_iter)
        self._loader, self._seed, self._stop = loader, seed, stop

    def update_stats(self) -> None:
        held = running_statistics.statistics(self._model)
        counters = {key: value.clone() for key, value in held.items() if key.endswith("num_batches_tracked")}
        torch.manual_seed(step_seed(self._seed, self.trainer.iter + 1, comm.get_rank()))
        self._data_iter = self._watched()
        try:
            super().update_stats()
        finally:
            self._loader.close()
        running_statistics.put_back(self._model, counters)

    def _watched(self) -> Iterator[Any]:
        device = next(self._model.parameters()).device
        for batch in self._loader:
            self._stop.check(device)
            yield batch


@dataclass(eq=False)
class Conclude(HookBase):
    """After every step: numbers, then what is due of statistics, checkpoint and evaluation; the last hook of all.

    Args:
        precise: None without PreciseBN.
        evaluate: gives numbers for the log, on the main process.
        eval_period, save_period: in steps; 0 = only at the end.
        unfinished: the run to continue was stopped before this was done for its last iteration.
    """

    model: nn.Module
    checkpointer: StrictCheckpointer
    log: TrainingLog
    stop: Stop
    precise: PreciseBN | None
    evaluate: Callable[[], dict[str, float]]
    eval_period: int
    save_period: int
    unfinished: bool = False

    def before_train(self) -> None:
        if self.precise is not None:
            self.precise.trainer = self.trainer
        if self.unfinished:
            self._at(self.trainer.start_iter - 1)
            self._stoppable(self._conclude)
            self._at(self.trainer.start_iter)

    def after_step(self) -> None:
        self._log_step()
        self._stoppable(self._check_and_conclude)

    def _check_and_conclude(self) -> None:
        self.stop.check(next(self.model.parameters()).device)
        self._conclude()

    def _conclude(self) -> None:
        done = self.trainer.iter + 1
        last = done >= self.trainer.max_iter
        evaluating = not last and self.eval_period > 0 and done % self.eval_period == 0
        numbers = None
        with running_statistics.restored_on(RunStopped, self.model, needed=last or evaluating):
            if last or evaluating:
                if self.precise is not None:
                    self.precise.update_stats()
                running_statistics.average(self.model)
            if not last and self.save_period > 0 and done % self.save_period == 0:
                self.checkpointer.save_run(step_file(done), done, unfinished=evaluating)
            if evaluating:
                numbers = self.evaluate()
        self.log.after_step(done, numbers)
        if last:
            self.checkpointer.save_run(FINAL, done)

    def _stoppable(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RunStopped as stopped:
            done = self.trainer.iter + 1
            self.log.stopped(done)
            path = self.checkpointer.save_run(step_file(done), done, unfinished=True)
            where = f" after {done} of {self.trainer.max_iter} iterations; checkpoint {path}"
            raise RunStopped(stopped.signal, where) from None

    def _log_step(self) -> None:
        storage, now = self.trainer.storage, self.trainer.iter
        # Older values belong to steps already counted.
        fresh = {name: value for name, (value, iteration) in storage.latest().items() if iteration == now}
        self.log.step({k: v for k, v in fresh.items() if k not in _LEFT_OUT}, fresh["lr"])
        for name, image, _ in storage._vis_data:
            self.log.picture(name, torch.as_tensor(image), now + 1)
        storage.clear_images()

    def _at(self, iteration: int) -> None:
        self.trainer.iter = self.trainer.storage.iter = iteration


def step_file(done: int) -> str:
    """Name of the checkpoint after ``done`` iterations: detectron2 counts from 0."""
    return f"model_{done - 1:07d}.pth"
