"""The fine-tuning loop."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ssl_loc.transfer.detector_file import FINAL
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.torchvision_engine.checkpoint import save_detector
from ssl_loc.transfer.torchvision_engine.loader import training_loader
from ssl_loc.transfer.torchvision_engine.mapper import Example
from ssl_loc.transfer.torchvision_engine.model import Detector
from ssl_loc.transfer.torchvision_engine.precise_bn import average_statistics, precise_bn
from ssl_loc.transfer.torchvision_engine.solver import clip_gradients, learning_rate, set_learning_rate
from ssl_loc.utils.comm import get_rank, is_distributed, is_main_process
from ssl_loc.utils.errors import UserError
from ssl_loc.utils.logger import PROGRESS
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)

# The logged numbers are medians over this many iterations (detectron2's window).
_WINDOW = 20


class Trainer:
    """Runs iterations ``start`` .. MAX_ITER of a recipe.

    Args:
        model: on its device, in training mode.
        records: training records.
        start: completed iterations (a resumed run).
        about: plain values that go into every checkpoint.
        evaluate: called with the completed iterations every TEST.EVAL_PERIOD; returns numbers for the log.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Detector,
        optimizer: torch.optim.Optimizer,
        records: list[dict[str, Any]],
        output_dir: Path,
        start: int = 0,
        about: dict[str, Any] | None = None,
        evaluate: Callable[[int], dict[str, float]] | None = None,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.optimizer = optimizer
        self.records = records
        self.output_dir = output_dir
        self.start = start
        self.about = about or {}
        self.evaluate = evaluate
        self.amp = recipe.SOLVER.AMP.ENABLED and model.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.recent: deque[dict[str, float]] = deque(maxlen=_WINDOW)
        self.wrapped: torch.nn.Module = _distribute(model)

    def train(self) -> None:
        """Train to the end; writes metrics.jsonl, checkpoints and model_final.pth."""
        solver = self.recipe.SOLVER
        batches = training_loader(self.recipe, self.records, self.start)
        bar = progress_bar(
            total=solver.MAX_ITER, initial=self.start, desc="fine-tuning", unit="it", show=is_main_process()
        )
        began = time.perf_counter()
        for iteration in range(self.start, solver.MAX_ITER):
            self.recent.append(self.step(iteration, next(batches)))
            done = iteration + 1
            bar.update()
            numbers = self._evaluate(done)
            if numbers or done % self.recipe.TRANSFER.LOG_PERIOD == 0 or done == solver.MAX_ITER:
                self._log(iteration, bar, (time.perf_counter() - began) / (done - self.start), numbers)
            if solver.CHECKPOINT_PERIOD > 0 and done % solver.CHECKPOINT_PERIOD == 0 and done < solver.MAX_ITER:
                self._save(f"model_{iteration:07d}.pth", done)
        bar.close()
        self.finish_statistics()
        self._save(FINAL, solver.MAX_ITER)

    def step(self, iteration: int, batch: list[Example]) -> dict[str, float]:
        """One optimiser step; returns the losses and their sum."""
        rate = learning_rate(self.recipe, iteration)
        set_learning_rate(self.optimizer, rate)
        # Anchor and RoI sampling draw from torch's generator: a function of (seed, iteration, process), so that a
        # resumed run draws what the uninterrupted one would have drawn.
        torch.manual_seed(hash((self.recipe.SEED, iteration, get_rank())) & 0x7FFFFFFF)
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

    def finish_statistics(self) -> None:
        """PreciseBN over training batches if the recipe asks for it, then one set of statistics for all processes."""
        node = self.recipe.TEST.PRECISE_BN
        if node.ENABLED:
            batches = training_loader(self.recipe, self.records)
            layers = precise_bn(self.model, lambda: self._forward(batches), node.NUM_ITER)
            logger.info("PreciseBN: %d layers over %d batches", layers, node.NUM_ITER)
        average_statistics(self.model)

    def _forward(self, batches: Iterator[list[Example]]) -> None:
        self.model(*_to_device(next(batches), self.model.device))

    def _evaluate(self, done: int) -> dict[str, float]:
        """Evaluate in the middle of training with precise statistics, then go on with the running ones."""
        period = self.recipe.TEST.EVAL_PERIOD
        if self.evaluate is None or period <= 0 or done % period or done >= self.recipe.SOLVER.MAX_ITER:
            return {}
        saved = {k: v.clone() for k, v in self.model.state_dict().items() if "running_" in k or "num_batches" in k}
        self.finish_statistics()
        numbers = self.evaluate(done)
        self.model.load_state_dict(saved, strict=False)
        return numbers

    def _save(self, name: str, iteration: int) -> None:
        if is_main_process():
            save_detector(self.output_dir, name, self.model, self.optimizer, iteration, self.about)

    def _log(self, iteration: int, bar: tqdm, seconds: float, numbers: dict[str, float]) -> None:
        if not is_main_process():
            return
        median = {k: float(torch.tensor([r[k] for r in self.recent]).median()) for k in self.recent[-1]}
        bar.set_postfix_str(f"loss {median['total_loss']:.3f}")
        parts = "  ".join(f"{k} {v:.4g}" for k, v in median.items())
        remaining = seconds * (self.recipe.SOLVER.MAX_ITER - iteration - 1)
        logger.info("iter %d  %s  %.3f s/it  eta %s", iteration + 1, parts, seconds, _clock(remaining), extra=PROGRESS)
        line = {"iteration": iteration + 1, **median, "seconds_per_iteration": seconds, **numbers}
        with open(self.output_dir / "metrics.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _check_finite(self, values: dict[str, float], iteration: int, rate: float, batch: list[Example]) -> None:
        bad = [name for name, value in values.items() if not abs(value) < float("inf")]
        if bad:
            files = ", ".join(Path(e.record["file_name"]).name for e in batch)
            raise UserError(
                f"{', '.join(bad)} became infinite or NaN at iteration {iteration} (learning rate {rate:.3g}, images "
                f"{files}); lower SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS; FrozenBN with self-supervised "
                "weights is a usual cause. The last checkpoint is still good"
            )


def _distribute(model: Detector) -> torch.nn.Module:
    if not is_distributed():
        return model
    devices = [model.device.index] if model.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def _to_device(batch: list[Example], device: torch.device) -> tuple[list[Tensor], list[dict[str, Any]]]:
    targets = []
    for example in batch:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in example.target.items()}
        targets.append(moved)
    return [example.image.to(device) for example in batch], targets


def _floats(losses: dict[str, Tensor]) -> list[float]:
    return torch.stack([x.detach() for x in losses.values()]).tolist()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
