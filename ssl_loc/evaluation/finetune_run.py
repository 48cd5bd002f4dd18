"""One fine-tuning: the engine's loop over one training split, with accuracies of its last epochs."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from tqdm import tqdm

from ssl_loc import __version__
from ssl_loc.checkpoint import Checkpointer, load_checkpoint
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.engine.guard import Guard, NonFiniteLossError
from ssl_loc.engine.hooks import LearningRate, PeriodicCheckpoint, check_weights
from ssl_loc.engine.signals import RunStopped, StopRequest
from ssl_loc.engine.state import RunState
from ssl_loc.engine.step import TrainStep
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.evaluation.features import FeatureOptions, images_digest, state_digest
from ssl_loc.evaluation.finetune_data import accuracy, train_loader, train_pipeline
from ssl_loc.evaluation.finetune_model import Classifier
from ssl_loc.evaluation.weights import Trunk
from ssl_loc.solver.schedules import Schedule, step_shape
from ssl_loc.utils.file_io import read_json, write_json
from ssl_loc.utils.logger import PROGRESS
from ssl_loc.utils.progress import progress_bar

if TYPE_CHECKING:
    from ssl_loc.engine.model import TrainingModel

logger = logging.getLogger(__name__)
RESULT = "result.json"
# Accuracy that is reported of a run whose loss became NaN or infinite: worse than any other.
DIVERGED = -1.0


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; see ``FINETUNE`` in finetune.py for what each value means."""

    size: int = 224
    epochs: int = 200
    batch: int = 64
    head_lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    steps: tuple[float, ...] = (0.6, 0.8)
    scale: tuple[float, float] = (0.5, 1.0)
    freeze: bool = False
    last: int = 10
    amp: str = ""
    checkpoint_iters: int = 500

    def shape(self) -> Callable[[float], float]:
        """Progress in [0, 1) -> factor of the learning rate."""
        return CosineParamScheduler(1.0, 0.0) if self.schedule == "cosine" else step_shape(self.steps, 0.1)


@dataclass
class RunOutcome:
    """What a fine-tuning gave.

    Attributes:
        lr: its learning rate.
        accuracy: top-1 in percent after each of the last epochs; [DIVERGED] where the loss was not finite.
        loss: mean training loss of every epoch.
        digest: of the trained network, trunk and head.
    """

    lr: float
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    digest: str = ""

    @property
    def final(self) -> float:
        return self.accuracy[-1]

    @property
    def median(self) -> float:
        """Of the last epochs: one lucky epoch changes nothing."""
        return float(median(self.accuracy))

    @property
    def diverged(self) -> bool:
        return self.final == DIVERGED


class EpochEnd(Hook):
    """Keeps each epoch's mean loss, measures the last epochs, shows progress.

    What it found so far travels in the checkpoint (``meta``), so a continued run ends with the same lists.
    """

    def __init__(
        self, meta: dict[str, Any], per_epoch: int, epochs: int, last: int, measure: Callable[[], float], title: str
    ) -> None:
        self.meta, self.per_epoch, self.first = meta, per_epoch, max(0, epochs - last)
        self.measure, self.title, self.epochs = measure, title, epochs
        self._bar: tqdm | None = None

    def before_train(self, loop: TrainLoop) -> None:
        self._bar = progress_bar(total=loop.max_iter, initial=loop.iteration, desc=self.title, unit="it")

    def after_step(self, loop: TrainLoop) -> None:
        assert loop.result is not None and self._bar is not None
        self._bar.update()
        # On the device: reading it at every step would make a GPU wait.
        self.meta["loss_sum"] = self.meta["loss_sum"] + loop.result.loss.double()
        done = loop.iteration + 1
        if done % self.per_epoch:
            return
        # A gradient can break while every loss is still finite.
        check_weights(loop.step.model, done, None)
        epoch = done // self.per_epoch
        self.meta["loss"].append(float(self.meta["loss_sum"]) / self.per_epoch)
        self.meta["loss_sum"] = torch.zeros_like(self.meta["loss_sum"])
        said = f"loss {self.meta['loss'][-1]:.4g}"
        if epoch > self.first:
            self.meta["accuracy"].append(self.measure())
            said += f", top-1 {self.meta['accuracy'][-1]:.2f} %"
        self._bar.set_postfix_str(said)
        logger.info("%s: epoch %d of %d, %s", self.title, epoch, self.epochs, said, extra=PROGRESS)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def fine_tune(
    trunk: Trunk,
    train: LabelledSplit,
    test: LabelledSplit,
    lr: float,
    recipe: Recipe,
    *,
    seed: int = 0,
    options: FeatureOptions | None = None,
    work: str = "",
    title: str = "fine-tune",
) -> RunOutcome:
    """Train ``trunk`` (in place) and a new linear layer on ``train``; ``test`` is only looked at.

    Args:
        options: workers and batch size for reading and measuring.
        work: folder in which unfinished runs are kept and finished ones remembered; "" keeps nothing.
        title: of the progress bar.

    Raises:
        RunStopped: a signal arrived; with ``work`` the same call continues.
        DataError: an image cannot be read, or there are fewer than one batch.
    """
    options = options or FeatureOptions()
    with ExitStack() as stack:
        if work:
            folder = Path(work) / run_key(trunk, train, test, lr, recipe, seed)
            if (folder / RESULT).is_file():
                logger.info("%s: done before (%s)", title, folder)
                return RunOutcome(**read_json(folder / RESULT))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune_")))
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(seed)
        stop = stack.enter_context(StopRequest())
        model = Classifier(trunk, len(train.classes), seed, recipe.freeze)
        before = state_digest(model.backbone)
        run = _Run(model, lr, recipe, seed, title)
        run.train(train, lambda: accuracy(model, test, recipe.size, options), options, stop, folder, bool(work))
        if recipe.freeze:
            assert state_digest(model.backbone) == before, "the frozen trunk changed while its head was trained"
        outcome = RunOutcome(lr, run.found["accuracy"], run.found["loss"], state_digest(model))
        if work:
            write_json(folder / RESULT, asdict(outcome))
            shutil.rmtree(Checkpointer(folder).folder, ignore_errors=True)
        if stop.signal:  # it came while the last epoch was measured
            raise RunStopped(stop.signal, f" after {title}")
    return outcome


