"""From a map to a mask: thresholds and tidying."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes

from ssl_loc.saliency.metrics import to_grey
from ssl_loc.utils.errors import ConfigError

# The adaptive threshold stays below the maximum, so that a map with a salient pixel never gives an empty mask.
CAP = 0.9


def threshold_of(saliency: np.ndarray, rule: str = "adaptive") -> float:
    """The value from which on a map (H, W) in [0, 1] is salient.

    Args:
        saliency: float in [0, 1].
        rule: "adaptive" is min(2 x mean, .9 x maximum) (Achanta et al. 2009, with the cap); "otsu" splits the 8-bit
            histogram (Otsu 1979); "fixed:V" is V, 0 < V <= 1 (official CAST code: a grey value above 128, fixed:0.503).

    Raises:
        ConfigError: another rule.
    """
    if rule == "adaptive":
        return min(2 * float(saliency.mean()), CAP * float(saliency.max()))
    if rule == "otsu":
        # OpenCV's threshold is the last grey value of the lower class.
        level, _ = cv2.threshold(to_grey(saliency), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        return (level + 0.5) / 255
    kind, _, text = rule.partition(":")
    try:
        value = float(text) if kind == "fixed" else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise ConfigError(f"threshold is '{rule}'; expected adaptive, otsu, or fixed:V with V above 0, up to 1")
    return value


def binarize(
    saliency: np.ndarray,
    rule: str = "adaptive",
    *,
    opening: int = 0,
    fill_holes: bool = False,
    largest: bool = False,
) -> np.ndarray:
    """Mask of a map, bool (H, W). A map without contrast to speak of gives an empty mask, never a full one by accident.

    Args:
        saliency: float in [0, 1] or uint8, (H, W).
        rule: see :func:`threshold_of`; a pixel at the threshold is salient, one of value 0 never.
        opening: side in px of the square that removes thinner parts (3 is usual); 0 removes nothing.
        fill_holes: background that the object encloses becomes object.
        largest: keep the largest 8-connected part only.
    """
    values = saliency / np.float32(255) if saliency.dtype == np.uint8 else saliency
    mask = (values >= threshold_of(values, rule)) & (values > 0)
    if opening > 1:
        square = np.ones((opening, opening), np.uint8)
        mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, square).astype(bool)
    if fill_holes:
        mask = binary_fill_holes(mask)
    return largest_component(mask) if largest else mask


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part of a mask; of equal ones the first in reading order. An empty mask stays empty."""
    # OpenCV's own statistics take several times as long as the labels and a count of them.
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask.astype(bool)
    return labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
