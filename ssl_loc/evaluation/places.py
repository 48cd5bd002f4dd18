"""Places-205 linear classification (DiLo Table 6): scenes from features that were trained to look at objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions
from ssl_loc.evaluation.linear import CROP, NONE
from ssl_loc.evaluation.probe import Recipe
from ssl_loc.evaluation.probe_fit import ProbeFit
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, WeightsError, check_choice

# Cells per level that give about 9k numbers each of a ResNet-50 (Goyal et al. 2019, "Scaling and Benchmarking"):
# 256 x 6 x 6, 512 x 4 x 4, 1024 x 3 x 3, 2048 x 2 x 2.
MULTI_POOLS = ("res2:6", "res3:4", "res4:3", "res5:2")
GAP_POOLS = ("gap",)
# The schedule that is widely used for this benchmark; the DiLo paper does not state its own.
EPOCHS, DECAY_EPOCHS, LR, WEIGHT_DECAY = 28, (7, 14, 21), 0.01, 1e-4


@EVALUATOR_REGISTRY.register(name="places")
class Places:
    """Top-1 of linear layers on frozen features by the Places-205 schedule; one layer, or one per level."""

    version = "1"

    def __init__(
        self,
        head: str = "gap",
        lrs: Sequence[float] = (LR,),
        recipe: Recipe | None = None,
        augment: str = NONE,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        check_choice("PLACES.HEAD", head, ("gap", "multi"))
        check_choice("PLACES.AUGMENT", augment, (NONE, CROP))
        if not lrs or min(lrs) <= 0:
            raise ConfigError(f"PLACES.LRS is {list(lrs)}; expected at least one positive learning rate")
        self.head, self.lrs, self.augment, self.seed = head, list(lrs), augment, seed
        self.recipe = recipe or places_recipe()
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # "gap": one layer on the pooled vector. "multi": one per level, on maps pooled to about 9k numbers, each behind
        # a norm without weights (the multi-head variant of OpenMixup); the reported top-1 is that of the last level.
        node.HEAD = "gap"
        # Learning rates; of several, a stratified fifth of the training images chooses.
        node.LRS = [LR]
        # SGD with Nesterov momentum .9, lr / 10 after each quarter: 7, 14 and 21 of 28 epochs.
        node.EPOCHS = EPOCHS
        node.BATCH = 256
        node.WEIGHT_DECAY = WEIGHT_DECAY
        # "none": features of the test transform, taken once. "crop": random crops and mirroring in every epoch.
        node.AUGMENT = NONE
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.PLACES
        return {
            "head": o.HEAD,
            "lrs": o.LRS,
            "recipe": places_recipe(o.EPOCHS, o.BATCH, o.WEIGHT_DECAY),
            "augment": o.AUGMENT,
            "seed": options.SEED,
            "features": FeatureOptions.from_options(options),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk; HEAD multi needs one with all levels."""
        weights.require_trunk()
        if self.head == "multi":
            there = weights.trunk().backbone.channels
            absent = [pool[:4] for pool in MULTI_POOLS if pool[:4] not in there]
            if absent:
                raise WeightsError(
                    f"{weights.path} has a trunk without {', '.join(absent)}; PLACES.HEAD multi needs res2 to res5: "
                    "use PLACES.HEAD gap"
                )

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with class labels."""
        data.labelled_splits()
        data.shared_images()

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, val = data.labelled_splits()
        pools = MULTI_POOLS if self.head == "multi" else GAP_POOLS
        fit = ProbeFit(
            *(weights, train, val, self.features, pools, self.lrs, self.recipe),
            augment=self.augment == CROP,
            norm=self.head == "multi",
            seed=self.seed,
        )
        runs, chosen = fit.run("PLACES.LRS")
        last = runs[-1]
        metrics = {"top1": last.last(chosen), "top1_best_epoch": last.best(chosen)}
        if self.head == "multi":
            metrics |= {f"top1_{pool.split(':')[0]}": run.last(chosen) for pool, run in zip(pools, runs, strict=True)}
        details = {
            **fit.details(),
            "test_images_trained_on": data.shared_images(),
            "head": self.head,
            "lr": self.lrs[chosen],
            "best_epoch": last.best_epoch(chosen),
            "lr_grid_last_best": {pool: run.grid() for pool, run in zip(pools, runs, strict=True)},
        }
        return Result("places", self.version, metrics, seed=self.seed, details=details)


def places_recipe(epochs: int = EPOCHS, batch: int = 256, weight_decay: float = WEIGHT_DECAY) -> Recipe:
    """The schedule with another number of epochs keeps the shares at which the rate falls."""
    steps = tuple(epoch / EPOCHS for epoch in DECAY_EPOCHS)
    return Recipe(epochs, batch, nesterov=True, weight_decay=weight_decay, steps=steps)
