"""Average of a map over a mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.precision import full_precision

# Less mask than this on a whole map is none.
MIN_MASK = 1e-6


def masked_average(maps: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``maps`` (N, C, h, w) weighted by ``mask`` (N, 1, H, W) in [0, 1].

    The mask is brought to the size of the maps by area averaging. Where it is empty the whole map counts. Returns
    (N, C), float32 also under autocast.
    """
    maps = full_precision(maps)
    weight = F.adaptive_avg_pool2d(mask.to(maps.dtype), (maps.shape[2], maps.shape[3]))
    weight = weight.where(weight.sum((2, 3), keepdim=True) > MIN_MASK, weight.new_ones(()))
    return (maps * weight).sum((2, 3)) / weight.sum((2, 3))
