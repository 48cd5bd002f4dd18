"""The box regression loss of both stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def box_loss_sum(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum of smooth L1 over (P, 4) deltas; ``beta`` 0 is pure L1 (detectron2's default, torchvision uses 1/9)."""
    return F.smooth_l1_loss(predicted, target, beta=beta, reduction="sum")
