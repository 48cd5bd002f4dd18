"""Which pixels move a score: input gradients (Simonyan et al., ICLR workshop 2014; DiLo paper, section 3).

The magnitude of a class score's gradient in pixel space, its largest channel per pixel, clipped per image so that a
few enormous values do not hide the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_loc.utils.precision import full_precision

# A hundredth of the pixels has enormous gradients: they count as 1.
PERCENTILE = 99.0


def input_gradient(score: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """max over channels of |d score_n / d image_n|.

    Args:
        score: images (N, C, H, W) -> (N,), each depending on its own image (no batch statistics).
        images: (N, C, H, W), any dtype; the gradient is taken at their values as floats.

    Returns:
        (N, H, W) float, detached, in score per unit of ``images``. No parameter's ``.grad`` is touched.
    """
    pixels = images.detach()
    pixels = (pixels if pixels.is_floating_point() else pixels.float()).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(score(pixels).sum(), pixels)
    return full_precision(gradient).abs().amax(1)


def clip_at_percentile(maps: Tensor, percentile: float = PERCENTILE) -> Tensor:
    """Divide each map of (N, H, W), >= 0, by its percentile (linear interpolation) and clip at 1.

    Where the percentile is 0 although some values are not, so few pixels carry everything that the map is divided by
    its maximum instead. A zero map stays zero.
    """
    flat = maps.flatten(1)
    # Row by row: torch.quantile refuses more than 16 million values at once.
    top = torch.stack([row.quantile(percentile / 100) for row in flat]) if len(flat) else flat.sum(1)
    top = torch.where(top > 0, top, flat.amax(1) if len(flat) else top)
    scaled = flat / torch.where(top > 0, top, torch.ones_like(top))[:, None]
    return scaled.clamp(max=1).view_as(maps)
