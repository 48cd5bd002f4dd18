"""Fine-tuning the whole network for classification: the fine-grained protocol of the CVSA paper."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ssl_loc.config import CfgNode
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions
from ssl_loc.evaluation.finetune_data import validation_parts
from ssl_loc.evaluation.finetune_model import trainable_trunk
from ssl_loc.evaluation.finetune_run import Recipe, RunOutcome, fine_tune
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, UserError, check_choice

logger = logging.getLogger(__name__)
FREEZE = ("none", "trunk")
SCHEDULES = ("cosine", "step")
AMP = ("", "bf16", "fp16")


@EVALUATOR_REGISTRY.register(name="finetune")
class FineTune:
    """Top-1 after fine-tuning trunk and a new linear layer; the learning rate is chosen on a part of the training set.

    The CVSA paper (BMVC 2022) reports top-1 under fine-tuning on the standard splits and leaves the details to an
    appendix that is not public; what it does not state is OpenMixup's recipe for CUB and common practice.
    """

    version = "1"
    seeded = True

    def __init__(
        self,
        lrs: Sequence[float] = (0.001, 0.003, 0.01, 0.03, 0.1),
        recipe: Recipe | None = None,
        val_share: float = 0.1,
        grid_epochs: int = 0,
        grid_seed: int = 0,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        self.recipe, self.lrs = recipe or Recipe(), sorted(float(lr) for lr in lrs)
        self.val_share, self.grid_epochs, self.grid_seed, self.seed = val_share, grid_epochs, grid_seed, seed
        self.features = features or FeatureOptions()
        _check(self.recipe, self.lrs, val_share, grid_epochs)

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        node.EPOCHS = 200
        # Images per step; the remainder of each epoch is left out. OpenMixup trains 4 GPUs x 16.
        node.BATCH = 64
        # Learning rates tried; VAL_SHARE of the training images (of each class) chooses, never the test images. One
        # value skips the choice.
        node.LRS = [0.001, 0.003, 0.01, 0.03, 0.1]
        node.VAL_SHARE = 0.1
        # Epochs of the runs that choose; 0 = EPOCHS.
        node.GRID_EPOCHS = 0
        # Seed of the choice (images kept out, order, new layer). SEED is that of the runs that are reported, so that
        # several seeds share one choice.
        node.GRID_SEED = 0
        # The new linear layer learns this many times as fast as the trunk (10 is common on fine-grained sets).
        node.HEAD_LR = 1.0
        node.MOMENTUM = 0.9
        node.WEIGHT_DECAY = 5e-4
        # "cosine" to zero without restart, or "step": / 10 at these shares of the run.
        node.SCHEDULE = "cosine"
        node.STEPS = [0.6, 0.8]
        # Share of the image area that a training crop takes, after the shorter side was made 256 / 224 of SIZE
        # (OpenMixup, CUB).
        node.SCALE = [0.5, 1.0]
        # "none" trains everything; "trunk" trains the linear layer alone, on augmented images (MoCo's linear protocol).
        node.FREEZE = "none"
        # Epochs at the end that are measured; their median is reported beside the last one (OpenMixup's habit).
        node.LAST = 10
        # "" = float32, or mixed precision "bf16" (GPU, CPU) or "fp16" (GPU).
        node.AMP = ""
        # Steps between checkpoints of an unfinished run (with --out): the same command continues it.
        node.CHECKPOINT_ITERS = 500
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.FINETUNE
        recipe = Recipe(
            size=options.SIZE,
            epochs=o.EPOCHS,
            batch=o.BATCH,
            head_lr=o.HEAD_LR,
            momentum=o.MOMENTUM,
            weight_decay=o.WEIGHT_DECAY,
            schedule=check_choice("FINETUNE.SCHEDULE", o.SCHEDULE, SCHEDULES),
            steps=tuple(o.STEPS),
            scale=tuple(o.SCALE),  # type: ignore[arg-type]  # the crop checks its length
            freeze=check_choice("FINETUNE.FREEZE", o.FREEZE, FREEZE) == "trunk",
            last=o.LAST,
            amp=check_choice("FINETUNE.AMP", o.AMP, AMP),
            checkpoint_iters=o.CHECKPOINT_ITERS,
        )
        return {
            "lrs": o.LRS,
            "recipe": recipe,
            "val_share": o.VAL_SHARE,
            "grid_epochs": o.GRID_EPOCHS,
            "grid_seed": o.GRID_SEED,
            "seed": options.SEED,
            "features": FeatureOptions.from_options(options),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()
        if self.recipe.amp == "fp16" and weights.device.type == "cpu":
            raise ConfigError("FINETUNE.AMP is 'fp16' on the CPU, where gradients vanish; use bf16 or ''")

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with class labels, and as many training images as a batch."""
        train, _ = data.labelled_splits()
        data.shared_images()
        if len(self.lrs) > 1:
            train, _ = validation_parts(train, self.val_share, self.grid_seed)
        if len(train) < self.recipe.batch:
            raise ConfigError(
                f"FINETUNE.BATCH is {self.recipe.batch}, but {train.name} has only {len(train)} images; lower it"
            )

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, test = data.labelled_splits()
        recipe = replace(self.recipe, size=self.features.input_size(weights))
        work = str(Path(data.work) / "finetune") if data.work else ""
        grid = self.grid(weights, train, recipe, work)
        lr = self.choose(grid)
        title = f"fine-tune {weights.label}, lr {lr:g}"
        run = fine_tune(
            trainable_trunk(weights),
            train,
            test,
            lr,
            recipe,
            seed=self.seed,
            options=self.features,
            work=work,
            title=title,
        )
        if run.diverged:
            raise UserError(
                f"{title}: the loss became infinite or NaN; expected a rate that trains. Lower FINETUNE.LRS, or "
                "FINETUNE.HEAD_LR"
            )
        metrics = {"top1": run.final, f"top1_median_last_{len(run.accuracy)}": run.median}
        details = self.describe(run, grid, train, test, recipe)
        details["test_images_trained_on"] = data.shared_images()
        return Result("finetune", self.version, metrics, self.seed, details=details)

    def grid(self, weights: Weights, train: LabelledSplit, recipe: Recipe, work: str) -> list[RunOutcome]:
        """One run per learning rate, measured on images of the training set that none of them trains on."""
        if len(self.lrs) == 1:
            return []
        key = ("finetune grid", train.name, len(train), recipe, self.val_share, self.grid_epochs, *self.lrs)
        if key not in weights.cache:
            part, val = validation_parts(train, self.val_share, self.grid_seed)
            recipe = replace(recipe, epochs=self.grid_epochs or recipe.epochs)
            weights.cache[key] = [
                fine_tune(
                    trainable_trunk(weights),
                    part,
                    val,
                    lr,
                    recipe,
                    seed=self.grid_seed,
                    options=self.features,
                    work=work,
                    title=f"choosing lr of {weights.label}: {lr:g} ({i} of {len(self.lrs)})",
                )
                for i, lr in enumerate(self.lrs, 1)
            ]
        found: list[RunOutcome] = weights.cache[key]
        return found

    def choose(self, grid: Sequence[RunOutcome]) -> float:
        """The rate with the best median of the last epochs on the validation images; of equal ones the lowest."""
        if not grid:
            return self.lrs[0]
        if all(run.diverged for run in grid):
            raise UserError(f"every rate of FINETUNE.LRS {self.lrs} diverged; lower them, or FINETUNE.HEAD_LR")
        best = max(grid, key=lambda run: (run.median, -run.lr))
        if best.lr in (self.lrs[0], self.lrs[-1]):
            logger.warning("the chosen learning rate %g is at the edge of FINETUNE.LRS; widen the grid", best.lr)
        return best.lr

    def describe(
        self, run: RunOutcome, grid: Sequence[RunOutcome], train: LabelledSplit, test: LabelledSplit, recipe: Recipe
    ) -> dict[str, Any]:
        """Plain values for the json and its report."""
        counts = torch.bincount(test.labels(), minlength=len(train.classes))
        return {
            "lr": run.lr,
            "lr_grid_validation_median": {f"{r.lr:g}": None if r.diverged else r.median for r in grid},
            "accuracy_last_epochs": run.accuracy,
            "train_loss": run.loss,
            "network_digest": run.digest,
            "train_images": len(train),
            "test_images": len(test),
            "classes": len(train.classes),
            "chance": 100.0 * float(counts.max()) / max(1, len(test)),
            "input_size": recipe.size,
            "epochs": recipe.epochs,
            "grid_epochs": self.grid_epochs or recipe.epochs,
            "val_share": self.val_share,
            "batch": recipe.batch,
            "weight_decay": recipe.weight_decay,
            "head_lr": recipe.head_lr,
            "schedule": recipe.schedule,
            "freeze": "trunk" if recipe.freeze else "none",
            "amp": recipe.amp,
        }


