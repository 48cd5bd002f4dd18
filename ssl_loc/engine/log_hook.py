"""What a run says about itself: progress bar, log lines, curves."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from tqdm import tqdm

from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.utils import comm
from ssl_loc.utils.events import ScalarWindow, Writer
from ssl_loc.utils.logger import PROGRESS
from ssl_loc.utils.progress import progress_bar

# Weight of the newest window in the time per step that the ETA is computed with.
_ETA_WEIGHT = 0.3
_logger = logging.getLogger(__name__)


class Log(Hook):
    """Every ``period`` steps: averages over the window and over processes -> writers, a log line, the bar.

    A terminal shows a progress bar; the line then goes to log.txt only.

    Args:
        writers: receive the numbers; empty except in the main process.
        period: steps per window.
        batch_size: global batch, images.
        batches_per_epoch: global batches per pass over the data.
    """

    def __init__(self, writers: Sequence[Writer], period: int, batch_size: int, batches_per_epoch: int) -> None:
        self.writers, self.period = list(writers), max(1, period)
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.window = ScalarWindow()
        self.latest: dict[str, float] = {}
        self._bar: tqdm | None = None
        self._window_start, self._window_steps, self._step_seconds = 0.0, 0, 0.0
        self._passed_over, self._warned_of_masks = 0, False

    def before_train(self, loop: TrainLoop) -> None:
        show = comm.is_main_process()
        self._bar = progress_bar(total=loop.max_iter, initial=loop.iteration, desc="pretrain", unit="it", show=show)
        self._window_start = time.perf_counter()

    def before_step(self, loop: TrainLoop) -> None:
        loop.monitor = self._is_due(loop)

    def after_step(self, loop: TrainLoop) -> None:
        result = loop.result
        assert result is not None  # the loop has just made a step
        self.window.add("loss", result.loss)
        self.window.update(result.log)
        self.window.add("data_seconds", loop.data_seconds)
        self._window_steps += 1
        self._passed_over += result.passed_over
        if self._bar is not None:
            self._bar.update()
        if self._is_due(loop):
            self._write(loop, list(result.terms))
        elif loop.extra:
            for writer in self.writers:
                writer.write(loop.iteration + 1, loop.extra)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        for writer in self.writers:
            writer.close()

    def _is_due(self, loop: TrainLoop) -> bool:
        return (loop.iteration + 1) % self.period == 0 or loop.iteration + 1 == loop.max_iter

    def _write(self, loop: TrainLoop, terms: list[str]) -> None:
        # The window averages over processes; the number of interest is their sum since the start.
        self.window.add("passed_over_images", float(self._passed_over * comm.get_world_size()))
        values = self.window.reduce(loop.step.device)  # collective; waits for the device
        now = time.perf_counter()
        seconds = (now - self._window_start) / self._window_steps
        self._window_start, self._window_steps = now, 0
        old = self._step_seconds or seconds
        self._step_seconds = old + _ETA_WEIGHT * (seconds - old)
        done = loop.iteration + 1
        values["lr"] = loop.step.optimizer.param_groups[0]["lr"]
        values["epoch"] = done / self.batches_per_epoch
        values["step_seconds"] = seconds
        values["images_per_second"] = self.batch_size / seconds
        values["max_memory_mb"] = max_memory_mb(loop.step.device)
        values.update(loop.extra)
        self.latest = values
        for writer in self.writers:
            writer.write(done, values)
        eta = timedelta(seconds=round((loop.max_iter - done) * self._step_seconds))
        _logger.info("%s", progress_line(done, loop.max_iter, values, terms, eta), extra=PROGRESS)
        if (health := health_line(values)).strip():
            _logger.info("%s", health, extra=PROGRESS)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.4g}, {values['images_per_second']:.4g} images/s")
        self._watch(done, values)

    def _watch(self, done: int, values: dict[str, float]) -> None:
        """Say once that no image has a mask."""
        if values.get("attention_skipped_rate", 0.0) == 1.0 and not self._warned_of_masks:
            self._warned_of_masks = True
            _logger.warning(
                "no image up to iteration %d had a usable mask: the attention loss trains nothing. Look at the data "
                "with tools/visualize.py views, and at DATA.MASKS (SOURCE, ROOT, THRESHOLD, EMPTY)",
                done,
            )


def progress_line(done: int, max_iter: int, values: dict[str, float], terms: Sequence[str], eta: timedelta) -> str:
    """One line of the log file."""
    parts = [f"{name} {values[f'loss/{name}']:.4f}" for name in terms if f"loss/{name}" in values]
    if "chance_loss" in values:
        parts.append(f"chance {values['chance_loss']:.3f}")
    memory = f"mem {values['max_memory_mb']:.0f} MB"
    return (
        f"iter {done}/{max_iter} epoch {values['epoch']:.2f} eta {eta} loss {values['loss']:.4f} ({', '.join(parts)}) "
        f"lr {values['lr']:.4g} {values['step_seconds']:.4g} s/it (data {values['data_seconds']:.3g}) "
        f"{values['images_per_second']:.4g} images/s {memory}"
    )


# What users ask of the curves (docs/reading-the-curves.md), by the words of the log line.
_HEALTH = {
    "queue_real_share": "queue real",
    "pos_similarity": "pos sim",
    "neg_similarity": "neg sim",
    "feature_std": "feature std",
    "feature_std_ideal": "ideal",
    "effective_rank": "rank",
    "trunk_effective_rank": "trunk's rank",
    "has_mask_rate": "with mask",
    "crop_unmet_rate": "crop unmet",
    "pasted_rate": "pasted",
    "paste_refused_rate": "paste refused",
    "attention_skipped_rate": "attention skipped",
    "zero_cam_rate": "zero cam",
    "alignment_inside": "aligned inside",
    "alignment_outside": "outside",
    "alignment_skipped_rate": "alignment skipped",
}


def health_line(values: dict[str, float]) -> str:
    """The line below a progress line: is it learning, and on what share of the images?"""
    return "  " + ", ".join(f"{word} {values[name]:.3g}" for name, word in _HEALTH.items() if name in values)


def max_memory_mb(device: torch.device) -> float:
    """Peak memory of this process in MB: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes on Linux, bytes on macOS
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
