"""Linear classification on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData, LabelledSplit
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.linear_head import LinearHead, fit_linear, head_path, write_head
from ssl_loc.evaluation.probe import INIT_STD, ProbeRun, Recipe, standardize, train_probes
from ssl_loc.evaluation.probe_fit import ProbeFit, held_out
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, check_choice

__all__ = ["INIT_STD", "LinearProbe", "ProbeRun", "held_out", "standardize", "train_probes"]

# The choices of AUGMENT.
NONE, CROP = "none", "crop"


@EVALUATOR_REGISTRY.register(name="linear")
class LinearProbe:
    """Top-1 of a linear layer on frozen, pooled features: SGD as in MoCo's protocol, or L-BFGS (scikit-learn)."""

    version = "1"

    def __init__(
        self,
        solver: str = "sgd",
        lrs: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0, 30.0),
        recipe: Recipe | None = None,
        augment: str = NONE,
        c: float = 1.0,
        standardize_features: bool = True,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        check_choice("LINEAR.SOLVER", solver, ("sgd", "lbfgs"))
        check_choice("LINEAR.AUGMENT", augment, (NONE, CROP))
        if solver == "lbfgs" and augment != NONE:
            raise ConfigError(
                f"LINEAR.SOLVER is lbfgs, which needs all features at once; LINEAR.AUGMENT {augment} is sgd's"
            )
        if not lrs or min(lrs) <= 0:
            raise ConfigError(f"LINEAR.LRS is {list(lrs)}; expected at least one positive learning rate")
        self.seeded = solver == "sgd"
        self.solver, self.lrs, self.recipe, self.augment = solver, list(lrs), recipe or Recipe(), augment
        self.c, self.standardize, self.seed = c, standardize_features, seed
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # "sgd": momentum .9, lr / 10 at 60 % and 80 % (MoCo paper, section 4.1). "lbfgs": scikit-learn's multinomial
        # logistic regression, to convergence.
        node.SOLVER = "sgd"
        # Learning rates tried in one pass; a stratified fifth of the training images chooses, never the val images.
        # One value skips the choice (the papers' protocol is [30.0] without STANDARDIZE, for trunks on ImageNet-1k).
        node.LRS = [0.03, 0.1, 0.3, 1.0, 3.0, 30.0]
        node.EPOCHS = 100
        node.BATCH = 256
        node.WEIGHT_DECAY = 0.0
        node.MOMENTUM = 0.9
        # The learning rate is multiplied by GAMMA at each of these shares of the epochs.
        node.STEPS = [0.6, 0.8]
        node.GAMMA = 0.1
        # "none": features of the test transform, taken once. "crop": random resized crops (8 to 100 % of the area) and
        # mirroring, through the trunk anew in every epoch (the papers' protocol; needs a GPU for large sets).
        node.AUGMENT = NONE
        # Inverse L2 strength of "lbfgs".
        node.C = 1.0
        # Scale every feature to zero mean and unit variance first: feature scales differ by orders between methods.
        node.STANDARDIZE = True
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.LINEAR
        return {
            "solver": o.SOLVER,
            "lrs": o.LRS,
            "recipe": Recipe(
                o.EPOCHS, o.BATCH, o.MOMENTUM, weight_decay=o.WEIGHT_DECAY, steps=tuple(o.STEPS), gamma=o.GAMMA
            ),
            "augment": o.AUGMENT,
            "c": o.C,
            "standardize_features": o.STANDARDIZE,
            "seed": options.SEED,
            "features": FeatureOptions.from_options(options),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with class labels."""
        data.labelled_splits()
        data.shared_images()

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, val = data.labelled_splits()
        fit = ProbeFit(
            *(weights, train, val, self.features, ["gap"], self.lrs, self.recipe),
            augment=self.augment == CROP,
            standardize=self.standardize,
            seed=self.seed,
        )
        if self.solver == "lbfgs":
            metrics, details, layer = self._lbfgs(weights, train, val)
        else:
            (run,), chosen = fit.run("LINEAR.LRS")
            metrics = {"top1": run.last(chosen), "top1_best_epoch": run.best(chosen)}
            details = {
                "lr": self.lrs[chosen],
                "best_epoch": run.best_epoch(chosen),
                "train_loss": run.losses[chosen],
                "lr_grid_last_best": run.grid(),
                "seed": self.seed,
            }
            layer = LinearHead(*run.layers[chosen])
        if data.out:
            file = head_path(data.out, weights.label, self.seed)
            write_head(file, replace(layer, classes=tuple(train.classes)), weights)
            details["head"] = str(file)
        shared = {"test_images_trained_on": data.shared_images()}
        details = {**fit.details(), **shared, **details, "solver": self.solver}
        return Result("linear", self.version, metrics, seed=self.seed, details=details)

    def _lbfgs(
        self, weights: Weights, train: LabelledSplit, val: LabelledSplit
    ) -> tuple[dict[str, float], dict[str, Any], LinearHead]:
        x, y = extract_split(weights, train, self.features)
        xt, yt = extract_split(weights, val, self.features)
        layer, iterations = fit_linear(x, y, len(train.classes), self.c, self.standardize)
        top1 = 100.0 * float((layer(xt).argmax(1) == yt).double().mean())
        return {"top1": top1}, {"C": self.c, "iterations": iterations}, layer
