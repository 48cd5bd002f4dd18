"""Annotations of drawn scenes in COCO's and VOC's forms."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from ssl_loc.data.datasets.scenes.draw import Scene

# Annotation ids are image id * this + position; more than the objects a scene may hold.
_IDS_PER_IMAGE = 32
# Pixels are enlarged by this factor before tracing, so that the outline runs along pixel edges.
_TRACE = 3


def coco_annotations(scene: Scene, image_id: int, segmentation: str) -> list[dict[str, Any]]:
    """Annotations of one image; category ids are label + 1. ``segmentation``: "polygon" or "rle" (exact)."""
    found = []
    for k, (mask, label, box) in enumerate(zip(scene.masks, scene.labels, scene.boxes, strict=True)):
        x0, y0, x1, y1 = (float(v) for v in box)
        found.append(
            {
                "id": image_id * _IDS_PER_IMAGE + k,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": polygons(mask) if segmentation == "polygon" else rle(mask),
            }
        )
    return found


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a bool (H, W) mask along its pixel edges, COCO form; holes (only under occlusion) are filled."""
    big = cv2.resize(mask.astype(np.uint8), None, fx=_TRACE, fy=_TRACE, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(big, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found = []
    for outline in outlines:
        points = outline[:, 0, :]
        # The outermost enlarged pixel of a source pixel sits on its far edge, the innermost on its near edge.
        edges = points // _TRACE + (points % _TRACE == _TRACE - 1)
        turns = np.any(edges != np.roll(edges, 1, axis=0), axis=1)
        edges = edges[turns] if turns.any() else edges
        straight = np.all(np.roll(edges, 1, axis=0) + np.roll(edges, -1, axis=0) == 2 * edges, axis=1)
        found.append([float(v) for v in edges[~straight].reshape(-1)])
    return found


def rle(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths, the exact mask."""
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in code["size"]], "counts": code["counts"].decode("ascii")}


def coco_file(images: list[dict], annotations: list[dict], classes: list[str]) -> dict[str, Any]:
    """The whole json of a split."""
    return {
        "info": {"description": "procedural scenes of ssl_loc"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": name, "supercategory": name.split("_")[0]} for i, name in enumerate(classes)
        ],
    }


def voc_xml(scene: Scene, name: str, classes: list[str]) -> bytes:
    """VOC annotation: 1-based inclusive integer boxes."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "VOC2007"
    ElementTree.SubElement(root, "filename").text = name
    size = ElementTree.SubElement(root, "size")
    h, w = scene.image.shape[:2]
    for key, value in (("width", w), ("height", h), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for label, box in zip(scene.labels, scene.boxes, strict=True):
        node = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(node, "name").text = classes[label]
        for key in ("truncated", "difficult"):
            ElementTree.SubElement(node, key).text = "0"
        corners = ElementTree.SubElement(node, "bndbox")
        x0, y0, x1, y1 = (int(v) for v in box)
        for key, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(corners, key).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root)
