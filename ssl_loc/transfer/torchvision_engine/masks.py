"""Mask targets from polygons or bitmaps, and masks back into the image, all as detectron2 defines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

# A box thinner than this (px) is treated as this thin, so that a degenerate RoI cannot scale to infinity.
_MIN_SIDE = 0.1


def rasterise_in_box(polygons: Sequence[np.ndarray], box: Sequence[float], side: int) -> np.ndarray:
    """Polygons (each flat x, y, x, y ... in image px) inside ``box`` (XYXY) -> bool (side, side).

    Binary and drawn at target resolution by COCO's own rasteriser, not a resized full-size bitmap (which is soft).
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    scale = (side / max(x2 - x1, _MIN_SIDE), side / max(y2 - y1, _MIN_SIDE))
    shifted = []
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        shifted.append(((points - (x1, y1)) * scale).reshape(-1).tolist())
    return draw_polygons(shifted, side, side)


def draw_polygons(polygons: Sequence[Any], height: int, width: int) -> np.ndarray:
    """The union of polygons (each flat x, y, x, y ...) -> bool (height, width)."""
    if not len(polygons):
        return np.zeros((height, width), dtype=bool)
    listed = [np.asarray(polygon, dtype=np.float64).tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(listed, height, width))).astype(bool)


def crop_bitmasks(bitmasks: Tensor, boxes: Tensor, index: Tensor, side: int) -> Tensor:
    """Bitmaps (M, h, w) of an image's objects, those of ``index`` (P,) inside boxes (P, 4) -> bool (P, side, side).

    Aligned adaptive RoI pooling of the bitmap; true where at least half is covered.
    """
    rois = torch.cat([index.to(boxes.dtype)[:, None], boxes], dim=1)
    covered = roi_align(bitmasks[:, None].float(), rois.float(), side, 1.0, sampling_ratio=0, aligned=True)
    return covered[:, 0] >= 0.5


def mask_targets(targets: Sequence[dict[str, Any]], boxes: list[Tensor], matched: list[Tensor], side: int) -> Tensor:
    """Targets of the positive RoIs of a batch -> float (P, side, side), where the boxes are.

    Args:
        targets: per image "bitmasks" (M, h, w), or else "polygons": M lists of flat arrays.
        boxes: positive RoIs of each image, (P_i, 4).
        matched: (P_i,) which object each of them is to find.
    """
    parts = []
    for target, image_boxes, index in zip(targets, boxes, matched, strict=True):
        if "bitmasks" in target:
            parts.append(crop_bitmasks(target["bitmasks"], image_boxes, index, side))
            continue
        pairs = zip(image_boxes.tolist(), index.tolist(), strict=True)
        drawn = [rasterise_in_box(target["polygons"][i], box, side) for box, i in pairs]
        shaped = np.stack(drawn) if drawn else np.zeros((0, side, side), dtype=bool)
        parts.append(torch.from_numpy(shaped).to(image_boxes.device))
    return torch.cat(parts).float()


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Mask probabilities (n, m, m) of boxes (n, 4) -> bool (n, height, width) of the image.

    Each pixel centre is looked up in the box's grid by bilinear interpolation, zero outside.
    """
    height, width = size
    out = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        x1, y1, x2, y2 = box
        # One px of margin: the interpolation reaches half a mask cell beyond the box.
        left, top = (max(int(torch.floor(v)) - 1, 0) for v in (x1, y1))
        right, bottom = min(int(torch.ceil(x2)) + 1, width), min(int(torch.ceil(y2)) + 1, height)
        if right <= left or bottom <= top:
            continue
        x = (torch.arange(left, right, device=box.device) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom, device=box.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
        soft = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
        out[i, top:bottom, left:right] = (soft >= threshold).cpu()
    return out
