"""The prediction must point where the target does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.functional import COSINE_FORMS, negative_cosine
from ssl_loc.structures import MethodOutput, Views
from ssl_loc.utils.errors import check_choice

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method


@register_config("LOSS.NEGATIVE_COSINE")
def negative_cosine_config() -> CfgNode:
    node = CfgNode()
    # Weight of the loss.
    node.WEIGHT = 1.0
    # Per direction: "byol" 2 - 2 cos (BYOL paper, equation 2), "openmixup" -2 cos (the same gradient), "half" -cos / 2
    # (CVSA paper, equation 6; a quarter of BYOL's, which matters beside a second loss).
    node.FORM = "byol"
    return node


@LOSS_REGISTRY.register()
class NegativeCosine(Loss):
    """Sum over the directed pairs of a method of 2 - 2 cos(q, k), or of another multiple (LOSS.NEGATIVE_COSINE.FORM).

    There are no negatives: a method without a predictor and a slow target collapses under it. Logs "pos_similarity"
    (mean cosine over pairs).
    """

    node = "NEGATIVE_COSINE"
    keeps_apart = frozenset({"predictor"})

    def __init__(self, form: str = "byol") -> None:
        super().__init__()
        self.form = check_choice("LOSS.NEGATIVE_COSINE.FORM", form, tuple(COSINE_FORMS))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {"form": cfg.LOSS.NEGATIVE_COSINE.FORM}

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        values = [negative_cosine(pair.q, pair.k, self.form) for pair in output.pairs]
        with torch.no_grad():
            cosines = torch.stack([(pair.q * pair.k).sum(1).mean() for pair in output.pairs])
        return torch.stack(values).sum(), {"pos_similarity": cosines.mean()}
