"""What happens around each training step, beside detectron2's own hooks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase, hooks
from torch import nn

from ssl_loc.utils import comm
from ssl_loc.utils.events import Writer
from ssl_loc.utils.logger import PROGRESS
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)

_MODEL_STREAM = 3


class SeedEachStep(HookBase):
    """Seeds torch from (seed, iteration, rank) before every step.

    Anchor and proposal sampling draw from torch's global generator; seeded like this, a resumed run draws what the
    uninterrupted one would have drawn, and no generator state has to be stored.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        words = np.random.SeedSequence([_MODEL_STREAM, self._seed, self.trainer.iter, comm.get_rank()])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> np.uint64(1)))


class PreciseBN(hooks.PreciseBN):
    """detectron2's, starting from the same training batches each time, so that a resumed run gets equal statistics."""

    def update_stats(self) -> None:
        self._data_iter = None
        super().update_stats()


class AverageBuffers(HookBase):
    """Mean of the running statistics over processes, wherever they are saved or used.

    Plain batch norm keeps different ones in each process; without this, every process would evaluate another model
    and only the first one's would be saved.
    """

    def __init__(self, model: nn.Module, periods: Sequence[int]) -> None:
        self._model = model
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            average_buffers(self._model)


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Replace every floating-point buffer by its mean over processes. Collective; identity in one process."""
    if comm.is_distributed():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(comm.all_reduce_mean(buffer))


class Log(HookBase):
    """Progress bar, a log line and a line of numbers every ``period`` steps (means over the steps since the last)."""

    def __init__(self, writers: Sequence[Writer], period: int) -> None:
        self._writers = writers
        self._period = max(period, 1)
        self._seen: dict[str, list[float]] = {}
        self._bar: Any = None
        self._start = 0.0

    def before_train(self) -> None:
        total, done = self.trainer.max_iter, self.trainer.start_iter
        self._bar = progress_bar(total=total, initial=done, desc="fine-tuning", unit="it", leave=False)
        self._start = time.perf_counter()

    def after_step(self) -> None:
        now, done = self.trainer.iter, self.trainer.iter + 1
        for name, (value, iteration) in self.trainer.storage.latest().items():
            # Older values belong to steps already counted.
            if iteration == now:
                self._seen.setdefault(name, []).append(value)
        self._bar.update()
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._write(done)

    def _write(self, done: int) -> None:
        values = {name: float(np.mean(seen)) for name, seen in self._seen.items()}
        self._seen = {}
        if "lr" in values:
            values["lr"] = float(self.trainer.storage.history("lr").latest())
        for writer in self._writers:
            writer.write(done, values)
        speed = (time.perf_counter() - self._start) / (done - self.trainer.start_iter)
        left = int(speed * (self.trainer.max_iter - done))
        losses = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if "loss" in name)
        logger.info(
            "iteration %d/%d  %s  lr %.2e  %.2f s/it  left %d:%02d:%02d",
            *(done, self.trainer.max_iter, losses, values.get("lr", 0.0), speed),
            *(left // 3600, left // 60 % 60, left % 60),
            extra=PROGRESS,
        )
        self._bar.set_postfix(loss=f"{values.get('total_loss', float('nan')):.3f}")

    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.close()
        for writer in self._writers:
            writer.close()
