"""Mask targets from polygons, and masks back into the image, both as detectron2 defines them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

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
    if not shifted:
        return np.zeros((side, side), dtype=bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(shifted, side, side))).astype(bool)


def mask_targets(
    polygons: Sequence[Sequence[Sequence[np.ndarray]]], boxes: list[Tensor], matched: list[Tensor], side: int
) -> Tensor:
    """Targets of the positive RoIs of a batch: ``polygons[image][object]`` -> float (P, side, side)."""
    targets = []
    for objects, image_boxes, index in zip(polygons, boxes, matched, strict=True):
        for box, i in zip(image_boxes.tolist(), index.tolist(), strict=True):
            targets.append(rasterise_in_box(objects[i], box, side))
    if not targets:
        return torch.zeros(0, side, side)
    return torch.from_numpy(np.stack(targets)).float()


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
