"""Where a crop of an object comes from, and where it lands in a view (CVSA: Wu et al. 2022, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ssl_loc.data.augmenters.resize import Box
from ssl_loc.structures import Geometry, Sample

# Thinner patches show nothing.
MIN_PATCH_PX = 8


@dataclass(frozen=True)
class Placed:
    """A patch of the source and its place.

    Attributes:
        patch: integer XYXY in the source image.
        rectangle: integer XYXY in the view that shows all of the patch.
    """

    patch: Box
    rectangle: Box


def draw_patch(u: np.ndarray, box: Box, least: float, ratio: tuple[float, float]) -> Box:
    """A random crop inside ``box``, from four uniform numbers.

    Its area is a share of the box drawn from U(least, 1), its width / height log-uniform in ``ratio``, its place
    uniform. A side longer than the box is cut to it, which makes the area smaller in long and narrow boxes; a side
    below ``MIN_PATCH_PX`` is raised to it where the box allows.
    """
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    side = math.sqrt((least + (1 - least) * u[0]) * width * height)
    low, high = (math.log(value) / 2 for value in ratio)
    root = math.exp(low + (high - low) * u[1])
    w, h = _side(side * root, width), _side(side / root, height)
    x, y = x1 + int(u[2] * (width - w + 1)), y1 + int(u[3] * (height - h + 1))
    return x, y, x + w, y + h


def _side(length: float, limit: int) -> int:
    return min(max(round(length), MIN_PATCH_PX), limit)


def over_box(patch: Box, target: Box | None, background: Sample, size: int, keep_aspect: bool) -> Placed:
    """The patch over the box ``target`` of a background that is resized to a view of ``size`` px (mode I).

    Without a target the patch takes the whole view. The rectangle is rounded outwards, so that nothing of the object
    below stays. With ``keep_aspect`` the patch is scaled to cover the target, centred on it, and what leaves the
    background is cut off.
    """
    height, width = background.height, background.width
    x1, y1, x2, y2 = target or (0, 0, width, height)
    fx, fy = size / width, size / height
    if not keep_aspect or target is None:
        return Placed(
            patch, _at_least((math.floor(x1 * fx), math.floor(y1 * fy), math.ceil(x2 * fx), math.ceil(y2 * fy)), size)
        )
    px1, py1, px2, py2 = patch
    scale = max((x2 - x1) / (px2 - px1), (y2 - y1) / (py2 - py1))
    left, top = (x1 + x2 - scale * (px2 - px1)) / 2, (y1 + y2 - scale * (py2 - py1)) / 2
    right, bottom = left + scale * (px2 - px1), top + scale * (py2 - py1)
    kept = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    cut = (
        px1 + round((kept[0] - left) / scale), py1 + round((kept[1] - top) / scale),
        px2 - round((right - kept[2]) / scale), py2 - round((bottom - kept[3]) / scale),
    )  # fmt: skip
    rectangle = math.floor(kept[0] * fx), math.floor(kept[1] * fy), math.ceil(kept[2] * fx), math.ceil(kept[3] * fy)
    return Placed(_not_empty(cut, patch), _at_least(rectangle, size))


def _not_empty(box: Box, whole: Box) -> Box:
    """``box`` with at least one pixel per side, inside ``whole``."""
    x1, y1 = min(box[0], whole[2] - 1), min(box[1], whole[3] - 1)
    return x1, y1, max(box[2], x1 + 1), max(box[3], y1 + 1)


def _at_least(rectangle: Box, size: int) -> Box:
    """``rectangle`` with sides of at least ``MIN_PATCH_PX``, moved inside a view of ``size`` px."""
    x1, x2 = _widened(rectangle[0], rectangle[2], size)
    y1, y2 = _widened(rectangle[1], rectangle[3], size)
    return x1, y1, x2, y2


def _widened(low: int, high: int, size: int) -> tuple[int, int]:
    low, high = max(low, 0), min(high, size)  # rounding up can pass the border
    if high - low < MIN_PATCH_PX:
        low = min(max((low + high - MIN_PATCH_PX) // 2, 0), size - MIN_PATCH_PX)
        high = low + MIN_PATCH_PX
    return low, high


def free_rectangle(u: np.ndarray, patch: Box, size: int, least: float) -> Placed:
    """The patch at a uniform place of a view of ``size`` px, on a share of it drawn from U(least, 1) (mode II).

    ``u`` are three uniform numbers. The patch keeps its shape where it fits, else the longer side takes the whole view
    and the other one the rest of the area.
    """
    area = (least + (1 - least) * u[0]) * size * size
    root = math.sqrt((patch[2] - patch[0]) / (patch[3] - patch[1]))
    w = min(max(math.sqrt(area) * root, area / size), size)
    width = min(max(round(w), MIN_PATCH_PX), size)
    height = min(max(round(area / w), MIN_PATCH_PX), size)
    x, y = int(u[1] * (size - width + 1)), int(u[2] * (size - height + 1))
    return Placed(patch, (x, y, x + width, y + height))


def pasted_at(placed: Placed, size: int, before: Geometry) -> Geometry:
    """Geometry of a view of ``size`` px that shows a patch of its source in a rectangle.

    ``box`` is what the whole view would be if it went on like the rectangle, so that points of the object map rightly;
    ``shown`` is the patch.
    """
    x1, y1, x2, y2 = (float(v) for v in placed.patch)
    left, top, right, bottom = placed.rectangle
    sx, sy = (x2 - x1) / (right - left), (y2 - y1) / (bottom - top)
    box = (x1 - left * sx, y1 - top * sy, x2 + (size - right) * sx, y2 + (size - bottom) * sy)
    return Geometry(box, (size, size), before.source, constraint_met=before.constraint_met, shown=(x1, y1, x2, y2))
