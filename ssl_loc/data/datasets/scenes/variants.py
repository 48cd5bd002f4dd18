"""Pictures of one foreground in eight settings, after the Backgrounds Challenge (Xiao et al., 2020).

The release's folder names and meanings are kept; since foreground and background are drawn apart, no cutting-out errs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_loc.data.background_settings import SETTINGS, without_partner
from ssl_loc.data.datasets.scenes.draw import Scene, compose, draw_ground, draw_sprite, streams
from ssl_loc.data.datasets.scenes.params import SceneParams

# Diameter of the one object of these pictures and of the classification set, share of the shorter side.
SINGLE_SIZE = (0.45, 0.75)


@dataclass
class Variants:
    """Images uint8 (H, W, 3) by variant name, and the foreground mask bool (H, W) they share."""

    images: dict[str, np.ndarray]
    mask: np.ndarray
    label: int


def draw_single(params: SceneParams, split: str, index: int) -> Scene:
    """One object of class ``index % classes`` on a background that says nothing about the class."""
    random = streams(params, split, index)
    rng = random("layout")
    classes = len(params.classes)
    label, kind = index % classes, int(rng.integers(classes))
    sprite = draw_sprite(params, label, random("object0"), float(rng.uniform(*SINGLE_SIZE)))
    return compose(draw_ground(params, kind, random), [sprite], [label], kind, random("placement"))


def draw_variants(params: SceneParams, index: int) -> Variants:
    """The eight settings of foreground ``index`` (class ``index % classes``)."""
    random = streams(params, "backgrounds", index)
    classes = len(params.classes)
    label = index % classes
    size = float(random("layout").uniform(*SINGLE_SIZE))
    sprite = draw_sprite(params, label, random("object0"), size)

    def on(kind: int, ground_of: int) -> Scene:
        # view 1 of the streams: another draw of the background than the original's (view 0).
        ground = draw_ground(params, kind, random.for_view(ground_of))
        return compose(ground, [sprite], [label], kind, random("placement"))

    original = on(label, 0)
    mask = original.masks[0]
    images = without_partner(original.image, mask) | {
        "mixed_same": on(label, 1).image,
        "mixed_rand": on(int(random("rand").integers(classes)), 2).image,
        "mixed_next": on((label + 1) % classes, 3).image,
    }
    return Variants({name: images[name] for name in SETTINGS}, mask, label)
