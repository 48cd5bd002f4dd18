"""The colour jitter of the official CAST code, kept for its preset; see what it really does below."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.augmenters.resize import as_hwc, from_hwc
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View

_LEVELS = np.arange(256)
# OpenCV's 8-bit hue runs over 0..179 (two degrees per step).
_HUE_LEVELS = 180


@register_config("AUGMENT.CAST_OFFICIAL_JITTER")
def cast_official_jitter_config() -> CfgNode:
    node = CfgNode()
    # Probability of jittering a view (official CAST code: .5).
    node.P = 0.5
    # Half-widths of the four draws (official CAST code: .4 each).
    node.BRIGHTNESS = 0.4
    node.CONTRAST = 0.4
    node.SATURATION = 0.4
    node.HUE = 0.4
    return node


@AUGMENTER_REGISTRY.register()
class CastOfficialColorJitter(Augmenter):
    """Colour jitter of the official CAST code. It is *not* torchvision's:

    the saturation "factor" f in [.6, 1.4] is used as an additive shift int(255 f) of +153 to +357, so saturation always
    ends near its ceiling; the hue shift int(255 h) of up to +-102 goes round a circle of 180 steps, so every hue is
    reached; brightness adds (b - 1) times the image mean. Applied after greyscale, it turns grey views red.
    """

    node = "CAST_OFFICIAL_JITTER"
    stream = "color_jitter"
    photometric = True

    def __init__(
        self,
        p: float = 0.5,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.4,
    ) -> None:
        self.p = check_within("CAST_OFFICIAL_JITTER.P", p)
        names = ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")
        for name, value in zip(names, (brightness, contrast, saturation, hue), strict=True):
            check_within(f"CAST_OFFICIAL_JITTER.{name}", value, high=math.inf, meaning="half-width")
        self.centre = np.array([0.0, 1.0, 1.0, 0.0])
        self.width = np.array([brightness, contrast, saturation, hue])

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.AUGMENT.CAST_OFFICIAL_JITTER
        return {
            "p": node.P,
            "brightness": node.BRIGHTNESS,
            "contrast": node.CONTRAST,
            "saturation": node.SATURATION,
            "hue": node.HUE,
        }

    def draw(self, rng: np.random.Generator) -> tuple[float, float, int, int] | None:
        """(brightness offset in image means, contrast gain, saturation shift, hue shift), or None for "leave it"."""
        u = rng.random(5)
        if u[0] >= self.p:
            return None
        bias, gain, saturation, hue = (self.centre + self.width * (2 * u[1:] - 1)).tolist()
        return bias, gain, int(saturation * 255), int(hue * 255)

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        drawn = self.draw(streams(self.stream))
        if drawn is None:
            return view
        return replace(view, image=from_hwc(official_jitter(as_hwc(view.image), *drawn)))


def official_jitter(image: np.ndarray, bias: float, gain: float, saturation_shift: int, hue_shift: int) -> np.ndarray:
    """Apply the four draws to a uint8 RGB image (H, W, 3)."""
    table = np.clip(_LEVELS * gain + bias * image.mean(), 0, 255).astype(np.uint8)
    hsv = cv2.cvtColor(cv2.LUT(image, table), cv2.COLOR_RGB2HSV)
    tables = np.stack([(_LEVELS + hue_shift) % _HUE_LEVELS, np.clip(_LEVELS + saturation_shift, 0, 255), _LEVELS], 1)
    shifted = cv2.LUT(hsv, tables.astype(np.uint8)[:, None])
    return cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB)
