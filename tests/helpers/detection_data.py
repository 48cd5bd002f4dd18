"""Small drawn detection sets: coloured rectangles and ellipses on noise, as VOC and COCO trees of the same objects."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

CLASSES = ("box", "disc")
_COLOURS = ((220, 60, 60), (60, 90, 220))


def draw_detection_data(root: Path, train: int = 6, test: int = 3, size: int = 72, seed: int = 0) -> dict[str, str]:
    """Write ROOT/coco and ROOT/VOCdevkit/VOC2007; returns dataset names {"voc_train", "voc_test", "coco_train", ...}.

    Images alternate between wide, tall and square; the last one of each split has no object.
    """
    generator = np.random.default_rng(seed)
    devkit = root / "VOCdevkit"
    voc = devkit / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    (voc / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for split, count in (("train", train), ("test", test)):
        images, annotations, stems = [], [], []
        (root / "coco" / split).mkdir(parents=True)
        for i in range(count):
            height, width = (size, size + 16) if i % 3 == 0 else (size + 16, size) if i % 3 == 1 else (size, size)
            picture = generator.integers(90, 150, (height, width, 3), dtype=np.uint8)
            objects = [] if i == count - 1 else [_draw(picture, generator) for _ in range(2)]
            stem = f"{split}_{i:03d}"
            cv2.imwrite(str(root / "coco" / split / f"{stem}.jpg"), picture)
            cv2.imwrite(str(voc / "JPEGImages" / f"{stem}.jpg"), picture)
            _write_xml(voc / "Annotations" / f"{stem}.xml", objects, height, width)
            stems.append(stem)
            images.append({"id": i + 1, "file_name": f"{stem}.jpg", "height": height, "width": width})
            for c, (x0, y0, x1, y1), polygon in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": 10 * (c + 1),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "segmentation": [polygon],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        categories = [{"id": 10 * (c + 1), "name": name} for c, name in enumerate(CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / "coco" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return {
        **{f"voc_{split}": f"voc:{devkit}:2007:{split}" for split in ("train", "test")},
        **{f"coco_{split}": f"coco:{root / 'coco'}:{split}" for split in ("train", "test")},
    }


def _draw(picture: np.ndarray, generator: np.random.Generator) -> tuple[int, tuple[int, int, int, int], list[float]]:
    """Draw one object; (class, box XYXY, polygon x0 y0 x1 y1 ...)."""
    height, width = picture.shape[:2]
    c = int(generator.integers(len(CLASSES)))
    w, h = (int(v) for v in generator.integers(18, 34, 2))
    x0, y0 = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
    if CLASSES[c] == "box":
        corners = np.array([[x0, y0], [x0 + w, y0], [x0 + w, y0 + h], [x0, y0 + h]], dtype=float)
    else:
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        corners = np.stack([x0 + w / 2 + w / 2 * np.cos(angle), y0 + h / 2 + h / 2 * np.sin(angle)], axis=1)
    cv2.fillPoly(picture, [corners.round().astype(np.int32)], _COLOURS[c])
    return c, (x0, y0, x0 + w, y0 + h), corners.reshape(-1).tolist()


def _write_xml(path: Path, objects: list, height: int, width: int) -> None:
    top = ElementTree.Element("annotation")
    size = ElementTree.SubElement(top, "size")
    for key, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for c, (x0, y0, x1, y1), _ in objects:
        tag = ElementTree.SubElement(top, "object")
        ElementTree.SubElement(tag, "name").text = CLASSES[c]
        ElementTree.SubElement(tag, "difficult").text = "0"
        box = ElementTree.SubElement(tag, "bndbox")
        # VOC counts from 1 and includes the last pixel.
        for key, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.ElementTree(top).write(path)
