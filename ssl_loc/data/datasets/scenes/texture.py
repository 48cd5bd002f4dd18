"""Patterns of object bodies and textured backgrounds, as vectorised fields."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Field = np.ndarray  # float32 (H, W), 0..1
Pattern = Callable[[Field, Field, np.random.Generator], Field]


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """RGB float32 (3,) 0..255 of a colour; hue wraps, the others are clipped to 0..1."""
    h = (hue % 1.0) * 6.0
    s, v = float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1))
    k = (np.array([5.0, 3.0, 1.0]) + h) % 6.0
    return (255 * (v - v * s * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


# --- patterns: field over object coordinates (u, v), both float32 arrays ----------------------------------------------
def _stripes(u: Field, v: Field, rng: np.random.Generator) -> Field:
    turns, phase = rng.uniform(2.2, 3.2), rng.uniform(0, 1)
    return ((u * turns + phase) % 1.0 < 0.45).astype(np.float32)


def _spots(u: Field, v: Field, rng: np.random.Generator) -> Field:
    pitch, phase_u, phase_v = rng.uniform(2.0, 2.7), rng.uniform(0, 1), rng.uniform(0, 1)
    row = np.floor(v * pitch + phase_v)
    a = (u * pitch + phase_u + 0.5 * (row % 2)) % 1.0 - 0.5
    b = (v * pitch + phase_v) % 1.0 - 0.5
    return (a * a + b * b < 0.09).astype(np.float32)


def _halves(u: Field, v: Field, rng: np.random.Generator) -> Field:
    edge = rng.uniform(-0.1, 0.1)
    return np.clip((v - edge) * 4 + 0.5, 0, 1).astype(np.float32)


def _checks(u: Field, v: Field, rng: np.random.Generator) -> Field:
    pitch, phase = rng.uniform(2.6, 3.4), rng.uniform(0, 1)
    return ((np.floor(u * pitch + phase) + np.floor(v * pitch + phase)) % 2).astype(np.float32)


PATTERNS: dict[str, Pattern] = {
    "stripes": _stripes,
    "spots": _spots,
    "halves": _halves,
    "checks": _checks,
}


# --- backgrounds ------------------------------------------------------------------------------------------------------
def noise(h: int, w: int, cell_y: float, cell_x: float, rng: np.random.Generator) -> Field:
    """Smooth value noise 0..1 whose grains are about ``cell`` px."""
    rows, cols = max(2, int(h / cell_y) + 2), max(2, int(w / cell_x) + 2)
    grid = rng.random((rows, cols), dtype=np.float32)
    return np.clip(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), 0, 1)


def _mesh(h: int, w: int, rng: np.random.Generator, turn: float) -> tuple[Field, Field]:
    """Coordinates in units of the shorter side, turned by up to ``turn`` radians."""
    a = rng.uniform(-turn, turn)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32) / min(h, w)
    c, s = np.float32(np.cos(a)), np.float32(np.sin(a))
    return c * x - s * y + np.float32(rng.uniform(0, 9)), s * x + c * y + np.float32(rng.uniform(0, 9))


def _grain(h: int, w: int, rng: np.random.Generator, size: float, stretch: float = 1.0) -> Field:
    unit = min(h, w) * size
    fine = noise(h, w, unit * stretch, unit, rng)
    return 0.6 * fine + 0.4 * noise(h, w, unit * stretch * 2.5, unit * 2.5, rng)


def _grass(h: int, w: int, rng: np.random.Generator) -> Field:
    return _grain(h, w, rng, 0.018, 5.0)


def _sand(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.5)
    bend = noise(h, w, h / 3, w / 3, rng)
    return 0.5 + 0.3 * np.sin(2 * np.pi * (y * rng.uniform(7, 10) + 1.5 * bend)) + 0.4 * (noise(h, w, 2, 2, rng) - 0.5)


def _water(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.2)
    wave = np.sin(2 * np.pi * (y * rng.uniform(5, 7) + 0.25 * np.sin(2 * np.pi * x * rng.uniform(1.5, 3))))
    return 0.5 + 0.5 * wave * noise(h, w, h / 4, w / 3, rng)


def _bricks(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.12)
    pitch = rng.uniform(6, 8)
    row = np.floor(y * pitch)
    along = x * pitch * 0.5 + 0.5 * (row % 2)
    joint = ((y * pitch) % 1.0 < 0.16) | (along % 1.0 < 0.09)
    tone = np.sin(np.floor(along) * 12.9898 + row * 78.233) * 0.5 + 0.5
    return np.where(joint, 0.0, 0.55 + 0.4 * tone).astype(np.float32)


def _planks(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.15)
    board = x * rng.uniform(4, 6)
    tone = np.sin(np.floor(board) * 12.9898 + 4) * 0.5 + 0.5
    grain = noise(h, w, h / 3, 2.0, rng)
    return np.where(board % 1.0 < 0.07, 0.0, 0.3 + 0.4 * tone + 0.35 * grain).astype(np.float32)


def _pebbles(h: int, w: int, rng: np.random.Generator) -> Field:
    """Distance to the nearest of jittered grid points: round stones with dark gaps."""
    x, y = _mesh(h, w, rng, 0.4)
    pitch = rng.uniform(6, 9)
    gx, gy = x * pitch, y * pitch
    best = np.full((h, w), 9.0, np.float32)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            cx, cy = np.floor(gx) + dx, np.floor(gy) + dy
            ox = 0.5 + 0.35 * np.sin(cx * 12.9898 + cy * 78.233)
            oy = 0.5 + 0.35 * np.sin(cx * 39.425 + cy * 11.135)
            best = np.minimum(best, (gx - cx - ox) ** 2 + (gy - cy - oy) ** 2)
    return np.clip(1.05 - 1.6 * best, 0, 1)


def _clouds(h: int, w: int, rng: np.random.Generator) -> Field:
    broad = noise(h, w, h / 3, w / 2.5, rng)
    return np.clip(2.2 * (0.7 * broad + 0.3 * noise(h, w, h / 10, w / 7, rng)) - 0.65, 0, 1)


def _plaid(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.5)
    pitch = rng.uniform(4, 6)
    return 0.5 * ((x * pitch) % 1.0 < 0.5) + 0.5 * ((y * pitch) % 1.0 < 0.5).astype(np.float32)


def _tiles(h: int, w: int, rng: np.random.Generator) -> Field:
    x, y = _mesh(h, w, rng, 0.4)
    pitch = rng.uniform(4, 6)
    joint = ((x * pitch) % 1.0 < 0.1) | ((y * pitch) % 1.0 < 0.1)
    return np.where(joint, 0.1, 0.75 + 0.25 * noise(h, w, h / 6, w / 6, rng)).astype(np.float32)


def _snow(h: int, w: int, rng: np.random.Generator) -> Field:
    return 0.55 + 0.45 * noise(h, w, h / 5, w / 4, rng) - 0.35 * (noise(h, w, 3, 3, rng) > 0.86)


def _rock(h: int, w: int, rng: np.random.Generator) -> Field:
    ridge = np.abs(noise(h, w, h / 5, w / 5, rng) - 0.5) + 0.5 * np.abs(noise(h, w, h / 12, w / 12, rng) - 0.5)
    return np.clip(2.2 * ridge + 0.35 * (noise(h, w, 3, 3, rng) - 0.5), 0, 1)


def _leaves(h: int, w: int, rng: np.random.Generator) -> Field:
    unit = min(h, w)
    steps = np.round(3 * noise(h, w, unit * 0.07, unit * 0.09, rng)) / 3
    return 0.8 * steps.astype(np.float32) + 0.2 * noise(h, w, 3, 3, rng)


# (field, dark colour hsv, light colour hsv). The classes take them in this order; further ones turn the hue.
_BACKGROUNDS: tuple[tuple[Callable[[int, int, np.random.Generator], Field], tuple, tuple], ...] = (
    (_water, (0.57, 0.75, 0.5), (0.52, 0.45, 0.85)),
    (_pebbles, (0.08, 0.25, 0.3), (0.1, 0.18, 0.75)),
    (_planks, (0.06, 0.65, 0.25), (0.09, 0.5, 0.68)),
    (_grass, (0.3, 0.75, 0.28), (0.24, 0.7, 0.7)),
    (_leaves, (0.05, 0.8, 0.35), (0.11, 0.8, 0.85)),
    (_rock, (0.65, 0.15, 0.25), (0.6, 0.1, 0.65)),
    (_sand, (0.1, 0.45, 0.68), (0.13, 0.3, 0.93)),
    (_bricks, (0.07, 0.2, 0.75), (0.02, 0.65, 0.65)),
    (_plaid, (0.95, 0.6, 0.5), (0.12, 0.25, 0.9)),
    (_clouds, (0.58, 0.6, 0.85), (0.58, 0.05, 0.98)),
    (_snow, (0.6, 0.25, 0.7), (0.58, 0.05, 0.97)),
    (_tiles, (0.45, 0.15, 0.55), (0.47, 0.4, 0.85)),
)


def background(kind: int, h: int, w: int, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Draw background ``kind`` (0 = that of class 0) as float32 (h, w, 3) 0..255.

    ``contrast`` 0..1 is the strength of the texture; colours, scale, direction and light differ from scene to scene.
    """
    field, dark, light = _BACKGROUNDS[kind % len(_BACKGROUNDS)]
    t = np.clip(field(h, w, rng), 0, 1).astype(np.float32)
    t = 0.5 + (0.35 + 0.65 * contrast) * (t - 0.5)
    turn = 0.37 * (kind // len(_BACKGROUNDS)) + rng.normal(0, 0.025)
    gain, tint = rng.uniform(0.8, 1.12), rng.normal(0, 0.06, 2)
    a = hsv(dark[0] + turn, dark[1] + tint[0], dark[2] * gain + tint[1])
    b = hsv(light[0] + turn, light[1] + tint[0], light[2] * gain + tint[1])
    image = a + t[..., None] * (b - a)
    # Light falls in from one side.
    slope = np.linspace(-1, 1, w, dtype=np.float32) * np.float32(rng.uniform(-0.13, 0.13))
    slope = (
        1.0 + slope[None, :] + np.linspace(-1, 1, h, dtype=np.float32)[:, None] * np.float32(rng.uniform(-0.13, 0.13))
    )
    return np.clip(image * slope[..., None], 0, 255)
