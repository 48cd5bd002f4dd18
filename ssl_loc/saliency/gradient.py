"""Saliency from the input gradient of a classifier (Simonyan et al., ICLR workshop 2014), cut out by GrabCut."""

from __future__ import annotations

import cv2
import numpy as np

from ssl_loc.saliency.binarize import binarize
from ssl_loc.saliency.build import SALIENCY_REGISTRY
from ssl_loc.saliency.class_specific import ClassSpecific

# A few pixels have enormous gradients: those above this percentile count as 1.
CLIP = 99.0
# Gradients are speckled: they are smoothed by a Gaussian of this share of the shorter side.
SMOOTHING = 0.02
# Seeds of GrabCut: above the one percentile surely object, below the other surely background (Simonyan et al.,
# section 3.2; DiLo cuts with a geodesic star instead of GrabCut).
OBJECT_ABOVE, BACKGROUND_BELOW = 95.0, 30.0
ITERATIONS = 5


@SALIENCY_REGISTRY.register(name="gradient")
class InputGradient(ClassSpecific):
    """Which pixels move a classifier's logit, as a mask by GrabCut, or as they are: preset soft (uses labels)."""

    name = "gradient"
    presets = ("grabcut", "soft")

    def of_class(self, image: np.ndarray) -> np.ndarray:
        strength, small = self.strength(image)
        if self.preset == "grabcut":
            strength = grabcut_mask(small, strength).astype(np.float32)
        return cv2.resize(strength, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)

    def strength(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smoothed gradient in [0, 1], (h, w), and the image at that size, uint8 (h, w, 3)."""
        import torch

        from ssl_loc.saliency.classifier import choose_class, prepare_image

        network = self.network()
        x = prepare_image(image, self.side).requires_grad_()
        with torch.enable_grad():
            logits = network(x)[0]
            (gradient,) = torch.autograd.grad(logits[choose_class(logits, self.target)], x)
        values = smooth(gradient[0].abs().amax(0).numpy())
        size = values.shape[1], values.shape[0]
        return values, cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def smooth(gradient: np.ndarray) -> np.ndarray:
    """|gradient| (h, w) -> float32 in [0, 1]: clipped at a high percentile, smoothed, over its maximum."""
    clipped = np.minimum(gradient, np.percentile(gradient, CLIP)).astype(np.float32)
    smoothed = cv2.GaussianBlur(clipped, (0, 0), SMOOTHING * min(gradient.shape))
    top = float(smoothed.max())
    return smoothed / top if top > 0 else np.zeros_like(smoothed)


def grabcut_mask(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Mask (bool, (h, w)) of an image, grown from the strongest and the weakest pixels of its map by GrabCut.

    Where these leave no seeds of both kinds, or GrabCut finds no object, the map is cut at its adaptive threshold.
    """
    rough = binarize(saliency)
    high, low = np.percentile(saliency, [OBJECT_ABOVE, BACKGROUND_BELOW])
    sure, never = saliency > high, saliency < low
    if not sure.any() or not never.any():
        return rough
    mask = np.where(rough, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[sure], mask[never] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)  # GrabCut starts its colour models from random centres
    cv2.grabCut(
        np.ascontiguousarray(image[..., ::-1]),
        mask,
        (0, 0, 1, 1),  # not read in this mode
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )
    found = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return found if found.any() else rough
