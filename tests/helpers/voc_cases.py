"""Hand-made VOC ground truth and detections, in memory and as a folder on disk."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.predictions import ImagePrediction

VOC_TAGS = ("name", "pose", "truncated", "difficult")


def make_dataset(objects, classes=("a",), year=2012):
    """objects: image id -> list of (class, box XYXY, difficult)."""
    dicts = [
        {
            "file_name": f"{image}.jpg",
            "height": 100,
            "width": 100,
            "image_id": image,
            "annotations": [
                {"bbox": list(box), "bbox_mode": "XYXY", "category_id": c, "iscrowd": 0, "difficult": difficult}
                for c, box, difficult in listed
            ],
        }
        for image, listed in objects.items()
    ]
    return DetectionDataset("hand", dicts, list(classes), "voc", year)


def predict(found):
    """found: image id -> list of (class, box XYXY, score)."""
    return [
        ImagePrediction(
            image,
            np.array([box for _, box, _ in listed]).reshape(-1, 4),
            np.array([score for *_, score in listed]),
            np.array([c for c, *_ in listed]),
        )
        for image, listed in found.items()
    ]


def random_case(seed, images=12, classes=3, difficult=0.2):
    """(objects, found) with near and far detections, duplicates among them; whole-pixel objects."""
    rng = np.random.default_rng(seed)

    def box():
        corner = rng.integers(0, 60, 2)
        return [float(v) for v in (*corner, *(corner + rng.integers(8, 40, 2)))]

    objects, found = {}, {}
    for i in range(images):
        listed = [(int(rng.integers(classes)), box(), int(rng.random() < difficult)) for _ in range(rng.integers(1, 5))]
        near = [
            (c, (np.array(b) + rng.normal(0, 2.5, 4)).round(3).tolist(), float(rng.random()))
            for c, b, _ in listed
            for _ in range(rng.integers(0, 3))
        ]
        far = [(int(rng.integers(classes)), box(), float(rng.random())) for _ in range(rng.integers(0, 3))]
        objects[f"{i:06d}"], found[f"{i:06d}"] = listed, near + far
    return objects, found


def write_voc_tree(root: Path, objects, classes, split="test", tags=VOC_TAGS):
    """A VOC folder of the objects, with empty 100 x 100 images; 1-based inclusive boxes, as on disk."""
    from PIL import Image

    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(objects) + "\n")
    for image, listed in objects.items():
        Image.new("RGB", (100, 100)).save(root / f"JPEGImages/{image}.jpg")
        top = ElementTree.Element("annotation")
        for c, (x0, y0, x1, y1), difficult in listed:
            tag = ElementTree.SubElement(top, "object")
            fields = {"name": classes[c], "pose": "?", "truncated": 0, "difficult": difficult}
            for key in tags:
                ElementTree.SubElement(tag, key).text = str(fields[key])
            corners = ElementTree.SubElement(tag, "bndbox")
            for key, value in {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}.items():
                ElementTree.SubElement(corners, key).text = f"{value:g}"
        ElementTree.ElementTree(top).write(root / f"Annotations/{image}.xml")
