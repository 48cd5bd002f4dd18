"""Procedural textures: backgrounds without objects, where the MIT VisTex photos (DiLo paper) are not at hand.

Each texture is a function of its number alone, so every process draws the same ones and no file is needed. A family
makes a smooth or a stepped pattern in [0, 1] (h, w); a random palette turns it into colours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from ssl_loc.data.rng import Streams

# As many as the reference textures of VisTex.
TEXTURES = 167
# Side in px; they are enlarged to cover larger images. All of them together take 33 MB.
SIDE = 256
_SEED = 0

Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


@lru_cache(maxsize=TEXTURES)
def texture(number: int, side: int = SIDE) -> np.ndarray:
    """Texture ``number`` (0 <= number < ``TEXTURES``) -> uint8 (side, side, 3). It is kept, so do not change it."""
    rng = Streams(_SEED, 0, number)("texture")
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    family = FAMILIES[number % len(FAMILIES)]
    pattern = family(rng, *_warped(rng, x, y))
    # A little grain, as every photo of a surface has, and a slow change of light.
    light = 0.85 + 0.3 * (noise(rng, x, y, 2, 1) - 0.5)
    colors = _colored(rng, pattern) * light[..., None] + rng.normal(0, 4, (side, side, 1)).astype(np.float32)
    picture = np.clip(colors, 0, 255).astype(np.uint8)
    picture.setflags(write=False)
    return picture


def noise(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, cells: int, octaves: int) -> np.ndarray:
    """Sum of smooth random fields, each twice as fine and half as strong as the one before, scaled to [0, 1]."""
    total = np.zeros_like(x)
    for octave in range(octaves):
        count = cells * 2**octave
        grid = rng.random((count + 3, count + 3)).astype(np.float32)
        # The lattice has a spare row on each side, and coordinates beyond it (warped ones) take its border.
        total += 0.5**octave * cv2.remap(
            grid, x * count + 1, y * count + 1, cv2.INTER_CUBIC, None, cv2.BORDER_REPLICATE
        )
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _warped(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates turned by a random angle and bent a little: hand-made and natural surfaces are never straight."""
    angle, bend = rng.uniform(0, np.pi), rng.uniform(0, 0.06)
    dx, dy = noise(rng, x, y, 3, 2) - 0.5, noise(rng, x, y, 3, 2) - 0.5
    u, v = x - 0.5 + bend * dx, y - 0.5 + bend * dy
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return u * cos - v * sin + 0.5, u * sin + v * cos + 0.5


def _colored(rng: np.random.Generator, pattern: np.ndarray) -> np.ndarray:
    """A pattern in [0, 1] through a palette of 2 to 4 colours -> float32 (h, w, 3) in 0..255."""
    count = int(rng.integers(2, 5))
    hue = (rng.random() + rng.normal(0, 0.07, count)) % 1.0
    # Most surfaces are dull, a few are not.
    hsv = np.stack([180 * hue, 255 * 0.8 * rng.beta(1.2, 2.2, count), 255 * rng.uniform(0.15, 1.0, count)], 1)
    colors = cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    at = np.clip(pattern, 0, 1) * (count - 1)
    low = np.minimum(at.astype(np.int64), count - 2)
    share = (at - low)[..., None]
    return colors[low] * (1 - share) + colors[low + 1] * share


def clouds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise over many octaves: stone, plaster, rust."""
    return noise(rng, x, y, int(rng.integers(3, 12)), 5)


def marble(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Veins: the crests of noise bend parallel waves."""
    turbulence = np.abs(noise(rng, x, y, int(rng.integers(3, 7)), 4) - 0.5)
    return 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(2, 6) * x + rng.uniform(2, 5) * turbulence))


def wood(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Year rings around a far centre, with fine grain along them."""
    radius = np.hypot(x - rng.uniform(-0.5, 0.2), 0.25 * (y - rng.uniform(0.2, 0.8)))
    rings = rng.uniform(8, 20) * radius + 0.6 * noise(rng, x, y, 3, 2)
    return np.clip(rings % 1.0 + 0.3 * (noise(rng, x, 0.1 * y, 50, 1) - 0.5), 0, 1)


def stripes(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Parallel bands, soft or hard-edged."""
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(4, 20) * x)
    return np.clip(0.5 + rng.uniform(1, 6) * (wave - rng.uniform(0.35, 0.65)), 0, 1)


def checks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squares of alternating colour, each a little different."""
    count = rng.uniform(4, 16)
    column, row = np.floor(count * x).astype(np.int64), np.floor(count * y).astype(np.int64)
    return 0.75 * ((column + row) % 2) + 0.25 * _per_cell(rng, column, row)


def bricks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Courses of bricks with joints; odd courses are shifted by half a brick."""
    rows, joint = rng.uniform(6, 14), rng.uniform(0.06, 0.16)
    row = np.floor(rows * y).astype(np.int64)
    across = rows * x / rng.uniform(1.5, 3) + 0.5 * (row % 2)
    column = np.floor(across).astype(np.int64)
    inside = (across % 1.0 > joint / 2) & ((rows * y) % 1.0 > joint)
    return np.where(inside, 0.4 + 0.6 * _per_cell(rng, column, row), 0.0)


def dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Discs on a regular grid."""
    count, radius = rng.uniform(5, 18), rng.uniform(0.2, 0.42)
    distance = np.hypot((count * x) % 1.0 - 0.5, (count * y) % 1.0 - 0.5)
    return np.clip(0.5 + 6 * (radius - distance), 0, 1)


def pebbles(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Voronoi cells of a jittered grid, dark where two cells meet."""
    count = int(rng.integers(6, 15))
    nearest, second = np.full((2, *x.shape), np.inf, dtype=np.float32)
    shade = np.zeros_like(x)
    column, row = np.floor(count * x).astype(np.int64), np.floor(count * y).astype(np.int64)
    jitter, shades = rng.random((2, 31, 31)).astype(np.float32), rng.random((31, 31)).astype(np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            c, r = (column + dx) % 31, (row + dy) % 31
            distance = np.hypot(column + dx + jitter[0][r, c] - count * x, row + dy + jitter[1][r, c] - count * y)
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            shade = np.where(closer, shades[r, c], shade)
            nearest = np.minimum(nearest, distance)
    return np.clip(4 * (second - nearest), 0, 1) * (0.3 + 0.7 * shade)


def weave(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Threads that pass over and under each other."""
    count = rng.uniform(8, 24)
    u, v = count * x, count * y
    over = (np.floor(u) + np.floor(v)) % 2 == 0
    return np.where(over, np.abs(np.sin(np.pi * v)), 0.7 * np.abs(np.sin(np.pi * u)))


def fur(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Noise stretched along one direction: grass, hair, brushed metal."""
    return noise(rng, x, rng.uniform(0.05, 0.2) * y, int(rng.integers(20, 50)), 2)


def _per_cell(rng: np.random.Generator, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A random number in [0, 1) for every cell of a grid."""
    return rng.random((31, 31)).astype(np.float32)[row % 31, column % 31]


FAMILIES: tuple[Pattern, ...] = (clouds, marble, wood, stripes, checks, bricks, dots, pebbles, weave, fur)
