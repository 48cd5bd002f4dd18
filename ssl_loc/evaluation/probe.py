"""Linear layers on frozen features, several learning rates at once, by SGD as in MoCo's linear protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

# Initial weights N(0, .01), bias 0 (MoCo code, main_lincls.py).
INIT_STD = 0.01
# Of the norm without weights before a layer (momentum of torch's BatchNorm).
NORM_MOMENTUM = 0.1
# Logits held at once in a test, elements.
_CHUNK = 1 << 25


@dataclass(frozen=True)
class Recipe:
    """How a layer is trained; the defaults are those of the MoCo and CAST papers, without their learning rate.

    Attributes:
        epochs, batch: passes over the data, images per step; the last, smaller batch counts too.
        momentum, nesterov, weight_decay: of SGD.
        steps: the learning rate is multiplied by ``gamma`` at each of these shares of the epochs.
    """

    epochs: int = 100
    batch: int = 256
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    steps: tuple[float, ...] = (0.6, 0.8)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError(f"a linear layer got EPOCHS {self.epochs}, BATCH {self.batch}; expected 1 or more")
        if any(not 0 < share < 1 for share in self.steps):
            raise ConfigError(f"STEPS is {list(self.steps)}; expected shares of the epochs, such as [0.6, 0.8]")

    def factor(self, epoch: int) -> float:
        """What the learning rate of an epoch (from 0) is multiplied by."""
        return self.gamma ** sum(epoch >= round(share * self.epochs, 6) for share in self.steps)

    def plain(self) -> dict[str, Any]:
        """For the json of a result."""
        return {**vars(self), "steps": list(self.steps)}


@dataclass
class ProbeRun:
    """Accuracy in percent of each learning rate (L,) after every epoch, shape (epochs, L); its layers at the end.

    Attributes:
        losses: mean training loss of the last epoch, one per learning rate; not finite where the layer exploded.
    """

    lrs: list[float]
    accuracy: Tensor
    layers: list[tuple[Tensor, Tensor]]
    losses: list[float]

    def diverged(self, i: int) -> bool:
        """Whether a learning rate left NaN or infinity in its layer or its loss: its accuracy means nothing."""
        weight, bias = self.layers[i]
        return not (math.isfinite(self.losses[i]) and bool(weight.isfinite().all() and bias.isfinite().all()))

    def worse_than_guess(self, i: int) -> bool:
        """Whether the training loss is above that of equal odds for all classes, as where the rate is too large."""
        return not self.diverged(i) and self.losses[i] > math.log(max(2, len(self.layers[i][1])))

    def last(self, i: int) -> float:
        return float(self.accuracy[-1, i])

    def best(self, i: int) -> float:
        return float(self.accuracy[:, i].max())

    def best_epoch(self, i: int) -> int:
        """1-based; the first of equals."""
        return int(self.accuracy[:, i].argmax()) + 1

    def grid(self) -> dict[str, list[float | None]]:
        """Learning rate -> accuracy of the last and of the best epoch; None where it diverged."""
        return {
            f"{lr:g}": [None, None] if self.diverged(i) else [self.last(i), self.best(i)]
            for i, lr in enumerate(self.lrs)
        }


class Scale:
    """Zero mean, unit variance per feature with the statistics of (N, D) features; constant features become zeros."""

    def __init__(self, train: Tensor) -> None:
        self.mean, std = train.mean(0), train.std(0, unbiased=False)
        self.factor = torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), torch.zeros_like(std))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.factor


def standardize(train: Tensor, *others: Tensor) -> list[Tensor]:
    """:class:`Scale` of ``train`` on it and on others."""
    scale = Scale(train)
    return [scale(x) for x in (train, *others)]


class ProbeBank:
    """One softmax layer per learning rate on the same features; each gets exactly the updates it would get alone.

    Args:
        dim, classes: of every layer.
        lrs: learning rates.
        generator: draws the initial weights, the same for all.
        recipe: momentum and weight decay.
        scale: what is done to features first.
        norm: normalise features by batch statistics first, without learned weights; tests use running ones.
        device: where the layers live.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        lrs: Sequence[float],
        generator: torch.Generator,
        recipe: Recipe,
        scale: Callable[[Tensor], Tensor] | None = None,
        norm: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.recipe, self.norm, self.device = recipe, norm, torch.device(device)
        self._scale = scale or (lambda x: x)
        start = torch.randn(classes, dim, generator=generator) * INIT_STD
        self.weight = start.to(device).repeat(len(lrs), 1, 1).requires_grad_()
        self.bias = torch.zeros(len(lrs), classes, device=device, requires_grad=True)
        self.rates = torch.tensor(list(lrs), device=device)
        self._speed = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self._loss, self._seen = torch.zeros(len(lrs), device=device, dtype=torch.float64), 0
        self._mean, self._var = torch.zeros(dim, device=device), torch.ones(dim, device=device)

    def step(self, x: Tensor, y: Tensor, factor: float) -> None:
        """One update with features (n, D) and labels (n,); ``factor`` multiplies the learning rates."""
        x, y = self._scale(x).to(self.device), y.to(self.device)
        if self.norm:
            if len(x) == 1:
                return  # a batch of one has no statistics
            x = F.batch_norm(x, self._mean, self._var, training=True, momentum=NORM_MOMENTUM)
        logits = torch.einsum("nd,lcd->lnc", x, self.weight) + self.bias[:, None]
        losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(self.rates)), reduction="none")
        self._loss += losses.detach().view(len(self.rates), -1).sum(1, dtype=torch.float64)
        self._seen += len(x)
        grads = torch.autograd.grad(losses.sum() / len(x), [self.weight, self.bias])
        with torch.no_grad():
            for p, v, g in zip((self.weight, self.bias), self._speed, grads, strict=True):
                g = g + self.recipe.weight_decay * p
                v.mul_(self.recipe.momentum).add_(g)
                update = g + self.recipe.momentum * v if self.recipe.nesterov else v
                p.sub_(update * (self.rates * factor).view(-1, *[1] * (p.dim() - 1)))

    def take_losses(self) -> list[float]:
        """Mean training loss per learning rate since the last call; NaN if there was no step."""
        losses = (self._loss / self._seen).tolist() if self._seen else [math.nan] * len(self.rates)
        self._loss, self._seen = torch.zeros_like(self._loss), 0
        return losses

    @torch.no_grad()
    def layer(self, i: int) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the i-th learning rate for features as they are: scale and norm folded in."""
        ends = torch.stack([torch.zeros_like(self._mean), torch.ones_like(self._mean)]).cpu()
        ends = self._scale(ends).to(self.device)
        if self.norm:
            ends = F.batch_norm(ends, self._mean, self._var, training=False)
        # Both change every feature by a shift and a factor; where 0 and 1 go tells them.
        shift, factor = ends[0], ends[1] - ends[0]
        return (self.weight[i] * factor).cpu(), (self.bias[i] + self.weight[i] @ shift).cpu()

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Top-1 in percent per learning rate, float64 (L,), of these rows of features (N, D) and labels (N,)."""
        layers, classes = self.bias.shape
        hits = torch.zeros(layers, dtype=torch.float64)
        for chosen in rows.split(max(1, _CHUNK // (layers * classes))):
            part, labels = self._scale(x[chosen]).to(self.device), y[chosen].to(self.device)
            if self.norm:
                part = F.batch_norm(part, self._mean, self._var, training=False)
            guess = (torch.einsum("nd,lcd->lnc", part, self.weight) + self.bias[:, None]).argmax(2)
            hits += (guess == labels).sum(1).cpu()
        return 100.0 * hits / len(rows)


class Feed(Protocol):
    """Training batches, epoch by epoch; one tensor of features (n, D) per bank, and labels (n,)."""

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tensor], Tensor]]: ...


