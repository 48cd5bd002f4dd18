"""Method and losses as one module, so that one DDP wraps both and one forward makes a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_loc.layers import average_split_statistics, ema_update
from ssl_loc.losses import LossSum
from ssl_loc.modeling import Method
from ssl_loc.structures import Views


@dataclass
class Forward:
    """What one forward gives.

    Attributes:
        total: scalar to back-propagate, the sum of ``terms``.
        terms: weighted losses by name, detached.
        log: other numbers by name, detached.
        q: unit embeddings (N, D) of the first pair's queries, detached.
        pooled: (N, C) features of the trunk that they were made of, detached.
    """

    total: Tensor
    terms: dict[str, Tensor]
    log: dict[str, Tensor | float]
    q: Tensor
    pooled: Tensor


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
        pair = output.pairs[0]
        detached = {name: term.detach() for name, term in terms.items()}
        return Forward(total, detached, log, pair.q.detach(), pair.pooled.detach())

    def after_step(self, iteration: int) -> None:
        """Let everything that follows the trained parameters follow: the method's target, and those of the losses."""
        pairs = self.losses.ema_pairs()
        momentum = self.method.target_momentum(iteration) if pairs else 1.0
        self.method.after_step(iteration)
        for target, source in pairs:
            ema_update(target, source, momentum)
        average_split_statistics(self.losses)


def _only(terms: dict[str, Tensor]) -> Tensor:
    (term,) = terms.values()
    return term.float()
