"""What a fine-tuning says about itself, the same on either engine: bar, log lines, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from ssl_loc.engine.log_hook import max_memory_mb
from ssl_loc.utils import comm
from ssl_loc.utils.events import JsonlWriter, ScalarWindow, TensorBoardWriter
from ssl_loc.utils.logger import PROGRESS
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)

# Weight of the newest window in the time per iteration that the ETA is computed with.
_ETA_WEIGHT = 0.3


class TrainingLog:
    """Every ``period`` iterations: means since the last line and over processes. All processes call all methods.

    Args:
        start: iterations already made.
        max_iter: iterations in all.
        device: where the processes exchange numbers.
    """

    def __init__(self, output_dir: str | Path, period: int, start: int, max_iter: int, device: torch.device) -> None:
        self._period, self._max_iter, self._device = max(1, period), max_iter, device
        self._window = ScalarWindow()
        self._lr = 0.0
        self._steps, self._seconds, self._mean_seconds = 0, 0.0, 0.0
        main = comm.is_main_process()
        self._json = JsonlWriter(output_dir, start) if main else None
        self._board = TensorBoardWriter(output_dir, start) if main else None
        self._bar = progress_bar(total=max_iter, initial=start, desc="fine-tuning", unit="it", leave=False, show=main)
        self._last = time.perf_counter()

    def step(self, values: Mapping[str, float | Tensor], lr: float) -> None:
        """Numbers of the iteration just made."""
        now = time.perf_counter()
        self._seconds += now - self._last
        self._steps += 1
        self._last, self._lr = now, lr
        self._window.update(dict(values))
        self._bar.update()

    def after_step(self, done: int, evaluated: Mapping[str, float] | None = None) -> None:
        """Write what is due after ``done`` iterations. Collective.

        Args:
            evaluated: numbers of an evaluation, written in any case; None in all processes if there was none. Only
                the main process has numbers.
        """
        if evaluated is not None or self._is_due(done):
            self._write(done, evaluated or {})
        # Time spent on evaluations and checkpoints is no part of an iteration.
        self._last = time.perf_counter()

    def stopped(self, done: int) -> None:
        """A signal ends the run here: the line of this iteration, if one is due. Collective."""
        if self._is_due(done):
            self._write(done, {})

    def picture(self, name: str, image: Tensor, done: int) -> None:
        """A picture (3, H, W) uint8 for TensorBoard, after ``done`` iterations; other processes leave it out."""
        if self._board is not None:
            self._board.write_image(name, image, done)

    def close(self) -> None:
        self._bar.close()
        for writer in (self._json, self._board):
            if writer is not None:
                writer.close()

    def _is_due(self, done: int) -> bool:
        return bool(self._steps) and (done % self._period == 0 or done == self._max_iter)

    def _write(self, done: int, evaluated: Mapping[str, float]) -> None:
        values = {**self._window.reduce(self._device), **evaluated}
        if self._steps:
            seconds = self._seconds / self._steps
            self._mean_seconds += (seconds - self._mean_seconds) * (_ETA_WEIGHT if self._mean_seconds else 1.0)
            values |= {"lr": self._lr, "seconds_per_iteration": seconds}
        self._steps, self._seconds = 0, 0.0
        for writer in (self._json, self._board):
            if writer is not None:
                writer.write(done, values)
        if "total_loss" in values:
            eta = timedelta(seconds=round((self._max_iter - done) * self._mean_seconds))
            memory = max_memory_mb(self._device)
            logger.info("%s", progress_line(done, self._max_iter, values, eta, memory), extra=PROGRESS)
            self._bar.set_postfix_str(f"loss {values['total_loss']:.4g}")


def progress_line(done: int, max_iter: int, values: Mapping[str, float], eta: timedelta, memory: float) -> str:
    """One line of the log file, in the form of pretraining's."""
    parts = ", ".join(f"{name} {value:.4f}" for name, value in values.items() if name.startswith("loss"))
    data = f" (data {values['data_time']:.3g})" if "data_time" in values else ""
    return (
        f"iter {done}/{max_iter} eta {eta} loss {values['total_loss']:.4f} ({parts}) lr {values['lr']:.4g} "
        f"{values['seconds_per_iteration']:.4g} s/it{data} mem {memory:.0f} MB"
    )
