"""Gaussian blur of random strength."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import torch

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.deferred import BLUR_NEUTRAL, BLUR_SIGMA, blur_radius
from ssl_loc.data.augmenters.ranges import check_range, check_within
from ssl_loc.data.augmenters.resize import as_hwc, from_hwc
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View

# Below this sigma the neighbours weigh less than 1/510, so a blurred uint8 image equals the image.
MIN_SIGMA_PX = 0.28


@register_config("AUGMENT.GAUSSIAN_BLUR")
def gaussian_blur_config() -> CfgNode:
    node = CfgNode()
    # Probability of blurring a view (MoCo v2, SimCLR: .5; BYOL: 1 for view 1, .1 for view 2).
    node.P = 0.5
    # Standard deviation in px, drawn uniformly: what PIL's GaussianBlur calls radius.
    node.SIGMA = [0.1, 2.0]
    return node


@AUGMENTER_REGISTRY.register()
class GaussianBlur(Augmenter):
    """Blur with probability ``p`` by a Gaussian of ``sigma`` px, drawn uniformly; borders are repeated as PIL does.

    PIL approximates the Gaussian by three box blurs and torchvision cuts it at 23 taps; this one is cut at 3 sigma.
    """

    node = "GAUSSIAN_BLUR"
    stream = "blur"
    records = BLUR_NEUTRAL
    photometric = True
    deferrable = True

    def __init__(self, p: float = 0.5, sigma: Sequence[float] = (0.1, 2.0)) -> None:
        self.p = check_within("GAUSSIAN_BLUR.P", p)
        self.sigma = check_range("GAUSSIAN_BLUR.SIGMA", sigma)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"p": cfg.AUGMENT.GAUSSIAN_BLUR.P, "sigma": cfg.AUGMENT.GAUSSIAN_BLUR.SIGMA}

    def draw(self, streams: Streams) -> float:
        """Sigma in px; 0 = no blur."""
        u = streams(self.stream).random(2)
        return float(self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[1]) if u[0] < self.p else 0.0

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        sigma = self.draw(streams)
        if sigma == 0:
            return view
        before = float(view.extra.get(BLUR_SIGMA, 0.0))
        extra = {**view.extra, BLUR_SIGMA: torch.tensor(math.hypot(before, sigma))}
        if sigma < MIN_SIGMA_PX:
            return View(view.image, view.mask, view.geometry, extra)
        # A float32 kernel in sepFilter2D is twice as fast as GaussianBlur, whose fixed-point form is exact to the bit.
        kernel = cv2.getGaussianKernel(2 * blur_radius(sigma) + 1, sigma, cv2.CV_32F)
        blurred = cv2.sepFilter2D(as_hwc(view.image), -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
        return View(from_hwc(blurred), view.mask, view.geometry, extra)
