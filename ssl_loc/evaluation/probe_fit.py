"""Linear layers from one split to another: choice of the learning rate, features stored or of augmented images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.evaluation.augmented_feed import AugmentedFeed
from ssl_loc.evaluation.features import FeatureOptions, extract, state_digest
from ssl_loc.evaluation.probe import Feed, ProbeBank, ProbeRun, Recipe, Scale, ScoredRows, StoredFeed, run_probes
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)

# Share of each class's training images (at least one) that chooses among several learning rates.
HELD_OUT = 0.2


def held_out(y: Tensor, seed: int, share: float = HELD_OUT) -> Tensor:
    """Boolean (N,): the part of each class kept out to choose the learning rate. A class of one image keeps it."""
    mask = torch.zeros(len(y), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for label in y.unique():
        rows = (y == label).nonzero()[:, 0]
        if len(rows) > 1:
            rows = rows[torch.randperm(len(rows), generator=generator)]
            mask[rows[: max(1, round(share * len(rows)))]] = True
    return mask


def usable(runs: Sequence[ProbeRun], key: str) -> list[int]:
    """Positions of the learning rates whose layers are finite in every run; the others are named in a warning.

    Raises:
        ConfigError: there is none.
    """
    lrs = runs[-1].lrs
    fine = [i for i in range(len(lrs)) if not any(run.diverged(i) for run in runs)]
    lost = ", ".join(f"{lr:g}" for i, lr in enumerate(lrs) if i not in fine)
    if not fine:
        raise ConfigError(f"every learning rate of {key} diverged ({lost}: the layer is not finite); use smaller ones")
    if lost:
        logger.warning("learning rates of %s that diverged take no part in the choice: %s", key, lost)
    return fine


@dataclass(frozen=True)
class ProbeFit:
    """What is trained on what.

    Attributes:
        weights: the frozen trunk; compared byte for byte before and after.
        train, val: splits with one numbering of the classes; val is looked at only to report.
        features: size, batches and cache; its pooling is not used.
        pools: one bank of layers per pooling; the last one's accuracy chooses the learning rate.
        lrs: learning rates, all trained at once. Of several, a stratified part of train chooses.
        recipe: how layers are trained.
        augment: train on random crops of every epoch, in place of the features of the test transform.
        standardize: scale features to mean 0 and variance 1 by those of train under the test transform.
        norm: a norm without weights in front of every layer.
        seed: of initial weights, order, crops and the part that chooses.
    """

    weights: Weights
    train: LabelledSplit
    val: LabelledSplit
    features: FeatureOptions
    pools: Sequence[str]
    lrs: Sequence[float]
    recipe: Recipe
    augment: bool = False
    standardize: bool = False
    norm: bool = False
    seed: int = 0

    def run(self, key: str) -> tuple[list[ProbeRun], int]:
        """One run per pooling, and the position of the chosen learning rate. ``key`` names the option of the rates."""
        before = state_digest(self.weights.trunk().backbone)
        tests = extract(self.weights, self.val, self.features, self.pools)
        y = self.train.labels()
        out = held_out(y, self.seed)
        choose = len(self.lrs) > 1 and bool(out.any())
        stored = not self.augment or self.standardize or choose
        xs = extract(self.weights, self.train, self.features, self.pools) if stored else []
        order = list(range(len(self.lrs)))
        if choose:
            trial = self._train(
                xs, (~out).nonzero()[:, 0], ScoredRows(xs, y, out.nonzero()[:, 0]), "choice of the rate"
            )
            fine = usable(trial, key)
            order = sorted(fine, key=lambda i: -float(trial[-1].accuracy[-1, i]))
        test = ScoredRows(tests, self.val.labels(), torch.arange(len(self.val)))
        runs = self._train(xs, torch.arange(len(y)), test, "linear layers")
        assert state_digest(self.weights.trunk().backbone) == before, (
            "the frozen trunk changed while layers were trained"
        )
        fine = usable(runs, key)
        chosen = next((i for i in order if i in fine), fine[0])
        if choose and chosen in (0, len(self.lrs) - 1):
            logger.warning("the chosen learning rate %g is at the edge of %s; widen the grid", self.lrs[chosen], key)
        for run in runs:
            if run.worse_than_guess(chosen):
                logger.warning(
                    "%s %g ended with a training loss of %.3g, above that of a blind guess: the rate is too large",
                    *(key, self.lrs[chosen], run.losses[chosen]),
                )
        return runs, chosen

    def _train(self, xs: Sequence[Tensor], rows: Tensor, test: ScoredRows, title: str) -> list[ProbeRun]:
        generator = torch.Generator().manual_seed(self.seed)
        classes = len(self.train.classes)
        scales = [Scale(x) for x in xs] if self.standardize else [None] * len(self.pools)
        banks = [
            ProbeBank(x.shape[1], classes, self.lrs, generator, self.recipe, scale, self.norm, self.weights.device)
            for x, scale in zip(test.features, scales, strict=True)
        ]
        return run_probes(banks, self._feed(xs, rows, generator), test, self.lrs, self.recipe, title)

    def _feed(self, xs: Sequence[Tensor], rows: Tensor, generator: torch.Generator) -> Feed:
        if not self.augment:
            return StoredFeed(xs, self.train.labels(), rows, self.recipe.batch, generator)
        part = LabelledSplit(
            self.train.name, self.train.records.select(rows.numpy()), self.train.classes, self.train.label_map
        )
        size = self.features.input_size(self.weights)
        trunk = self.weights.trunk()
        return AugmentedFeed(trunk, part, self.pools, size, self.recipe.batch, self.seed, self.features)

    def details(self) -> dict[str, Any]:
        """What a result says about the training and its data."""
        labels = self.val.labels()
        counts = torch.bincount(labels, minlength=len(self.train.classes))
        return {
            **self.recipe.plain(),
            "augment": self.augment,
            "standardize": self.standardize,
            "train_images": len(self.train),
            "val_images": len(self.val),
            "classes": len(self.train.classes),
            "chance": 100.0 * float(counts.max()) / max(1, len(labels)),
            "input_size": self.features.input_size(self.weights),
        }
