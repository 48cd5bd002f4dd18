"""Neighbouring linear colour operations of a pipeline, applied as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.color_matrix import IDENTITY, apply_map, compose
from ssl_loc.data.augmenters.resize import as_hwc, from_hwc
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View

# view.extra: the colour map of everything drawn so far, float32 (3, 6) (see color_matrix).
COLOR_MAP = "color_map"
COLOR_NEUTRAL = {COLOR_MAP: torch.from_numpy(IDENTITY.astype(np.float32))}


class LinearColor(Augmenter):
    """A colour operation that is one map of ``color_matrix`` (unless ``linear`` is False for an object)."""

    records = COLOR_NEUTRAL
    photometric = True
    linear: bool = True

    @abstractmethod
    def extend(self, color_map: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw, and return ``color_map`` with this operation done after it (the same object if it does nothing)."""

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        return ColorChain([self])(view, streams, context)


class ColorChain(Augmenter):
    """Draws the maps of its members in order and applies their product once."""

    records = COLOR_NEUTRAL
    photometric = True
    deferrable = True

    def __init__(self, members: Sequence[LinearColor]) -> None:
        self.members = list(members)

    def draw(self, streams: Streams) -> np.ndarray:
        """The product of the members' maps; the object ``IDENTITY`` itself where nothing happens."""
        color_map = IDENTITY
        for member in self.members:
            color_map = member.extend(color_map, streams(member.stream))
        return color_map

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        color_map = self.draw(streams)
        if color_map is IDENTITY:
            return view
        image = from_hwc(apply_map(as_hwc(view.image), color_map))
        return View(image, view.mask, view.geometry, record_map(view, color_map))


def record_map(view: View, color_map: np.ndarray) -> dict:
    """``view.extra`` with ``color_map`` done after what is recorded there."""
    before = view.extra.get(COLOR_MAP)
    if before is not None and before is not COLOR_NEUTRAL[COLOR_MAP]:
        color_map = compose(color_map, before.numpy().astype(np.float64))
    return {**view.extra, COLOR_MAP: torch.from_numpy(color_map.astype(np.float32))}
