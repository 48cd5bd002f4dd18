"""Pictures of one foreground in eight settings, after the Backgrounds Challenge (Xiao et al., 2020).

The release's folder names and meanings are kept; since foreground and background are drawn apart, no cutting-out errs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssl_loc.data.datasets.scenes.draw import Scene, boxes_of, compose, draw_ground, draw_sprite, streams
from ssl_loc.data.datasets.scenes.params import SceneParams

VARIANTS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
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
    box = boxes_of(original.masks)[0].astype(int)
    blanked = original.image.copy()
    blanked[box[1] : box[3], box[0] : box[2]] = 0
    images = {
        "original": original.image,
        "mixed_same": on(label, 1).image,
        "mixed_rand": on(int(random("rand").integers(classes)), 2).image,
        "mixed_next": on((label + 1) % classes, 3).image,
        "only_fg": np.where(mask[..., None], original.image, 0).astype(np.uint8),
        "no_fg": np.where(mask[..., None], 0, original.image).astype(np.uint8),
        "only_bg_b": blanked,
        "only_bg_t": _tile_over(original.image, box),
    }
    return Variants(images, mask, label)


def _tile_over(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Fill ``box`` with repetitions of the largest object-free strip beside it."""
    h, w = image.shape[:2]
    x0, y0, x1, y1 = (int(v) for v in box)
    strips = [image[:y0], image[y1:], image[:, :x0], image[:, x1:]]
    strip = max(strips, key=lambda s: s.shape[0] * s.shape[1])
    out = image.copy()
    if strip.size:
        repeats = (-(-h // strip.shape[0]), -(-w // strip.shape[1]), 1)
        out[y0:y1, x0:x1] = np.tile(strip, repeats)[y0:y1, x0:x1]
    else:
        out[y0:y1, x0:x1] = 0
    return out
