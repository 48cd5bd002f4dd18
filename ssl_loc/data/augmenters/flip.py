"""Left-right mirror of view, mask and geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import torch

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.paste_records import with_paste_box
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.augmenters.resize import as_hwc, from_hwc
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View


@register_config("AUGMENT.FLIP")
def flip_config() -> CfgNode:
    node = CfgNode()
    # Probability of mirroring a view left-right.
    node.P = 0.5
    return node


@AUGMENTER_REGISTRY.register()
class RandomFlip(Augmenter):
    """Mirror image, mask and geometry left-right with probability ``p``."""

    node = "FLIP"
    stream = "flip"
    # A mirror commutes with colour maps, symmetric blurs and solarisation.
    after_deferred = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_within("FLIP.P", p)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"p": cfg.AUGMENT.FLIP.P}

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        if streams(self.stream).random() >= self.p:
            return view
        image = from_hwc(cv2.flip(as_hwc(view.image), 1))
        mask = None if view.mask is None else torch.from_numpy(cv2.flip(view.mask[0].numpy(), 1))[None]
        geometry = replace(view.geometry, flip=not view.geometry.flip)
        return View(image, mask, geometry, with_paste_box(view.extra, geometry))