class _Run:
    """Model, optimiser and what was found so far (``found``: the lists of :class:`RunOutcome`)."""

    def __init__(self, model: Classifier, lr: float, recipe: Recipe, seed: int, title: str) -> None:
        self.lr, self.recipe, self.seed, self.title = lr, recipe, seed, title
        device = model.head.weight.device
        groups = model.groups(recipe.weight_decay, recipe.head_lr)
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum, foreach=False, fused=True)
        # It asks of its model what Classifier has: a Forward, parameters, after_step.
        self.step = TrainStep(cast("TrainingModel", model), optimizer, device, amp_dtype=recipe.amp or None)
        self.found: dict[str, Any] = {"accuracy": [], "loss": [], "loss_sum": torch.zeros((), device=device).double()}
        self.state = RunState(self.step, {}, self.found)

    def restore(self, last: Path | None) -> int:
        """Steps made before, 0 without a checkpoint."""
        if last is None:
            return 0
        checkpoint = load_checkpoint(last)
        self.state.restore(checkpoint, str(last))
        self.found.update(checkpoint["meta"])
        self.found["loss_sum"] = self.found["loss_sum"].to(self.step.device)
        done: int = checkpoint["iteration"]
        logger.info("%s: continuing after %d iterations (%s)", self.title, done, last)
        return done

    def train(
        self,
        split: LabelledSplit,
        measure: Callable[[], float],
        options: FeatureOptions,
        stop: StopRequest,
        folder: Path,
        keep: bool,
    ) -> None:
        """Run the loop from where it was left; "accuracy" becomes [DIVERGED] where a loss was not finite.

        Args:
            folder: for the list of files of a broken batch, and for checkpoints if ``keep``.
        """
        recipe = self.recipe
        start = self.restore(Checkpointer(folder).last())
        loader = train_loader(split, train_pipeline(recipe.size, recipe.scale), recipe.batch, self.seed, start, options)
        per_epoch = loader.batches_per_epoch
        schedule = Schedule(self.lr, recipe.shape(), recipe.epochs * per_epoch)
        hooks: list[Hook] = [
            LearningRate(schedule),
            Guard(stop, folder, recipe.checkpoint_iters),
            EpochEnd(self.found, per_epoch, recipe.epochs, recipe.last, measure, self.title),
        ]
        if keep:
            hooks.append(PeriodicCheckpoint(Checkpointer(folder, keep=1), self.state, recipe.checkpoint_iters))
        loop = TrainLoop(self.step, iter(loader), hooks, schedule.max_iter, start)
        self.step.model.train()
        try:
            loop.train()
        except NonFiniteLossError:  # its own text speaks of the keys of pretraining
            said = "%s diverged: its loss or a weight became infinite or NaN within %d of %d steps"
            logger.warning(said, self.title, loop.iteration + 1, loop.max_iter)
            self.found["accuracy"] = [DIVERGED]
        if loop.stopped_by:
            raise RunStopped(loop.stopped_by, f" ({self.title})" + "; the same command continues" * keep)


def run_key(trunk: Trunk, train: LabelledSplit, test: LabelledSplit, lr: float, recipe: Recipe, seed: int) -> str:
    """Name of a run's folder: a digest of everything its numbers depend on."""
    facts = {
        "trunk": state_digest(trunk.backbone),
        "pixel": [trunk.mean.flatten().tolist(), trunk.std.flatten().tolist()],
        "data": [_split_digest(split) for split in (train, test)],
        "recipe": {k: v for k, v in asdict(recipe).items() if k != "checkpoint_iters"},
        "run": [lr, seed],
        # Other kernels round otherwise, and other versions may compute otherwise.
        "made by": [__version__, torch.__version__, device_name(trunk.mean.device)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def device_name(device: torch.device) -> str:
    """ "cpu", or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _split_digest(split: LabelledSplit) -> list[str]:
    labels = hashlib.sha256(split.labels().numpy().tobytes()).hexdigest()
    return [images_digest(split.records), labels, *split.classes]
