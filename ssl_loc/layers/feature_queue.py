"""The dictionary of MoCo: a ring buffer of the most recent keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """First-in first-out queue of unit vectors (MoCo paper, section 3.2), part of the state dict.

    Any number of keys fits: they are written at (pointer + 0, 1, ...) mod size, and of more than ``size`` keys the
    last ``size`` stay.

    Attributes:
        features: (dim, size) float32, unit columns, random until keys arrive. This is the live buffer: call
            :meth:`enqueue` only after the losses that read it have been back-propagated.
        pointer: int64 scalar, column that the next key overwrites.
        filled: int64 scalar, columns that hold real keys.
    """

    features: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if dim < 1 or size < 1:
            raise ValueError(f"FeatureQueue needs dim >= 1 and size >= 1, got {dim} and {size}")
        self.register_buffer("features", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def size(self) -> int:
        return self.features.shape[1]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write ``keys`` (B, dim), oldest first."""
        count = keys.shape[0]
        # Stays on the device: reading the pointer as a number would stall a GPU at every step.
        columns = (self.pointer + torch.arange(count, device=keys.device)) % self.size
        kept = min(count, self.size)
        self.features.index_copy_(1, columns[count - kept :], keys[count - kept :].t().to(self.features.dtype))
        self.pointer.add_(count).remainder_(self.size)
        self.filled.add_(count).clamp_(max=self.size)

    def real_share(self) -> Tensor:
        """Share of the columns that hold real keys, float32 scalar in [0, 1]."""
        return self.filled.float() / self.size
