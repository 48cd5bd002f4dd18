"""Random resized crop: torchvision's distribution, drawn many at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.paste_records import with_paste_box
from ssl_loc.data.augmenters.ranges import check_range
from ssl_loc.data.augmenters.resize import Box, check_interpolation, crop_resize_image, crop_resize_mask
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Geometry, View
from ssl_loc.utils.errors import ConfigError

# Attempts of torchvision's RandomResizedCrop (and of the official CAST code) before the centre crop is taken.
SIZE_ATTEMPTS = 10
# A crop has at least this many pixels per side (where the image has them): a 1-pixel strip shows nothing.
MIN_SIDE_PX = 2
# Proposals looked at one by one before all others at once: 70% fit into a 4:3 photo, so one crop in 100 needs more.
SINGLES = 4


@register_config("AUGMENT.RANDOM_RESIZED_CROP")
def random_resized_crop_config() -> CfgNode:
    node = CfgNode()
    # Share of the image area that a crop takes, drawn uniformly (MoCo: .2 to 1; SimCLR and BYOL: .08 to 1).
    node.SCALE = [0.2, 1.0]
    # Width / height of a crop before resizing, drawn log-uniformly.
    node.RATIO = [3 / 4, 4 / 3]
    # "bilinear", or "bicubic" (BYOL); both antialiased.
    node.INTERPOLATION = "bilinear"
    # Side of the view in px; 0 takes AUGMENT.SIZE. For views of different sizes.
    node.SIZE = 0
    return node


@dataclass(frozen=True)
class CropRange:
    """Sizes and shapes a crop may have.

    Attributes:
        scale: (low, high) share of the image area.
        ratio: (low, high) of width / height.
        log_root: (low, high - low) of log(ratio) / 2, for the log-uniform draw of sqrt(width / height).
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    log_root: tuple[float, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_range("RANDOM_RESIZED_CROP.SCALE", self.scale)
        check_range("RANDOM_RESIZED_CROP.RATIO", self.ratio)
        low, high = (math.log(ratio) / 2 for ratio in self.ratio)
        object.__setattr__(self, "log_root", (low, high - low))  # the dataclass is frozen


def draw_sizes(u: np.ndarray, height: int, width: int, limits: CropRange) -> tuple[np.ndarray, np.ndarray]:
    """Crop widths and heights in px from uniform numbers ``u`` (K, >=2) -> two float arrays (K,) of whole numbers."""
    (scale_low, scale_high), (root_low, root_range) = limits.scale, limits.log_root
    side = np.sqrt((height * width) * (scale_low + (scale_high - scale_low) * u[:, 0]))
    root = np.exp(root_low + root_range * u[:, 1])
    w = np.maximum(np.rint(side * root), min(MIN_SIDE_PX, width))
    h = np.maximum(np.rint(side / root), min(MIN_SIDE_PX, height))
    return w, h


def smallest_crop_share(image: tuple[int, int], cells: tuple[int, int], limits: CropRange) -> float:
    """Lower bound of the share of a map that a crop holds once its sides are whole numbers.

    Args:
        image: (height, width) in px. Rounding takes up to half a pixel from each side of a crop.
        cells: (height, width) of the map. Where it is smaller than the image, rounding both edges of a crop to cells
            takes up to one cell more.
        limits: of the crops.
    """
    area = image[0] * image[1] * limits.scale[0]
    shares = []
    for ratio in limits.ratio:  # the thinnest crops lose most, flat or upright
        share = 1.0
        sides = math.sqrt(area / ratio), math.sqrt(area * ratio)
        for side, pixels, count in zip(sides, image, cells, strict=True):
            rounding = 0.5 / pixels if count == pixels else 0.5 / pixels + 1 / count
            share *= max(side / pixels - rounding, 0.0)
        shares.append(share)
    # Sums and products of floats may differ from the coverage, a quotient of integers, in the last digits.
    return min(shares) * (1 - 1e-9)


def draw_proposals(
    rng: np.random.Generator, count: int, height: int, width: int, limits: CropRange
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` crop proposals at uniform positions -> boxes int64 (count, 4) XYXY and ``fits`` bool (count,).

    Row k depends on the first 4 (k + 1) numbers of ``rng`` only, so asking for more never changes the first ones.
    Rows that do not fit into the image are not valid boxes.
    """
    u = rng.random((count, 4))
    w, h = draw_sizes(u, height, width, limits)
    fits = (w <= width) & (h <= height)
    boxes = np.empty((count, 4))
    boxes[:, 0] = np.floor(u[:, 2] * (width - w + 1))
    boxes[:, 1] = np.floor(u[:, 3] * (height - h + 1))
    boxes[:, 2] = boxes[:, 0] + w
    boxes[:, 3] = boxes[:, 1] + h
    return boxes.astype(np.int64), fits


def draw_single(rng: np.random.Generator, height: int, width: int, limits: CropRange) -> Box | None:
    """The next row of :func:`draw_proposals`, from the next 4 numbers of ``rng``; None if it does not fit.

    Nearly every crop ends here. Scalars cost a tenth of arrays, whose calls are slow when the pixels of the last view
    have just pushed their code out of the processor's cache.
    """
    u_area, u_shape, u_x, u_y = rng.random(4).tolist()
    (scale_low, scale_high), (root_low, root_range) = limits.scale, limits.log_root
    side = math.sqrt((height * width) * (scale_low + (scale_high - scale_low) * u_area))
    root = math.exp(root_low + root_range * u_shape)
    w = max(round(side * root), min(MIN_SIDE_PX, width))
    h = max(round(side / root), min(MIN_SIDE_PX, height))
    if w > width or h > height:
        return None
    x, y = int(u_x * (width - w + 1)), int(u_y * (height - h + 1))
    return x, y, x + w, y + h


def draw_rest(
    rng: np.random.Generator,
    count: int,
    height: int,
    width: int,
    limits: CropRange,
    singles: Sequence[Box | None],
) -> tuple[np.ndarray, np.ndarray]:
    """All ``count`` proposals, given the ``singles`` that :func:`draw_single` has already drawn -> boxes, fits."""
    boxes, fits = draw_proposals(rng, max(count - len(singles), 0), height, width, limits)
    rows = np.array([single or (0, 0, width, height) for single in singles], dtype=np.int64).reshape(-1, 4)
    fitting = np.array([single is not None for single in singles], dtype=bool)
    return np.concatenate([rows, boxes]), np.concatenate([fitting, fits])


def centre_box(height: int, width: int, ratio: tuple[float, float]) -> Box:
    """Largest centred box whose shape is within ``ratio``: what is taken when no attempt fits (torchvision)."""
    shape = width / height
    w, h = width, height
    if shape < ratio[0]:
        h = min(max(round(width / ratio[0]), MIN_SIDE_PX), height)
    elif shape > ratio[1]:
        w = min(max(round(height * ratio[1]), MIN_SIDE_PX), width)
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


def crop_view(
    view: View, box: Box, size: int, interpolation: str, constraint_met: bool = True, pixels: Tensor | None = None
) -> View:
    """Cut ``box`` (integer XYXY in the view's own frame) out of a view and resize it to a square of ``size`` px.

    ``pixels`` uint8 (3, y2 - y1, x2 - x1) are put in the place of the view's own pixels in the box.
    """
    h, w = view.image.shape[1:]
    out = (size, size)
    if pixels is None:
        image = crop_resize_image(view.image, box, out, interpolation)
    else:
        image = crop_resize_image(pixels, (0, 0, pixels.shape[2], pixels.shape[1]), out, interpolation)
    mask = None if view.mask is None else crop_resize_mask(view.mask, box, (h, w), out)
    geometry = view.geometry
    source_box: tuple[float, float, float, float] = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    if geometry.flip or geometry.size != geometry.source or geometry.box != (0.0, 0.0, float(w), float(h)):
        # The view was cut or mirrored before: express the new box in the source frame.
        corners = geometry.to_source(torch.tensor([source_box[:2], source_box[2:]], dtype=torch.float64))
        (x1, y1), (x2, y2) = corners.min(0).values.tolist(), corners.max(0).values.tolist()
        source_box = (x1, y1, x2, y2)
    met = geometry.constraint_met and constraint_met
    new = Geometry(source_box, out, geometry.source, geometry.flip, met)
    if geometry.shown is None:
        return View(image, mask, new, view.extra)
    # Only a part of the view came from the source: what the crop shows of it (nothing is an empty box).
    new = replace(new, shown=new.intersect(geometry) or (source_box[0], source_box[1], source_box[0], source_box[1]))
    return View(image, mask, new, with_paste_box(view.extra, new))


def crop_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Arguments that every crop shares, from AUGMENT.RANDOM_RESIZED_CROP."""
    node = cfg.AUGMENT.RANDOM_RESIZED_CROP
    return {
        "size": node.SIZE or cfg.AUGMENT.SIZE,
        "scale": tuple(node.SCALE),
        "ratio": tuple(node.RATIO),
        "interpolation": node.INTERPOLATION,
    }


@AUGMENTER_REGISTRY.register()
class RandomResizedCrop(Augmenter):
    """Crop of random area, shape and place, resized to a square (torchvision's distribution, antialiased).

    Args:
        size: side of the view in px.
        scale: share of the image area, uniform.
        ratio: width / height, log-uniform.
        interpolation: "bilinear" or "bicubic".
    """

    node = "RANDOM_RESIZED_CROP"
    stream = "crop"
    resizes = True

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        if size < 1:
            raise ConfigError(
                f"the side of the views is {size} px; expected 1 or more (AUGMENT.SIZE, or "
                "AUGMENT.RANDOM_RESIZED_CROP.SIZE, where 0 takes AUGMENT.SIZE)"
            )
        self.size = size
        self.limits = CropRange(tuple(scale), tuple(ratio))  # type: ignore[arg-type]  # it checks the lengths
        self.interpolation = check_interpolation(interpolation)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return crop_arguments(cfg)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Box:
        """Draw a box in an image of ``height`` x ``width`` px."""
        for _ in range(SINGLES):
            box = draw_single(rng, height, width, self.limits)
            if box is not None:
                return box
        boxes, fits = draw_proposals(rng, SIZE_ATTEMPTS - SINGLES, height, width, self.limits)
        fitting = int(fits.argmax())
        if not fits[fitting]:
            return centre_box(height, width, self.limits.ratio)
        x1, y1, x2, y2 = boxes[fitting].tolist()
        return x1, y1, x2, y2

    def place(self, view: View, streams: Streams, context: Context) -> tuple[Box, bool]:
        """Where this crop cuts: box (integer XYXY in the view's frame), and whether its constraint is met."""
        height, width = view.image.shape[1:]
        return self.draw(streams(self.stream), height, width), True

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        box, met = self.place(view, streams, context)
        return crop_view(view, box, self.size, self.interpolation, met)
