"""A trunk with a linear layer on top, as the engine's steps train it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.engine.model import Forward
from ssl_loc.evaluation.linear import INIT_STD
from ssl_loc.evaluation.weights import Trunk, Weights
from ssl_loc.modeling import build_backbone_from_description
from ssl_loc.solver.param_groups import param_groups
from ssl_loc.structures import Views
from ssl_loc.utils.errors import WeightsError

LOSS = "cross_entropy"


def trainable_trunk(weights: Weights) -> Trunk:
    """The trunk of ``weights`` with plain BatchNorm, every parameter trainable.

    It is built anew: the run that made the weights may have frozen stages or used other norm layers, and the same
    protocol must train the same network whichever run it came from.
    """
    trunk = weights.trunk()
    backbone = build_backbone_from_description(trunk.backbone.describe(), norm="BN")
    try:
        backbone.load_state_dict(trunk.backbone.state_dict(), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"the trunk of {weights.path} does not fit the same network with BatchNorm: {reason}"
        ) from None
    return Trunk(backbone.to(weights.device), trunk.mean, trunk.std)


class Classifier(nn.Module):
    """``views -> Forward`` with the cross-entropy of the labels.

    Args:
        trunk: trained in place.
        classes: rows of the new linear layer: weights N(0, .01), bias 0.
        seed: of those weights.
        freeze: train the linear layer alone; the trunk stays in evaluation mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Trunk, classes: int, seed: int = 0, freeze: bool = False) -> None:
        super().__init__()
        self.backbone = trunk.backbone.requires_grad_(not freeze)
        self.head = nn.Linear(trunk.backbone.out_channels, classes)
        self.freeze = freeze
        self.register_buffer("mean", trunk.mean.clone(), persistent=False)
        self.register_buffer("std", trunk.std.clone(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * INIT_STD)
            self.head.bias.zero_()
        self.to(trunk.mean.device)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        return self

    def pooled(self, images: Tensor) -> Tensor:
        """Images 0..255 (N, 3, h, w) on the model's device -> features (N, C)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.backbone.pooled(self.backbone((images.float() - self.mean) / self.std))

    def logits(self, images: Tensor) -> Tensor:
        """Images 0..255 (N, 3, h, w) on the model's device -> (N, classes) float32."""
        return self.head(self.pooled(images)).float()

    def forward(self, views: Views) -> Forward:
        pooled = self.pooled(views.images[0])
        loss = F.cross_entropy(self.head(pooled).float(), views.label)
        features = pooled.detach().float()
        return Forward(loss, {LOSS: loss.detach()}, {}, F.normalize(features, dim=1), features)

    def after_step(self, iteration: int) -> None:
        """Nothing follows the trained parameters."""

    def groups(self, weight_decay: float, head_lr: float) -> list[dict[str, Any]]:
        """Parameter groups; the linear layer learns ``head_lr`` times as fast."""
        head = [{**group, "lr_scale": head_lr} for group in param_groups(self.head, weight_decay)]
        return [*param_groups(self.backbone, weight_decay), *head]
