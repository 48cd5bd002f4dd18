"""The eight settings of a Backgrounds Challenge set and the composition of one picture out of a cut-out and a ground.

Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition" (2021). Drawn scenes and sets made
from photos share these functions, so that a setting means the same in both.
"""

from __future__ import annotations

import numpy as np

# Folder names of the release, in the order of the columns of CAST Table 3.
SETTINGS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
# What is behind the foreground: a background of its own class, of a random class, of the class after its own.
MIXED = ("mixed_same", "mixed_rand", "mixed_next")
# Folder of the bool masks, an .npy per foreground.
MASKS = "fg_mask"


def paste(image: np.ndarray, mask: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Pixels of ``image`` where ``mask`` (H, W), else of ``ground``; uint8 (H, W, 3)."""
    return np.where(mask[..., None], image, ground).astype(np.uint8)


def without_partner(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """The five settings that need no other picture: original, only_fg, no_fg, only_bg_b, only_bg_t.

    Args:
        image: uint8 (H, W, 3).
        mask: bool (H, W), not empty, True on the foreground.
    """
    box = box_of(mask)
    x0, y0, x1, y1 = box
    blanked = image.copy()
    blanked[y0:y1, x0:x1] = 0
    black = np.zeros_like(image)
    return {
        "original": image,
        "only_fg": paste(image, mask, black),
        "no_fg": paste(black, mask, image),
        "only_bg_b": blanked,
        "only_bg_t": tile_over(image, box),
    }


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Tight box of a non-empty bool (H, W) mask: XYXY, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def tile_over(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Fill ``box`` with repetitions of the largest strip beside it (black where the box is the whole picture)."""
    h, w = image.shape[:2]
    x0, y0, x1, y1 = box
    strips = [image[:y0], image[y1:], image[:, :x0], image[:, x1:]]
    strip = max(strips, key=lambda s: s.shape[0] * s.shape[1])
    out = image.copy()
    if strip.size:
        repeats = (-(-h // strip.shape[0]), -(-w // strip.shape[1]), 1)
        out[y0:y1, x0:x1] = np.tile(strip, repeats)[y0:y1, x0:x1]
    else:
        out[y0:y1, x0:x1] = 0
    return out
