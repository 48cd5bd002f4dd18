"""Rows of unit length that can be differentiated twice, also at zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# torch.nn.functional.normalize divides shorter rows by this.
MIN_LENGTH = 1e-12


def unit_rows(x: Tensor) -> Tensor:
    """``x / max(||x||, 1e-12)`` per row of (N, D): ``F.normalize(x, dim=1)``, with its first derivative.

    The gradient of a length has no derivative at 0, so F.normalize's *second* derivative of a zero row is NaN, and one
    such row spoils a whole Grad-CAM loss. Rows shorter than 1e-12 are therefore divided by that constant without asking
    for their length: the same value and first derivative, and a second derivative of 0.
    """
    long = torch.linalg.vector_norm(x.detach(), dim=1, keepdim=True) >= MIN_LENGTH
    normalized = F.normalize(torch.where(long, x, torch.ones_like(x)), dim=1, eps=MIN_LENGTH)
    return torch.where(long, normalized, x / MIN_LENGTH)
