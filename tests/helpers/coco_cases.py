"""Random COCO ground truth (polygons, crowds, empty images, gaps in the ids) and detections with masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.predictions import ImagePrediction, encode_masks

SIDE = 260
# Neither contiguous nor sorted nor beginning with 0.
CATEGORY_IDS = {0: 90, 1: 3, 2: 17}


def random_coco(root: Path, seed: int, images: int = 10, spread: float = 4.0):
    """Write ROOT/instances.json; returns (dataset, predictions). Objects from 8 to 240 px, so all three area bins."""
    rng = np.random.default_rng(seed)
    annotations, dicts, predictions = [], [], []
    ids = sorted(rng.choice(1000, images, replace=False).tolist())
    for image in ids:
        listed = [] if rng.random() < 0.2 else [_ellipse(rng) for _ in range(rng.integers(1, 6))]
        detected = []
        for box in listed:
            c, crowd = int(rng.integers(3)), bool(rng.random() < 0.15)
            annotations.append(_annotation(len(annotations) + 5, image, c, box, crowd))
            for _ in range(rng.integers(0, 3)):
                detected.append((c, np.clip(np.array(box) + rng.normal(0, spread, 4), 0, SIDE), rng.random()))
        detected += [(int(rng.integers(3)), np.array(_ellipse(rng)), rng.random()) for _ in range(rng.integers(0, 3))]
        dicts.append({"file_name": f"{image}.jpg", "image_id": image, "height": SIDE, "width": SIDE, "annotations": []})
        predictions.append(_prediction(image, detected))
    path = root / f"instances_{seed}.json"
    header = [{"id": image, "height": SIDE, "width": SIDE, "file_name": f"{image}.jpg"} for image in ids]
    categories = [{"id": CATEGORY_IDS[c], "name": f"c{c}"} for c in range(3)]
    content = {"info": {}, "images": header, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    classes = [category["name"] for category in categories]
    return DetectionDataset("random", dicts, classes, "coco", 0, str(path), CATEGORY_IDS), predictions


def _ellipse(rng) -> tuple[float, float, float, float]:
    w, h = np.exp(rng.uniform(np.log(8), np.log(240), 2))
    x, y = rng.uniform(0, SIDE - w), rng.uniform(0, SIDE - h)
    return (x, y, x + w, y + h)


def _annotation(number: int, image: int, c: int, box, crowd: bool) -> dict:
    from pycocotools import mask as coco_mask

    x0, y0, x1, y1 = box
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([(x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angle), (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angle)], 1)
    polygon = [points.reshape(-1).round(2).tolist()]
    code = coco_mask.merge(coco_mask.frPyObjects(polygon, SIDE, SIDE))
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORY_IDS[c],
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": {"size": code["size"], "counts": code["counts"].decode()} if crowd else polygon,
        # Of the mask, as in COCO's own files: smaller than the box's.
        "area": float(coco_mask.area(code)),
        "iscrowd": int(crowd),
    }


def _prediction(image: int, detected) -> ImagePrediction:
    masks = np.zeros((len(detected), SIDE, SIDE), dtype=np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for mask, (_, (x0, y0, x1, y1), _) in zip(masks, detected, strict=True):
        half = max((x1 - x0) / 2, 1), max((y1 - y0) / 2, 1)
        mask[((columns - (x0 + x1) / 2) / half[0]) ** 2 + ((rows - (y0 + y1) / 2) / half[1]) ** 2 <= 1] = 1
    return ImagePrediction(
        image,
        np.array([box for _, box, _ in detected]).reshape(-1, 4),
        np.array([score for *_, score in detected]),
        np.array([c for c, *_ in detected], dtype=np.int64),
        encode_masks(masks),
    )
