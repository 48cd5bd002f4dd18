"""Colour jitter, greyscale and solarisation on uint8 views."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters import color_matrix
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.color_chain import LinearColor
from ssl_loc.data.augmenters.deferred import SOLARIZE_AT, SOLARIZE_NEUTRAL, SOLARIZE_OFF, solarize
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View
from ssl_loc.utils.errors import ConfigError

JITTER_MODES = ("matrix", "exact")


@register_config("AUGMENT.COLOR_JITTER")
def color_jitter_config() -> CfgNode:
    node = CfgNode()
    # Probability of jittering a view (MoCo v2, SimCLR, BYOL: .8; MoCo v1: 1).
    node.P = 0.8
    # Factors are drawn from [max(0, 1 - x), 1 + x] (MoCo v1 and v2: .4; SimCLR: .8).
    node.BRIGHTNESS = 0.4
    node.CONTRAST = 0.4
    node.SATURATION = 0.4
    # Hue is shifted by up to this part of the colour circle, 0 to .5 (MoCo v2: .1; MoCo v1: .4; SimCLR: .2).
    node.HUE = 0.1
    # "matrix": one 3x4 matrix per view (fast; hue is a linear rotation and values are clamped once: an approximation);
    # "exact": torchvision's own operations, one after the other (slow; only with AUGMENT.PHOTOMETRIC_ON "worker").
    node.MODE = "matrix"
    return node


@register_config("AUGMENT.GRAYSCALE")
def grayscale_config() -> CfgNode:
    node = CfgNode()
    # Probability of turning a view grey.
    node.P = 0.2
    return node


@register_config("AUGMENT.SOLARIZE")
def solarize_config() -> CfgNode:
    node = CfgNode()
    # Probability of inverting the bright pixels of a view (BYOL: 0 for view 1, .2 for view 2).
    node.P = 0.2
    # Pixels of at least this value (0..255) are inverted.
    node.THRESHOLD = 128
    return node


@AUGMENTER_REGISTRY.register()
class ColorJitter(LinearColor):
    """Brightness, contrast, saturation and hue by random factors in random order (torchvision's semantics).

    In ``mode="matrix"`` the four operations become one affine map: against torchvision, hue is a linear rotation
    around the grey axis instead of an HSV shift, and values are rounded and clamped once, not after each operation (see
    ``color_matrix``). ``mode="exact"`` calls torchvision.

    Args:
        p: probability of jittering at all.
        brightness, contrast, saturation: factors from [max(0, 1 - x), 1 + x].
        hue: shift from [-hue, hue], in turns of the colour circle.
        mode: "matrix" or "exact".
    """

    node = "COLOR_JITTER"
    stream = "color_jitter"

    def __init__(
        self,
        p: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        mode: str = "matrix",
    ) -> None:
        if mode not in JITTER_MODES:
            raise ConfigError(f"AUGMENT.COLOR_JITTER.MODE is '{mode}'; expected {' or '.join(JITTER_MODES)}")
        for name, value in (("BRIGHTNESS", brightness), ("CONTRAST", contrast), ("SATURATION", saturation)):
            check_within(f"COLOR_JITTER.{name}", value, high=math.inf, meaning="strength")
        check_within("COLOR_JITTER.HUE", hue, high=0.5, meaning="part of the colour circle")
        self.p, self.mode = check_within("COLOR_JITTER.P", p), mode
        self.linear = mode == "matrix"
        strengths = np.array([brightness, contrast, saturation])
        self.low = np.append(np.maximum(1 - strengths, 0), -hue)
        self.high = np.append(1 + strengths, hue)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.AUGMENT.COLOR_JITTER
        return {
            "p": node.P,
            "brightness": node.BRIGHTNESS,
            "contrast": node.CONTRAST,
            "saturation": node.SATURATION,
            "hue": node.HUE,
            "mode": node.MODE,
        }

    def draw(self, rng: np.random.Generator) -> tuple[list[int], list[float]] | None:
        """Order of the operations and the factors (brightness, contrast, saturation, hue), or None for "leave it"."""
        u = rng.random(9)
        if u[0] >= self.p:
            return None
        # Sorting four uniform numbers gives every order with the same probability.
        return u[5:].argsort().tolist(), (self.low + (self.high - self.low) * u[1:5]).tolist()

    def extend(self, color_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = self.draw(rng)
        if drawn is None:
            return color_map
        jittered = color_matrix.jitter(*drawn)
        return jittered if color_map is color_matrix.IDENTITY else color_matrix.compose(jittered, color_map)

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        if self.linear:
            return super().__call__(view, streams, context)
        drawn = self.draw(streams(self.stream))
        return view if drawn is None else replace(view, image=_exact(view.image, *drawn))


def _exact(image: Tensor, order: list[int], factors: list[float]) -> Tensor:
    # Only this mode needs torchvision's transforms, so it alone pays for the import.
    from ssl_loc.data.augmenters.torchvision_jitter import jitter

    return jitter(image, order, factors)


@AUGMENTER_REGISTRY.register()
class RandomGrayscale(LinearColor):
    """Replace the colours by their luma (PIL's "L") with probability ``p``."""

    node = "GRAYSCALE"
    stream = "grayscale"

    def __init__(self, p: float = 0.2) -> None:
        self.p = check_within("GRAYSCALE.P", p)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"p": cfg.AUGMENT.GRAYSCALE.P}

    def extend(self, color_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return color_matrix.gray(color_map) if rng.random() < self.p else color_map


@AUGMENTER_REGISTRY.register()
class Solarize(Augmenter):
    """Invert the pixels of at least ``threshold`` with probability ``p`` (BYOL)."""

    node = "SOLARIZE"
    stream = "solarize"
    records = SOLARIZE_NEUTRAL
    photometric = True
    deferrable = True

    def __init__(self, p: float = 0.2, threshold: int = 128) -> None:
        self.p = check_within("SOLARIZE.P", p)
        self.threshold = check_within("SOLARIZE.THRESHOLD", threshold, high=255, meaning="grey value")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"p": cfg.AUGMENT.SOLARIZE.P, "threshold": cfg.AUGMENT.SOLARIZE.THRESHOLD}

    def draw(self, streams: Streams) -> float:
        """The threshold, or ``SOLARIZE_OFF``."""
        return float(self.threshold) if streams(self.stream).random() < self.p else SOLARIZE_OFF

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        threshold = self.draw(streams)
        if threshold == SOLARIZE_OFF:
            return view
        extra = {**view.extra, SOLARIZE_AT: torch.tensor(threshold)}
        return replace(view, image=solarize(view.image, int(threshold)), extra=extra)
