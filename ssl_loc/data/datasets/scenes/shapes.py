"""The objects: shape families made of parts, and the fine-grained kinds inside a family.

Unit coordinates: x to the right, y down, the object inside the circle of radius 1. A part is a polygon with a role; the
role says how it is painted ("body" carries the texture of the kind, "detail" the second colour, "dark" outlines, eyes
and legs, "light" highlights).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KINDS_PER_FAMILY = 3


@dataclass(frozen=True)
class Part:
    """One polygon of an object: ``points`` (n, 2) in unit coordinates."""

    role: str
    points: np.ndarray


@dataclass(frozen=True)
class Family:
    """A shape family.

    Attributes:
        name: first half of the class names.
        kinds: second halves; kind k shares the silhouette and differs in texture, parts and colour.
        textures: pattern of the body per kind (names of ``texture.PATTERNS``).
        hues: (body, detail) hue per kind, 0..1.
        parts: function (kind, generator) -> parts from back to front.
    """

    name: str
    kinds: tuple[str, ...]
    textures: tuple[str, ...]
    hues: tuple[tuple[float, float], ...]
    parts: Callable[[int, np.random.Generator], list[Part]]


def ellipse(cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, n: int = 28) -> np.ndarray:
    """Polygon of an ellipse turned by ``angle`` radians."""
    t = np.linspace(0.0, 2 * np.pi, n, endpoint=False)
    x, y = rx * np.cos(t), ry * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([cx + c * x - s * y, cy + s * x + c * y], axis=1)


def _poly(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def _limb(x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
    """A thin quadrilateral from one point to another."""
    across = np.array([-(y1 - y0), x1 - x0])
    across = across / (np.linalg.norm(across) + 1e-9) * width / 2
    a, b = np.array([x0, y0]), np.array([x1, y1])
    return np.stack([a + across, b + across * 0.6, b - across * 0.6, a - across])


def _fish(kind: int, rng: np.random.Generator) -> list[Part]:
    fat = rng.uniform(0.38, 0.5)
    tails = (
        _poly((0.4, 0.0), (0.98, -0.5), (0.8, 0.0), (0.98, 0.5)),
        ellipse(0.75, 0.0, 0.24, 0.38),
        _poly((0.4, 0.0), (0.96, -0.42), (0.96, 0.42)),
    )
    fins = (
        _poly((-0.3, -fat * 0.8), (0.1, -fat - 0.3), (0.4, -fat * 0.6)),
        _poly((-0.2, -fat * 0.85), (-0.1, -fat - 0.22), (0.1, -fat - 0.1), (0.25, -fat - 0.22), (0.35, -fat * 0.6)),
        _poly((-0.35, -fat * 0.75), (0.35, -fat - 0.28), (0.3, -fat * 0.65)),
    )
    return [
        Part("detail", tails[kind]),
        Part("detail", fins[kind]),
        Part("body", ellipse(-0.15, 0.0, 0.75, fat)),
        Part("detail", _poly((-0.1, 0.08), (0.22, 0.3), (0.2, 0.0))),
        Part("light", ellipse(-0.62, -0.1, 0.12, 0.12, n=16)),
        Part("dark", ellipse(-0.64, -0.1, 0.06, 0.06, n=12)),
    ]


def _mushroom(kind: int, rng: np.random.Generator) -> list[Part]:
    wide, tall = rng.uniform(0.8, 0.95), rng.uniform(0.6, 0.8)
    t = np.linspace(np.pi, 2 * np.pi, 22)
    cap = np.stack([wide * np.cos(t), 0.1 + (tall + 0.15) * np.sin(t)], axis=1)
    cap = np.concatenate([cap, _poly((wide * 0.6, 0.24), (0.0, 0.28), (-wide * 0.6, 0.24))])
    stem = rng.uniform(0.18, 0.28)
    parts = [
        Part("light", _poly((-stem, 0.1), (stem, 0.1), (stem * 1.25, 0.92), (0.0, 0.98), (-stem * 1.25, 0.92))),
        Part("body", cap),
    ]
    if kind == 0:
        parts.insert(
            1, Part("detail", _poly((-stem - 0.1, 0.42), (stem + 0.1, 0.42), (stem + 0.14, 0.58), (-stem - 0.14, 0.58)))
        )
    elif kind == 1:
        parts.append(
            Part("dark", _poly((-wide * 0.8, 0.16), (wide * 0.8, 0.16), (wide * 0.55, 0.25), (-wide * 0.55, 0.25)))
        )
    return parts


def _beetle(kind: int, rng: np.random.Generator) -> list[Part]:
    wide = rng.uniform(0.48, 0.6)
    parts = []
    for side in (-1, 1):
        for y in (-0.25, 0.1, 0.45):
            lift = rng.uniform(-0.12, 0.12)
            parts.append(Part("dark", _limb(0.0, y, side * 0.92, y + 0.18 * np.sign(y) + lift, 0.13)))
    if kind == 0:
        parts += [Part("dark", _limb(s * 0.1, -0.6, s * 0.35, -0.98, 0.1)) for s in (-1, 1)]
    elif kind == 1:
        parts.append(Part("dark", _poly((-0.12, -0.6), (0.0, -1.0), (0.12, -0.6))))
    parts += [
        Part("dark", ellipse(0.0, -0.62, 0.3, 0.24, n=18)),
        Part("body", ellipse(0.0, 0.15, wide, 0.72)),
        Part("dark", _limb(0.0, -0.55, 0.0, 0.86, 0.09)),
    ]
    if kind == 2:
        parts.append(Part("detail", ellipse(0.0, -0.36, wide * 0.75, 0.16, n=18)))
    return parts


def _flower(kind: int, rng: np.random.Generator) -> list[Part]:
    petals = (5, 8, 6)[kind]
    start, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.44)
    width = (0.32, 0.18, 0.24)[kind]
    parts = []
    for i in range(petals):
        a = start + 2 * np.pi * i / petals
        parts.append(Part("body", ellipse(0.55 * np.cos(a), 0.55 * np.sin(a), length, width, a, n=20)))
    parts.append(Part("detail", ellipse(0.0, 0.0, 0.3, 0.3, n=20)))
    if kind == 2:
        parts.append(Part("dark", ellipse(0.0, 0.0, 0.14, 0.14, n=14)))
    return parts


def _butterfly(kind: int, rng: np.random.Generator) -> list[Part]:
    spread = rng.uniform(0.38, 0.46)
    parts = []
    for side in (-1, 1):
        lower = ellipse(side * 0.42, 0.42, 0.4, 0.3 if kind else 0.22, side * 0.7, n=20)
        parts.append(Part("detail" if kind == 2 else "body", lower))
        parts.append(Part("body", ellipse(side * 0.5, -0.3, 0.5, spread, -side * 0.6, n=24)))
        parts.append(Part("dark", _limb(0.0, -0.4, side * 0.25, -0.9, 0.06)))
        if kind == 1:
            parts.append(Part("dark", ellipse(side * 0.6, -0.35, 0.13, 0.13, n=14)))
    parts.append(Part("dark", ellipse(0.0, 0.0, 0.1, 0.58, n=18)))
    return parts


def _mug(kind: int, rng: np.random.Generator) -> list[Part]:
    wide, taper = rng.uniform(0.5, 0.6), rng.uniform(0.0, 0.14)
    ring = np.concatenate([ellipse(0.55, 0.05, 0.4, 0.42), ellipse(0.55, 0.05, 0.22, 0.25)[::-1]])
    square = _poly(
        (0.3, -0.4), (0.92, -0.4), (0.92, 0.45), (0.3, 0.45), (0.3, 0.25), (0.72, 0.25), (0.72, -0.2), (0.3, -0.2)
    )
    parts = [
        Part("detail", square if kind == 1 else ring),
        Part("body", _poly((-wide, -0.7), (wide, -0.7), (wide - taper, 0.75), (-wide + taper, 0.75))),
        Part("dark", ellipse(0.0, -0.7, wide, 0.16, n=20)),
    ]
    if kind == 2:
        parts.insert(2, Part("detail", _poly((-wide, 0.3), (wide, 0.3), (wide, 0.55), (-wide, 0.55))))
    return parts


FAMILIES: tuple[Family, ...] = (
    Family(
        "fish",
        ("striped", "spotted", "banded"),
        ("stripes", "spots", "halves"),
        ((0.06, 0.6), (0.12, 0.5), (0.0, 0.7)),
        _fish,
    ),
    Family(
        "mushroom",
        ("ringed", "spotted", "rayed"),
        ("halves", "spots", "stripes"),
        ((0.08, 0.1), (0.99, 0.1), (0.05, 0.3)),
        _mushroom,
    ),
    Family(
        "beetle",
        ("striped", "spotted", "checked"),
        ("stripes", "spots", "checks"),
        ((0.35, 0.15), (0.02, 0.0), (0.6, 0.5)),
        _beetle,
    ),
    Family(
        "flower",
        ("veined", "plain", "dotted"),
        ("stripes", "halves", "spots"),
        ((0.85, 0.14), (0.15, 0.08), (0.75, 0.12)),
        _flower,
    ),
    Family(
        "butterfly",
        ("striped", "eyed", "checked"),
        ("stripes", "halves", "checks"),
        ((0.1, 0.6), (0.58, 0.1), (0.14, 0.9)),
        _butterfly,
    ),
    Family(
        "mug",
        ("checked", "striped", "dotted"),
        ("checks", "stripes", "spots"),
        ((0.55, 0.0), (0.0, 0.6), (0.3, 0.1)),
        _mug,
    ),
)
