"""One scene: a background, distractors, and objects with their exact visible masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.shapes import FAMILIES, Part
from ssl_loc.data.datasets.scenes.texture import PATTERNS, Pattern, background, hsv
from ssl_loc.data.rng import Streams

# Objects are painted at this multiple of the image resolution and averaged down, so edges are smooth.
_SUPERSAMPLE = 2
# cv2.fillPoly's fixed-point coordinates: 4 fractional bits.
_SHIFT = 4
# An object of which less than this share stays visible is placed again (then kept where it hides least).
_MIN_VISIBLE = 0.5
_PLACEMENTS = 12
# Distractors at clutter 1.
_MAX_CLUTTER = 16

# The splits draw from different streams; a new one is added at the end.
SPLITS = ("train", "val", "objects_train", "objects_val", "backgrounds")


@dataclass
class Scene:
    """A drawn scene.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        masks: bool (M, H, W), visible pixels of each object; disjoint.
        labels: int64 (M,) class index.
        boxes: float32 (M, 4) XYXY half-open, tight around the visible pixels.
        label: class of the first object, the scene's main class.
        background: index of the background drawn (equal to ``label`` where it is the class's own).
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    label: int
    background: int

    @property
    def saliency(self) -> np.ndarray:
        """uint8 (H, W): 255 on any object."""
        return np.where(self.masks.any(axis=0), 255, 0).astype(np.uint8)


@dataclass
class Sprite:
    """A painted object: premultiplied colour float32 (h, w, 3) and cover float32 (h, w) 0..1."""

    colour: np.ndarray
    cover: np.ndarray


def streams(params: SceneParams, split: str, index: int) -> Streams:
    """The random streams of one scene."""
    return Streams(params.seed, SPLITS.index(split), index)


def draw_scene(params: SceneParams, split: str, index: int) -> Scene:
    """Draw scene ``index`` of ``split``; a function of its arguments alone."""
    random = streams(params, split, index)
    rng = random("layout")
    classes = len(params.classes)
    label = int(rng.integers(classes))
    own = rng.random() < params.correlation
    kind = label if own else int(rng.integers(classes))
    count = int(rng.integers(params.objects_min, params.objects_max + 1))
    labels = [label] + [
        label if rng.random() < params.same_class else int(rng.integers(classes)) for _ in range(count - 1)
    ]
    canvas = draw_ground(params, kind, random)
    sprites = [draw_sprite(params, c, random(f"object{i}")) for i, c in enumerate(labels)]
    return compose(canvas, sprites, labels, kind, random("placement"))


def draw_ground(params: SceneParams, kind: int, random: Streams) -> np.ndarray:
    """Background ``kind`` with its distractors, float32 (H, W, 3)."""
    canvas = background(kind, params.height, params.width, params.clutter, random("background"))
    _scatter(canvas, params.clutter, random("clutter"))
    return canvas


def draw_sprite(params: SceneParams, label: int, rng: np.random.Generator, size: float | None = None) -> Sprite:
    """Paint one object of class ``label``; ``size`` is its diameter as a share of the shorter side (drawn if None)."""
    family, kind = FAMILIES[label // params.kinds], label % params.kinds
    if size is None:
        size = float(rng.uniform(*params.object_size))
    side = max(6, round(size * min(params.width, params.height)))
    matrix = _pose(rng)
    parts = family.parts(kind, rng)
    paints = _paints(family.hues[kind], rng)
    pattern_rng = np.random.Generator(np.random.Philox(key=int(rng.integers(1 << 62))))
    big = side * _SUPERSAMPLE
    colour = np.zeros((big, big, 3), np.float32)
    cover = np.zeros((big, big), np.uint8)
    body = _body_paint(big, matrix, PATTERNS[family.textures[kind]], paints, pattern_rng)
    for part in parts:
        polygon = _to_pixels(part, matrix, big)
        cv2.fillPoly(cover, [polygon], 1, lineType=cv2.LINE_8, shift=_SHIFT)
        if part.role == "body":
            stencil = np.zeros((big, big), np.uint8)
            cv2.fillPoly(stencil, [polygon], 1, lineType=cv2.LINE_8, shift=_SHIFT)
            cv2.copyTo(body, stencil, colour)
        else:
            cv2.fillPoly(colour, [polygon], paints[part.role].tolist(), lineType=cv2.LINE_8, shift=_SHIFT)
    light = np.linspace(1.12, 0.82, big, dtype=np.float32)[:, None, None]
    colour = np.minimum(colour * light, 255) * cover[..., None]
    small = cv2.resize(colour, (side, side), interpolation=cv2.INTER_AREA)
    return Sprite(small, cv2.resize(cover.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA))


def compose(canvas: np.ndarray, sprites: list[Sprite], labels: list[int], kind: int, rng: np.random.Generator) -> Scene:
    """Place the sprites on the canvas (later ones in front) and collect what stays visible."""
    h, w = canvas.shape[:2]
    masks = np.zeros((0, h, w), bool)
    image = canvas.copy()
    for sprite in sprites:
        y, x = _place(sprite, masks, rng)
        mask = paste(image, sprite, y, x)
        masks = np.concatenate([masks & ~mask, mask[None]])
    image += rng.normal(0, 3.0, (h, w, 1)).astype(np.float32)  # sensor noise, in grey levels
    kept = masks.any(axis=(1, 2))
    return Scene(
        image=np.clip(image + 0.5, 0, 255).astype(np.uint8),
        masks=masks[kept],
        labels=np.array(labels, np.int64)[kept],
        boxes=boxes_of(masks[kept]),
        label=labels[0],
        background=kind,
    )


def paste(image: np.ndarray, sprite: Sprite, y: int, x: int) -> np.ndarray:
    """Blend a sprite (and its soft shadow) into ``image`` in place; return its bool (H, W) mask."""
    side = sprite.cover.shape[0]
    h, w = image.shape[:2]
    drop = max(1, side // 14)
    y1, x1 = min(h, y + side + drop), min(w, x + side + drop)
    shadow = np.zeros((side + drop, side + drop), np.float32)
    shadow[drop:, drop:] = cv2.blur(sprite.cover, (2 * drop + 1, 2 * drop + 1))
    image[y:y1, x:x1] *= 1 - 0.35 * shadow[: y1 - y, : x1 - x, None]
    image[y : y + side, x : x + side] *= 1 - sprite.cover[..., None]
    image[y : y + side, x : x + side] += sprite.colour
    mask = np.zeros((h, w), bool)
    mask[y : y + side, x : x + side] = sprite.cover >= 0.5
    return mask


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Tight XYXY half-open boxes, float32 (M, 4), of non-empty bool masks (M, H, W)."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box[:] = cols[0], rows[0], cols[-1] + 1, rows[-1] + 1
    return boxes


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Unit coordinates -> unit coordinates: turn, mirror, squeeze; stays inside the unit circle."""
    angle, mirror = rng.uniform(-0.6, 0.6), rng.choice([-1.0, 1.0])
    squeeze = (
        np.diag([mirror, rng.uniform(0.85, 1.0)])
        if rng.random() < 0.5
        else np.diag([mirror * rng.uniform(0.85, 1.0), 1.0])
    )
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ squeeze


def _paints(hues: tuple[float, float], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Colours by role: the hues of the kind, varied from object to object."""
    shift = rng.normal(0, 0.05)
    tone = rng.uniform(0.85, 1.1)
    return {
        "body": hsv(hues[0] + shift, rng.uniform(0.6, 0.95), 0.9 * tone),
        "detail": hsv(hues[1] + shift, rng.uniform(0.5, 0.85), 0.8 * tone),
        "second": hsv(hues[1] + shift, rng.uniform(0.1, 0.35), 1.0 * tone),
        "dark": hsv(hues[0] + 0.5, 0.3, rng.uniform(0.08, 0.2)),
        "light": hsv(0.12, 0.1, 0.96),
    }


def _body_paint(
    side: int, matrix: np.ndarray, pattern: Pattern, paints: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The body's texture over the whole sprite, float32 (side, side, 3), fixed to the object's own axes."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2.0 / side) - 1.0
    back = np.linalg.inv(matrix).astype(np.float32)
    u = back[0, 0] * axis[None, :] + back[0, 1] * axis[:, None]
    v = back[1, 0] * axis[None, :] + back[1, 1] * axis[:, None]
    t = pattern(u, v, rng)[..., None]
    return np.ascontiguousarray(paints["body"] + t * (paints["second"] - paints["body"]), dtype=np.float32)


def _to_pixels(part: Part, matrix: np.ndarray, side: int) -> np.ndarray:
    """Polygon in cv2's fixed-point pixel coordinates (pixel centres at integers)."""
    points = (part.points @ matrix.T + 1.0) * (side / 2.0) - 0.5
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _place(sprite: Sprite, masks: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    """Top-left corner that leaves at least ``_MIN_VISIBLE`` of every object before, or the best one tried."""
    side = sprite.cover.shape[0]
    h, w = masks.shape[1:]
    tries = np.stack([rng.integers(0, h - side + 1, _PLACEMENTS), rng.integers(0, w - side + 1, _PLACEMENTS)], axis=1)
    if not len(masks):
        return int(tries[0, 0]), int(tries[0, 1])
    inside = sprite.cover >= 0.5
    areas = masks.sum(axis=(1, 2))
    best, best_share = tries[0], -1.0
    for y, x in tries:
        hidden = masks[:, y : y + side, x : x + side][:, inside].sum(axis=1)
        share = float((1 - hidden / np.maximum(areas, 1)).min())
        if share > best_share:
            best, best_share = (y, x), share
        if share >= _MIN_VISIBLE:
            break
    return int(best[0]), int(best[1])


def _scatter(canvas: np.ndarray, clutter: float, rng: np.random.Generator) -> None:
    """Draw distractors in place: thin twigs and small pebbles in colours near the ground's."""
    h, w = canvas.shape[:2]
    unit = min(h, w)
    scale = 1 << _SHIFT
    for _ in range(int(rng.integers(0, round(_MAX_CLUTTER * clutter) + 1))):
        y, x = rng.uniform(0, h), rng.uniform(0, w)
        base = canvas[min(int(y), h - 1), min(int(x), w - 1)]
        colour = np.clip(base * rng.uniform(0.45, 1.4) + rng.normal(0, 14, 3), 0, 255).tolist()
        start = (int(x * scale), int(y * scale))
        if rng.random() < 0.5:
            a, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.2) * unit
            end = (int((x + length * np.cos(a)) * scale), int((y + length * np.sin(a)) * scale))
            cv2.line(canvas, start, end, colour, max(1, round(0.012 * unit)), cv2.LINE_8, _SHIFT)
        else:
            axes = tuple(int(v * unit * scale) for v in rng.uniform(0.012, 0.045, 2))
            cv2.ellipse(canvas, start, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_8, _SHIFT)
