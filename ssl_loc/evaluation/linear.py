"""Linear classification on frozen features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)

# Schedule of the MoCo and CAST papers: lr / 10 at 60 % and 80 % of the epochs.
DECAY_AT = (0.6, 0.8)
# Initial weights N(0, .01), bias 0 (MoCo code, main_lincls.py).
INIT_STD = 0.01
# Share of each class's training images (at least one) that chooses among several learning rates.
HELD_OUT = 0.2


@dataclass
class ProbeRun:
    """Accuracy in percent of each learning rate (L,) after every epoch, shape (epochs, L)."""

    lrs: list[float]
    accuracy: Tensor

    def last(self, i: int) -> float:
        return float(self.accuracy[-1, i])

    def best(self, i: int) -> float:
        return float(self.accuracy[:, i].max())


def standardize(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Zero mean, unit variance per feature with the statistics of ``train``; constant features become zeros."""
    mean, std = train.mean(0), train.std(0, unbiased=False)
    scale = torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), torch.zeros_like(std))
    return [(x - mean) * scale for x in (train, *others)]


def train_probes(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    classes: int,
    lrs: Sequence[float],
    *,
    epochs: int = 100,
    batch: int = 256,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> ProbeRun:
    """Train one softmax layer per learning rate, all at once on the same batches, by SGD with momentum.

    The layers share nothing but the data: layer i gets exactly the updates it would get alone.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(classes, x.shape[1], generator=generator) * INIT_STD
    weight = start.repeat(len(lrs), 1, 1).requires_grad_()
    bias = torch.zeros(len(lrs), classes, requires_grad=True)
    rate = torch.tensor(list(lrs))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rows = []
    for epoch in progress_bar(range(epochs), desc="linear probe", unit="epoch", show=progress):
        decay = 0.1 ** sum(epoch >= share * epochs for share in DECAY_AT)
        for part in torch.randperm(len(x), generator=generator).split(batch):
            logits = torch.einsum("nd,lcd->lnc", x[part], weight) + bias[:, None]
            loss = F.cross_entropy(logits.flatten(0, 1), y[part].repeat(len(lrs)), reduction="sum") / len(part)
            grads = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for p, v, g in zip((weight, bias), speed, grads, strict=True):
                    v.mul_(momentum).add_(g + weight_decay * p)
                    p.sub_(v * (rate * decay).view(-1, *[1] * (p.dim() - 1)))
        with torch.no_grad():
            guess = (torch.einsum("nd,lcd->lnc", x_test, weight) + bias[:, None]).argmax(2)
            rows.append(100.0 * (guess == y_test).double().mean(1))
    return ProbeRun(list(lrs), torch.stack(rows))


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


@EVALUATOR_REGISTRY.register(name="linear")
class LinearProbe:
    """Top-1 of a linear layer on cached, pooled features: SGD as in MoCo's protocol, or L-BFGS (scikit-learn)."""

    version = "1"

    def __init__(
        self,
        solver: str = "sgd",
        lrs: Sequence[float] = (0.03, 0.1, 0.3, 1.0, 3.0, 30.0),
        epochs: int = 100,
        batch: int = 256,
        weight_decay: float = 0.0,
        c: float = 1.0,
        standardize_features: bool = True,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        if solver not in ("sgd", "lbfgs"):
            raise ConfigError(f"LINEAR.SOLVER is '{solver}'; expected 'sgd' or 'lbfgs'")
        if not lrs or min(lrs) <= 0:
            raise ConfigError(f"LINEAR.LRS is {list(lrs)}; expected at least one positive learning rate")
        self.seeded = solver == "sgd"
        self.solver, self.lrs, self.epochs, self.batch = solver, list(lrs), epochs, batch
        self.weight_decay, self.c, self.standardize, self.seed = weight_decay, c, standardize_features, seed
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # "sgd": momentum .9, lr / 10 at 60 % and 80 % (MoCo paper, section 4.1, on cached features without
        # augmentation). "lbfgs": scikit-learn's multinomial logistic regression, to convergence.
        node.SOLVER = "sgd"
        # Learning rates tried in one pass; a stratified fifth of the training images chooses, never the val images.
        # One value skips the choice (the papers' protocol is [30.0] without STANDARDIZE, for trunks on ImageNet-1k).
        node.LRS = [0.03, 0.1, 0.3, 1.0, 3.0, 30.0]
        node.EPOCHS = 100
        node.BATCH = 256
        node.WEIGHT_DECAY = 0.0
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
            "epochs": o.EPOCHS,
            "batch": o.BATCH,
            "weight_decay": o.WEIGHT_DECAY,
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

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, val = data.labelled_splits()
        x, y = extract_split(weights, train, self.features)
        xt, yt = extract_split(weights, val, self.features)
        if self.standardize:
            x, xt = standardize(x, xt)
        classes = len(train.classes)
        metrics, details = (self._lbfgs if self.solver == "lbfgs" else self._sgd)(x, y, xt, yt, classes)
        details |= {
            "solver": self.solver,
            "standardize": self.standardize,
            "train_images": len(y),
            "val_images": len(yt),
            "classes": classes,
            "chance": 100.0 * float(torch.bincount(yt, minlength=classes).max()) / max(1, len(yt)),
            "input_size": self.features.input_size(weights),
        }
        return Result("linear", self.version, metrics, seed=self.seed, details=details)

    def _sgd(self, x: Tensor, y: Tensor, xt: Tensor, yt: Tensor, classes: int) -> tuple[dict, dict]:
        how: dict[str, Any] = {
            "epochs": self.epochs,
            "batch": self.batch,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }
        chosen = 0
        out = held_out(y, self.seed)
        if len(self.lrs) > 1 and bool(out.any()):
            trial = train_probes(x[~out], y[~out], x[out], y[out], classes, self.lrs, **how)
            chosen = int(trial.accuracy[-1].argmax())
        run = train_probes(x, y, xt, yt, classes, self.lrs, progress=True, **how)
        if len(self.lrs) > 1 and chosen in (0, len(self.lrs) - 1):
            logger.warning("the chosen learning rate %g is at the edge of LINEAR.LRS; widen the grid", self.lrs[chosen])
        grid = {f"{lr:g}": [run.last(i), run.best(i)] for i, lr in enumerate(self.lrs)}
        metrics = {"top1": run.last(chosen), "top1_best_epoch": run.best(chosen)}
        return metrics, {"lr": self.lrs[chosen], "lr_grid_last_best": grid, **how}

    def _lbfgs(self, x: Tensor, y: Tensor, xt: Tensor, yt: Tensor, classes: int) -> tuple[dict, dict]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.c, max_iter=1000).fit(x.numpy(), y.numpy())
        top1 = 100.0 * float((model.predict(xt.numpy()) == yt.numpy()).mean())
        return {"top1": top1}, {"C": self.c, "iterations": int(model.n_iter_.max())}
