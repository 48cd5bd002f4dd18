"""Contrastive loss over a dictionary of keys."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.functional import info_nce
from ssl_loc.structures import MethodOutput, Views
from ssl_loc.utils.errors import ConfigError

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method


@register_config("LOSS.INFO_NCE")
def info_nce_config() -> CfgNode:
    node = CfgNode()
    # Weight of the contrastive loss; the temperature is the method's (MODEL.MOCO.T).
    node.WEIGHT = 1.0
    return node


@LOSS_REGISTRY.register()
class InfoNCE(Loss):
    """InfoNCE averaged over the directed pairs of a method (MoCo paper, equation 1).

    Logs "pos_similarity" and "neg_similarity" (mean cosine), "pretext_accuracy" (share of queries whose positive beats
    all K negatives: (K+1)-way, not a classification accuracy) and "chance_loss" = ln(K + 1), the loss of a network
    that cannot tell its positive from the queue.

    On a memory bank (InstDisc) this is softmax-NCE, or, over the whole bank, the full softmax: then the own column is
    the positive, K + 1 = n.
    """

    node = "INFO_NCE"
    needs = frozenset({"negatives"})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {}

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        results = []
        for pair in output.pairs:
            if pair.negatives is None:
                raise ConfigError(
                    f"InfoNCE needs negatives, but {type(method).__name__} gives none; take InfoNCE out of LOSS.NAMES"
                )
            results.append(info_nce(pair.q, pair.k, pair.negatives, pair.temperature, pair.drawn, pair.own))
        loss = torch.stack([r.loss for r in results]).mean() if len(results) > 1 else results[0].loss
        with torch.no_grad():
            hits = [(r.positive > r.negative.amax(1)).float().mean() for r in results]
            log: dict[str, Tensor | float] = {
                "pos_similarity": torch.stack([r.positive.mean() for r in results]).mean(),
                "neg_similarity": torch.stack([_mean(r.negative) for r in results]).mean(),
                "pretext_accuracy": torch.stack(hits).mean(),
                "chance_loss": math.log(results[0].negative.shape[1] + (output.pairs[0].own is None)),
            }
        return loss, log


def _mean(similarity: Tensor) -> Tensor:
    """Mean over the columns that count."""
    counts = similarity > -torch.inf
    return similarity.where(counts, 0.0).sum() / counts.sum()
