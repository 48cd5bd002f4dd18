"""After every step all processes agree: has someone been asked to stop, is someone's loss broken?"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ssl_loc.engine.signals import StopRequest
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.utils import comm
from ssl_loc.utils.errors import UserError
from ssl_loc.utils.file_io import write_text

# Files named in the error itself; all of them are written to NONFINITE_FILE.
_NAMED = 6
NONFINITE_FILE = "nonfinite_batch.txt"
_logger = logging.getLogger(__name__)


class NonFiniteLossError(UserError):
    """A loss term became NaN or infinite; the run stops before anything is written."""


@dataclass
class _Posted:
    """Numbers of one step on their way to the CPU: [stop signal, broken, *terms]."""

    iteration: int
    lr: float
    names: list[str]
    values: Tensor
    arrived: torch.cuda.Event | None
    paths: list[str]


class Guard(Hook):
    """Finite check and stop request, agreed on by all processes at the same iteration.

    On a GPU the numbers of a step are read one step later, so that the check never makes the GPU wait; where a
    checkpoint may follow they are read at once, so that a broken model is never written.

    Args:
        stop: this process's stop request.
        output_dir: where the list of files of a broken batch goes.
        checkpoint_period: steps between checkpoints, 0 = none before the end.
    """

    def __init__(self, stop: StopRequest, output_dir: str | os.PathLike, checkpoint_period: int = 0) -> None:
        self.stop, self.folder, self.period = stop, Path(output_dir), checkpoint_period
        self._waiting: list[_Posted] = []

    def after_step(self, loop: TrainLoop) -> None:
        self._waiting.append(self._post(loop))
        done = loop.iteration + 1
        at_once = loop.step.device.type != "cuda" or done >= loop.max_iter or (self.period and done % self.period == 0)
        self._settle(loop, keep=0 if at_once else 1)
        if loop.stopped_by:
            self._settle(loop, keep=0)

    def _post(self, loop: TrainLoop) -> _Posted:
        result = loop.result
        assert result is not None  # the loop has just made a step
        terms = torch.stack([t.float().reshape(()) for t in result.terms.values()])
        flags = torch.stack([terms.new_tensor(float(self.stop.signal)), (~torch.isfinite(terms).all()).float()])
        if comm.is_distributed():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        values, arrived = torch.cat([flags, terms]), None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        lr = loop.step.optimizer.param_groups[0]["lr"]
        return _Posted(loop.iteration, lr, list(result.terms), values, arrived, result.paths)

    def _settle(self, loop: TrainLoop, keep: int) -> None:
        """Act on all but the newest ``keep`` posts."""
        while len(self._waiting) > keep:
            post = self._waiting.pop(0)
            if post.arrived is not None:
                post.arrived.synchronize()
            signal, broken, *terms = post.values.tolist()
            if broken:
                self._report(post, terms)
            if signal and not loop.stopped_by:
                loop.stopped_by = int(signal)
                _logger.info("stopping after %d iterations on signal %d", loop.iteration + 1, loop.stopped_by)

    def _report(self, post: _Posted, terms: list[float]) -> None:
        """Raise the same sentence in every process. Collective."""
        found = [
            f"{name} is {value}" for name, value in zip(post.names, terms, strict=True) if not math.isfinite(value)
        ]
        everyone = comm.all_gather_object((found, post.paths if found else []))
        words = [
            " and ".join(found) + (f" in process {rank}" if comm.is_distributed() else "")
            for rank, (found, _) in enumerate(everyone)
            if found
        ]
        paths = [path for _, paths in everyone for path in paths]
        file = self.folder / NONFINITE_FILE
        named = ", ".join(paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
        if comm.is_main_process():
            write_text(file, "\n".join(paths) + "\n")
        raise NonFiniteLossError(
            f"loss term {', '.join(words)} at iteration {post.iteration} with lr {post.lr:.3g}; the batch's files are "
            f"{named} (all {len(paths)} in {file}). Nothing was written over the last checkpoint. Lower "
            "SOLVER.BASE_LR, set SOLVER.WARMUP_ITERS or SOLVER.CLIP_NORM, or train with SOLVER.AMP.DTYPE bf16 or "
            "without AMP; then continue with --resume or start anew"
        )
