"""From a dataset record to pixels and targets: PIL resize and flip, as detectron2 does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.run_lengths import check_run_lengths, decode_run_lengths
from ssl_loc.transfer.sampling import Slot
from ssl_loc.transfer.torchvision_engine.roi_heads import Target
from ssl_loc.utils.errors import DataError

# A box narrower than this after resizing (px) is dropped, as in detectron2.
_MIN_BOX = 1e-5


@dataclass
class Example:
    """One image ready for the detector.

    Attributes:
        image: uint8 (3, h, w) in the recipe's channel order.
        target: "boxes" (M, 4) float32 px of ``image``, "labels" (M,) 1..K, and, where masks
            are trained, "polygons" M lists of flat arrays or "bitmasks" bool (M, h, w).
        record: the dataset's dict (file_name, height, width, image_id).
    """

    image: Tensor
    target: Target
    record: dict[str, Any]


class Mapper:
    """Called as (record, slot) -> :class:`Example`; what is drawn depends on the seed and the slot only.

    The draws are those detectron2 makes from the same slot, so both engines see the same pixels in the same order.

    Args:
        training: draw a short side and a flip; otherwise the test size.
        min_sizes: short sides in px; ``sampling`` "choice" takes one, "range" anything between the two.
        max_size: upper limit of the long side in px.
        flip: "horizontal", "vertical" or "none".
        bgr: swap the channels.
        mask_format: "polygon", "bitmask" (drawn at the new size) or "" (no masks).
        seed: of the draws.
    """

    def __init__(
        self,
        training: bool,
        min_sizes: Sequence[int],
        max_size: int,
        sampling: str = "choice",
        flip: str = "none",
        bgr: bool = False,
        mask_format: str = "",
        seed: int = 0,
    ) -> None:
        self.training = training
        self.min_sizes = list(min_sizes)
        self.max_size = max_size
        self.sampling = sampling
        self.flip = flip
        self.bgr = bgr
        self.mask_format = mask_format
        self.seed = seed

    @classmethod
    def from_recipe(cls, recipe: Recipe, training: bool) -> Mapper:
        node, bgr = recipe.INPUT, recipe.INPUT.FORMAT == "BGR"
        if not training:
            return cls(False, [node.MIN_SIZE_TEST], node.MAX_SIZE_TEST, bgr=bgr)
        return cls(
            True,
            node.MIN_SIZE_TRAIN,
            node.MAX_SIZE_TRAIN,
            node.MIN_SIZE_TRAIN_SAMPLING,
            node.RANDOM_FLIP,
            bgr,
            recipe.INPUT.MASK_FORMAT if recipe.MODEL.MASK_ON else "",
            recipe.SEED,
        )

    def __call__(self, record: dict[str, Any], slot: Slot) -> Example:
        image = read_pil(record)
        # The legacy generator, because it is numpy's global one that detectron2 draws from.
        rng = np.random.RandomState(slot.generator_state(self.seed))
        width, height = image.size
        new_height, new_width = resized(height, width, self._short_side(rng), self.max_size)
        pixels = np.asarray(image.resize((new_width, new_height), Image.Resampling.BILINEAR))
        flip = self.flip if self.training and self.flip != "none" and rng.uniform(0, 1) < 0.5 else "none"
        if flip != "none":
            pixels = pixels[:, ::-1] if flip == "horizontal" else pixels[::-1]
        if self.bgr:
            pixels = pixels[:, :, ::-1]
        # A view with negative strides cannot become a tensor.
        tensor = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))
        scale = (new_width / width, new_height / height)
        target = self._target(record, scale, (new_height, new_width), flip) if self.training else {}
        return Example(tensor, target, record)

    def _short_side(self, rng: np.random.RandomState) -> int:
        if self.sampling == "range" and self.training:
            return int(rng.randint(self.min_sizes[0], self.min_sizes[-1] + 1))
        return int(rng.choice(self.min_sizes))

    def _target(self, record: dict[str, Any], scale: tuple[float, float], size: tuple[int, int], flip: str) -> Target:
        height, width = size
        boxes, labels = [], []
        masks: list[Any] = []
        for annotation in record["annotations"]:
            if annotation.get("iscrowd", 0):
                continue
            box = map_points(np.asarray(annotation["bbox"], dtype=np.float64), scale, size, flip)
            x1, x2 = sorted(np.clip(box[0::2], 0, width))
            y1, y2 = sorted(np.clip(box[1::2], 0, height))
            if x2 - x1 <= _MIN_BOX or y2 - y1 <= _MIN_BOX:
                continue
            if self.mask_format == "bitmask":
                mask = bitmask(annotation, record, scale, size, flip)
                if not mask.any():
                    continue
                masks.append(torch.from_numpy(mask))
            elif self.mask_format:
                masks.append([map_points(p, scale, size, flip) for p in _polygons(annotation, record)])
            boxes.append([x1, y1, x2, y2])
            labels.append(annotation["category_id"] + 1)
        target: Target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        if self.mask_format == "bitmask":
            target["bitmasks"] = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
        elif self.mask_format:
            target["polygons"] = masks
        return target


def read_pil(record: dict[str, Any]) -> Image.Image:
    """The RGB image of a record, turned as its EXIF says; a size other than the annotated one raises."""
    path = record["file_name"]
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error}") from None
    if image.size != (record["width"], record["height"]):
        raise DataError(
            f"image {path} is {image.size[0]}x{image.size[1]} px but its annotation says "
            f"{record['width']}x{record['height']}; image and annotation do not belong together"
        )
    return image


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Size (h, w) with short side ``short``, or smaller so that the long side is at most ``longest``; rounded. As in
    detectron2, a short side of 0 leaves the image as it is."""
    if short == 0:
        return height, width
    scale = short / min(height, width)
    new_height, new_width = (short, scale * width) if height < width else (scale * height, short)
    if max(new_height, new_width) > longest:
        shrink = longest / max(new_height, new_width)
        new_height, new_width = new_height * shrink, new_width * shrink
    return int(new_height + 0.5), int(new_width + 0.5)