class StoredFeed:
    """Some rows of features (N, D) that are there already, in a new order every epoch."""

    def __init__(
        self, features: Sequence[Tensor], labels: Tensor, rows: Tensor, batch: int, generator: torch.Generator
    ) -> None:
        self.features, self.labels, self.rows = list(features), labels, rows
        self.batch, self.generator = batch, generator

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        for part in self.rows[torch.randperm(len(self.rows), generator=self.generator)].split(self.batch):
            yield [x[part] for x in self.features], self.labels[part]


@dataclass(frozen=True)
class ScoredRows:
    """Rows of features, one tensor (N, D) per bank, and labels (N,) that a bank is tested on."""

    features: Sequence[Tensor]
    labels: Tensor
    rows: Tensor


def run_probes(
    banks: Sequence[ProbeBank], feed: Feed, test: ScoredRows, lrs: Sequence[float], recipe: Recipe, title: str = ""
) -> list[ProbeRun]:
    """Train every bank on its features of ``feed``; test it after every epoch. ``title`` is that of a progress bar."""
    accuracy: list[list[Tensor]] = [[] for _ in banks]
    losses: list[list[float]] = [[] for _ in banks]
    for epoch in progress_bar(range(recipe.epochs), desc=title, unit="epoch", show=bool(title)):
        factor = recipe.factor(epoch)
        for features, y in feed.epoch(epoch):
            for bank, x in zip(banks, features, strict=True):
                bank.step(x, y, factor)
        for bank, x, found in zip(banks, test.features, accuracy, strict=True):
            found.append(bank.accuracy(x, test.labels, test.rows))
        losses = [bank.take_losses() for bank in banks]
    return [
        ProbeRun(list(lrs), torch.stack(found), [bank.layer(i) for i in range(len(lrs))], last)
        for bank, found, last in zip(banks, accuracy, losses, strict=True)
    ]


def train_probes(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    y_test: Tensor,
    classes: int,
    lrs: Sequence[float],
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    title: str = "",
    device: torch.device | str = "cpu",
) -> ProbeRun:
    """One layer per learning rate on stored features (N, D), all at once on the same batches."""
    recipe = recipe or Recipe()
    generator = torch.Generator().manual_seed(seed)
    bank = ProbeBank(x.shape[1], classes, lrs, generator, recipe, device=device)
    feed = StoredFeed([x], y, torch.arange(len(y)), recipe.batch, generator)
    test = ScoredRows([x_test], y_test, torch.arange(len(y_test)))
    return run_probes([bank], feed, test, lrs, recipe, title)[0]
