"""Each view must recognise its partner among all views of the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.functional import nt_xent
from ssl_loc.structures import MethodOutput, Views
from ssl_loc.utils.comm import get_world_size

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method


@register_config("LOSS.NT_XENT")
def nt_xent_config() -> CfgNode:
    node = CfgNode()
    # Weight of the contrastive loss; the temperature is the method's (MODEL.SIMCLR.T).
    node.WEIGHT = 1.0
    return node


@LOSS_REGISTRY.register()
class NTXent(Loss):
    """NT-Xent over the views of all processes (SimCLR paper, equation 1).

    Takes the queries of both directions of a method; gradient flows to all of them. One process equals N processes; the
    parts of SOLVER.ACCUMULATE do not see each other.

    Logs "pos_similarity" and "neg_similarity" (mean cosine), "pretext_accuracy" (share of views whose partner beats the
    2N - 2 negatives) and "chance_loss" = ln(2N - 1).
    """

    node = "NT_XENT"
    needs = frozenset({"both_directions"})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {}

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        queries = {pair.query_view: pair.q for pair in output.pairs}
        result = nt_xent(queries[0], queries[1], output.pairs[0].temperature)
        with torch.no_grad():
            log: dict[str, Tensor | float] = {
                "pos_similarity": result.positive.mean(),
                "neg_similarity": result.negative,
                "pretext_accuracy": (result.positive > result.hardest).float().mean(),
                "chance_loss": math.log(2 * views.batch_size * get_world_size() - 1),
            }
        return result.loss, log