def _check(recipe: Recipe, lrs: Sequence[float], val_share: float, grid_epochs: int) -> None:
    if not lrs or lrs[0] <= 0:
        raise ConfigError(f"FINETUNE.LRS is {list(lrs)}; expected at least one positive learning rate")
    if not 0 < val_share < 1:
        raise ConfigError(
            f"FINETUNE.VAL_SHARE is {val_share}; expected a share of the training images, above 0, below 1"
        )
    least = {"EPOCHS": (recipe.epochs, 1), "LAST": (recipe.last, 1), "GRID_EPOCHS": (grid_epochs, 0)}
    # One image gives BatchNorm no variance.
    least |= {"BATCH": (recipe.batch, 2), "CHECKPOINT_ITERS": (recipe.checkpoint_iters, 1)}
    for key, (value, low) in least.items():
        if value < low:
            raise ConfigError(f"FINETUNE.{key} is {value}; expected {low} or more")
    if recipe.head_lr <= 0 or recipe.weight_decay < 0:
        raise ConfigError(
            f"FINETUNE.HEAD_LR is {recipe.head_lr} and FINETUNE.WEIGHT_DECAY {recipe.weight_decay}; expected a "
            "positive factor and 0 or more"
        )
    if recipe.schedule == "step" and not all(0 < share < 1 for share in recipe.steps):
        raise ConfigError(f"FINETUNE.STEPS is {list(recipe.steps)}; expected shares of the run between 0 and 1")
