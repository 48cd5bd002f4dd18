"""Which precision a computation runs in."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 if it came in half precision (autocast); float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
