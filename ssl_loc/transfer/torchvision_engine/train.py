"""The fine-tuning loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_loc.engine.step import wrap_ddp
from ssl_loc.transfer import running_statistics
from ssl_loc.transfer.detector_file import FINAL
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.sampling import step_seed
from ssl_loc.transfer.stop import RunStopped, Stop
from ssl_loc.transfer.torchvision_engine.checkpoint import save_detector
from ssl_loc.transfer.torchvision_engine.loader import Batches, training_loader
from ssl_loc.transfer.torchvision_engine.mapper import Example
from ssl_loc.transfer.torchvision_engine.model import Detector
from ssl_loc.transfer.torchvision_engine.precise_bn import precise_bn
from ssl_loc.transfer.torchvision_engine.solver import clip_gradients, learning_rate, set_learning_rate
from ssl_loc.transfer.training_log import TrainingLog
from ssl_loc.utils import comm
from ssl_loc.utils.errors import UserError

logger = logging.getLogger(__name__)


class Trainer:
    """Runs iterations ``start`` .. MAX_ITER of a recipe.

    Args:
        model: on its device, in training mode.
        records: training records.
        about: plain values that go into every checkpoint.
        evaluate: called with the completed iterations every TEST.EVAL_PERIOD; returns numbers for the log.
        stop: asked after every step.

    Attributes:
        start: completed iterations (a resumed run).
        unfinished: what follows iteration ``start`` (evaluation, PreciseBN) was cut short and is still to be done.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Detector,
        optimizer: torch.optim.Optimizer,
        records: list[dict[str, Any]],
        output_dir: Path,
        about: dict[str, Any] | None = None,
        evaluate: Callable[[int], dict[str, float]] | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.optimizer = optimizer
        self.records = records
        self.output_dir = output_dir
        self.about = about or {}
        self.evaluate = evaluate
        self.stop = stop or Stop()
        self.start, self.unfinished = 0, False
        self.amp = recipe.SOLVER.AMP.ENABLED and model.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.wrapped: torch.nn.Module = wrap_ddp(model) if comm.is_distributed() else model

    def resume(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose "model" is in the model already."""
        self.optimizer.load_state_dict(content["optimizer"])
        if self.amp and content.get("scaler"):
            self.scaler.load_state_dict(content["scaler"])
        running_statistics.restore_own(self.model, content.get("own_statistics", []))
        self.start, self.unfinished = content["iteration"], content.get("unfinished", False)

    def train(self) -> None:
        """Train to the end; writes metrics.jsonl, checkpoints and model_final.pth.

        Raises:
            RunStopped: after the step in progress; a checkpoint is written.
        """
        length = self.recipe.SOLVER.MAX_ITER
        if self.start >= length and not self.unfinished:
            logger.info("nothing left to train: %d of %d iterations are done", self.start, length)
            return
        batches = training_loader(self.recipe, self.records, self.start)
        period, device = self.recipe.TRANSFER.LOG_PERIOD, self.model.device
        log = TrainingLog(self.output_dir, period, self.start, length, device)
        done = self.start
        try:
            if self.unfinished:
                self._conclude(done, log)
            for iteration in range(self.start, length):
                before = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - before
                values = self.step(iteration, batch)
                log.step({**values, "data_time": waited}, values["lr"])
                done = iteration + 1
                self.stop.check(device)
                self._conclude(done, log)
        except RunStopped as stopped:
            log.stopped(done)
            path = self._save(f"model_{done - 1:07d}.pth", done, unfinished=True)
            raise RunStopped(stopped.signal, f" after {done} of {length} iterations; checkpoint {path}") from None
        finally:
            batches.close()
            log.close()

    def step(self, iteration: int, batch: list[Example]) -> dict[str, float]:
        """One optimiser step; returns the losses and their sum."""
        rate = learning_rate(self.recipe, iteration)
        set_learning_rate(self.optimizer, rate)
        torch.manual_seed(step_seed(self.recipe.SEED, iteration, comm.get_rank()))
        with torch.autocast(self.model.device.type, torch.float16, enabled=self.amp):
            losses = self.wrapped(*_to_device(batch, self.model.device))
        total = torch.stack(list(losses.values())).sum()
        values = dict(zip([*losses, "total_loss"], [*_floats(losses), float(total.detach())], strict=True))
        self._check_finite(values, iteration, rate, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.recipe, self.model)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {**values, "lr": rate}

    def finish_statistics(self, done: int) -> None:
        """PreciseBN over training batches if the recipe asks for it, then one set of statistics for all processes."""
        node = self.recipe.TEST.PRECISE_BN
        if node.ENABLED:
            # The sampled proposals that a C4 head normalises shall not depend on what happened before.
            torch.manual_seed(step_seed(self.recipe.SEED, done, comm.get_rank()))
            batches = training_loader(self.recipe, self.records)
            try:
                layers = precise_bn(self.model, lambda: self._forward(batches), node.NUM_ITER)
            finally:
                batches.close()
            logger.info("PreciseBN: %d layers over %d batches", layers, node.NUM_ITER)
        running_statistics.average(self.model)

    def _forward(self, batches: Batches) -> None:
        self.stop.check(self.model.device)
        self.model(*_to_device(next(batches), self.model.device))

    def _conclude(self, done: int, log: TrainingLog) -> None:
        """What follows a step: evaluation, log, checkpoint, and after the last one the final statistics."""
        solver = self.recipe.SOLVER
        period, last = self.recipe.TEST.EVAL_PERIOD, done >= solver.MAX_ITER
        evaluating = not last and self.evaluate is not None and period > 0 and done % period == 0
        if not last and solver.CHECKPOINT_PERIOD > 0 and done % solver.CHECKPOINT_PERIOD == 0:
            # Before the evaluation, which may be long.
            self._save(f"model_{done - 1:07d}.pth", done, unfinished=evaluating)
        log.after_step(done, self._evaluate(done) if evaluating else None)
        if last:
            with running_statistics.restored_on(RunStopped, self.model):
                self.finish_statistics(done)
            self._save(FINAL, done)

    def _evaluate(self, done: int) -> dict[str, float]:
        """Evaluate in the middle of training with precise statistics, then go on with the running ones."""
        assert self.evaluate is not None  # the caller asked
        saved = {key: value.clone() for key, value in running_statistics.statistics(self.model).items()}
        try:
            self.finish_statistics(done)
            return self.evaluate(done)
        finally:
            running_statistics.put_back(self.model, saved)

    def _save(self, name: str, done: int, unfinished: bool = False) -> Path:
        """Write a checkpoint: statistics averaged over processes, and beside them each process's own. Collective."""
        model = {**self.model.state_dict(), **running_statistics.mean(self.model)}
        own = running_statistics.of_all_processes(self.model)
        content = {
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": done,
            "unfinished": unfinished,
            "own_statistics": own,
            "processes": comm.get_world_size(),
            **self.about,
        }
        if comm.is_main_process():
            save_detector(self.output_dir, name, content)
        # Nobody goes on, or ends the others by ending, before the file is there.
        comm.barrier()
        return self.output_dir / name

    def _check_finite(self, values: dict[str, float], iteration: int, rate: float, batch: list[Example]) -> None:
        bad = [name for name, value in values.items() if not abs(value) < float("inf")]
        if bad:
            files = ", ".join(Path(e.record["file_name"]).name for e in batch)
            raise UserError(
                f"{', '.join(bad)} became infinite or NaN at iteration {iteration} (learning rate {rate:.3g}, images "
                f"{files}); lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS; FrozenBN with self-supervised "
                "weights is a usual cause. The last checkpoint is still good"
            )


def _to_device(batch: list[Example], device: torch.device) -> tuple[list[Tensor], list[dict[str, Any]]]:
    targets = []
    for example in batch:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in example.target.items()}
        targets.append(moved)
    return [example.image.to(device) for example in batch], targets


def _floats(losses: dict[str, Tensor]) -> list[float]:
    return torch.stack([x.detach() for x in losses.values()]).tolist()
