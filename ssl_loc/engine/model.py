"""Method and losses as one module, so that one DDP wraps both and one forward makes a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_loc.layers import average_split_statistics, ema_update
from ssl_loc.losses import LossSum
from ssl_loc.modeling import Method
from ssl_loc.structures import Views
from ssl_loc.utils import comm


@dataclass
class Forward:
    """What one forward gives.

    Attributes:
        total: scalar to back-propagate, the sum of ``terms``.
        terms: weighted losses by name, detached.
        log: other numbers by name, detached.
        q: unit embeddings (N, D) of the first pair's queries, detached.
    """

    total: Tensor
    terms: dict[str, Tensor]
    log: dict[str, Tensor | float]
    q: Tensor


class TrainingModel(nn.Module):
    """``views -> Forward``.

    Args:
        method: gives pairs.
        losses: turns pairs into weighted terms; connected with ``method`` here.
    """

    def __init__(self, method: Method, losses: LossSum) -> None:
        super().__init__()
        losses.connect(method)
        self.method = method
        self.losses = losses

    def forward(self, views: Views) -> Forward:
        output = self.method(views)
        terms, log = self.losses(views, output, self.method)
        log = {**output.log, **log}
        total = torch.stack([term.float() for term in terms.values()]).sum() if len(terms) > 1 else _only(terms)
        return Forward(total, {name: term.detach() for name, term in terms.items()}, log, output.pairs[0].q.detach())

    def after_step(self, iteration: int) -> None:
        """Let everything that follows the trained parameters follow: the method's target, and those of the losses."""
        pairs = self.losses.ema_pairs()
        momentum = self.method.target_momentum(iteration) if pairs else 1.0
        self.method.after_step(iteration)
        for target, source in pairs:
            ema_update(target, source, momentum)
        average_split_statistics(self.losses)


@torch.no_grad()
def collapse_numbers(q: Tensor) -> dict[str, Tensor | float]:
    """Signs of collapse on the global batch of queries, from this process's (N, D). Collective.

    "feature_std": standard deviation per dimension of the unit embeddings: "feature_std_ideal" = 1 / sqrt(D) when they
    spread evenly over the sphere, 0 when all are equal. "effective_rank": exponential of the entropy of the normalised
    singular values of the centred embeddings (Roy and Vetterli, 2007): dimensions in use, at most min(N - 1, D).
    """
    q = comm.all_gather(q.float())
    # Broken embeddings give NaN here and are reported by the finite check; an SVD of them would raise in its place.
    broken = torch.where(torch.isfinite(q).all(), 0.0, torch.nan)
    q = q.nan_to_num()
    spread = q.std(0, unbiased=False).mean()
    singular = torch.linalg.svdvals(q - q.mean(0))
    share = singular / singular.sum().clamp_min(torch.finfo(q.dtype).tiny)
    entropy = -(share * share.clamp_min(torch.finfo(q.dtype).tiny).log()).sum()
    return {
        "feature_std": spread + broken,
        "feature_std_ideal": q.shape[1] ** -0.5,
        "effective_rank": entropy.exp() + broken,
    }


def _only(terms: dict[str, Tensor]) -> Tensor:
    (term,) = terms.values()
    return term.float()