def map_points(points: np.ndarray, scale: tuple[float, float], size: tuple[int, int], flip: str) -> np.ndarray:
    """Flat x, y, x, y ... of the original image -> the resized, flipped one of ``size`` (h, w)."""
    out = np.asarray(points, dtype=np.float64).copy()
    out[0::2] *= scale[0]
    out[1::2] *= scale[1]
    if flip == "horizontal":
        out[0::2] = size[1] - out[0::2]
    elif flip == "vertical":
        out[1::2] = size[0] - out[1::2]
    return out


def bitmask(
    annotation: dict[str, Any], record: dict[str, Any], scale: tuple[float, float], size: tuple[int, int], flip: str
) -> np.ndarray:
    """An object's mask, polygons or run-length code of the original image, as bool (h, w) of the mapped image.

    Polygons are mapped and then drawn; a bitmap is resized by its nearest pixel and then flipped.
    """
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, dict):
        from ssl_loc.transfer.torchvision_engine.masks import draw_polygons  # pycocotools only here

        return draw_polygons([map_points(p, scale, size, flip) for p in _polygons(annotation, record)], *size)
    check_run_lengths(segmentation, record)
    original = decode_run_lengths(segmentation)
    pixels = np.asarray(Image.fromarray(original).resize((size[1], size[0]), Image.Resampling.NEAREST))
    if flip != "none":
        pixels = pixels[:, ::-1] if flip == "horizontal" else pixels[::-1]
    return np.ascontiguousarray(pixels).astype(bool)


def _polygons(annotation: dict[str, Any], record: dict[str, Any]) -> list[np.ndarray]:
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, list) or not segmentation:
        hint = "; set INPUT.MASK_FORMAT bitmask" if segmentation else "; set MODEL.MASK_ON False"
        raise DataError(f"an object in {record['file_name']} has no polygon, which MODEL.MASK_ON needs here{hint}")
    return [np.asarray(p, dtype=np.float64) for p in segmentation]
