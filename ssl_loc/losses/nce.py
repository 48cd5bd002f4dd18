"""Noise-contrastive estimation over a memory bank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.functional import log_partition, nce, negative_similarity
from ssl_loc.structures import MethodOutput, Views

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method


@register_config("LOSS.NCE")
def nce_config() -> CfgNode:
    node = CfgNode()
    # Weight of the loss; temperature and number of negatives are the method's (MODEL.INSTDISC.T and K).
    node.WEIGHT = 1.0
    return node


@LOSS_REGISTRY.register()
class NCE(Loss):
    """Is this the image itself, or one of K drawn at random from n (InstDisc paper, equations 4 to 7)?

    With P = exp(s / tau) / Z and noise 1 / n: L = -log P / (P + K/n) - sum over K of log (K/n) / (P + K/n), averaged
    over images. The constant Z = n * mean of exp(s / tau) is estimated on the first batch, over all processes, and then
    kept; it is part of the state.

    Logs "pos_similarity" and "neg_similarity" (mean cosine), "pretext_accuracy" (share of images whose own feature
    beats all K drawn ones) and "nce_log_z" = ln Z.

    Attributes:
        log_z: float32 scalar, NaN until the first batch.
    """

    node = "NCE"
    needs = frozenset({"drawn_negatives"})
    log_z: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_z", torch.full((), torch.nan))
        # Whether log_z is a number; None = look (which stalls a GPU) after weights were loaded.
        self._known: bool | None = False
        self.register_load_state_dict_post_hook(_look_again)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {}

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        (pair,) = output.pairs  # who draws from a bank has one
        assert pair.negatives is not None and pair.drawn is not None  # connect() has checked it
        population = pair.negatives.shape[1]
        positive = (pair.q * pair.k).sum(1)
        negative = negative_similarity(pair.q, pair.negatives, pair.drawn)
        log_z = self._log_z(positive.detach(), negative.detach(), pair.temperature, population)
        loss = nce(positive, negative, pair.temperature, log_z, population)
        with torch.no_grad():
            log: dict[str, Tensor | float] = {
                "pos_similarity": positive.mean(),
                "neg_similarity": negative.mean(),
                "pretext_accuracy": (positive > negative.amax(1)).float().mean(),
                "nce_log_z": log_z.clone(),
            }
        return loss, log

    def _log_z(self, positive: Tensor, negative: Tensor, temperature: float, population: int) -> Tensor:
        if self._known is None:
            self._known = not bool(self.log_z.isnan())
        if self._known:
            return self.log_z
        estimate = log_partition(torch.cat([positive[:, None], negative], 1) / temperature, population)
        if self.training:
            self.log_z.copy_(estimate)
            self._known = True
        return estimate.to(self.log_z.dtype)


def _look_again(loss: NCE, incompatible_keys: Any) -> None:
    loss._known = None
