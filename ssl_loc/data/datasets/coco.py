"""COCO: one parser for pretraining, detection and ground-truth masks.

Layout of ``coco:DIR:SPLIT``: images in DIR/SPLIT/, annotations in DIR/annotations/instances_SPLIT.json. Pretraining
lists the images and never opens the json (100 s of MB) unless ground-truth masks are asked for.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssl_loc.data.catalog import Dataset, missing, register_path_form, register_scheme
from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.records import Record, RecordTable, Segment
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, safe_join

_LOGGER = logging.getLogger(__name__)
# A polygon needs three points.
MIN_POLYGON_NUMBERS = 6


def load_coco_instances(
    json_file: str | os.PathLike, image_root: str | os.PathLike
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read an instances json.

    Args:
        json_file: COCO "instances" json.
        image_root: folder that its ``file_name`` entries are relative to; they may not leave it.

    Returns:
        dicts: one per image, sorted by image id, images without annotations included: ``{file_name, height, width,
            image_id, annotations: [{bbox (x1, y1, x2, y2), bbox_mode "XYXY", category_id (contiguous), segmentation?
            (polygons or run-length dict), iscrowd, difficult}]}``. Crowds are kept with iscrowd = 1.
        metadata: ``{classes, category_ids {contiguous: json id}, without_polygon [ids of annotations left out],
            json_file, image_root}``.

    Raises:
        DataError: the file is missing, is no instances json, or refers to images or categories it does not declare.
    """
    content = read_json(json_file)
    lists = {name: content.get(name) if isinstance(content, dict) else None for name in ("images", "categories")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise DataError(f"{json_file} is no COCO instances file; expected an object with 'images' and 'categories'")
    categories = _sorted_categories(content["categories"], json_file)
    contiguous = {category["id"]: i for i, category in enumerate(categories)}
    dicts = [_image_dict(image, json_file, image_root) for image in content["images"]]
    rows = {row["image_id"]: row for row in dicts}
    without_polygon = []
    for annotation in content.get("annotations") or []:
        row = rows.get(annotation.get("image_id"))
        if row is None:
            raise DataError(
                f"annotation {annotation.get('id')} of {json_file} belongs to image id {annotation.get('image_id')!r}, "
                "which the file does not declare"
            )
        instance = _instance(annotation, contiguous, json_file)
        if instance is None:
            without_polygon.append(annotation.get("id", "without id"))
        else:
            row["annotations"].append(instance)
    if without_polygon:
        _LOGGER.warning("%s: %d instances without a valid polygon were left out", json_file, len(without_polygon))
    metadata = {
        "classes": [category["name"] for category in categories],
        "category_ids": {i: category["id"] for i, category in enumerate(categories)},
        "without_polygon": without_polygon,
        "json_file": str(json_file),
        "image_root": str(image_root),
    }
    return [rows[i] for i in sorted(rows)], metadata


def _sorted_categories(rows: list[Any], json_file: str | os.PathLike) -> list[dict[str, Any]]:
    for row in rows:
        if not is_category(row):
            raise DataError(f"a category of {json_file} is {row!r}; expected an id (a number) and a name (text)")
    return sorted(rows, key=lambda row: row["id"])


def _image_dict(image: dict[str, Any], json_file: str | os.PathLike, root: str | os.PathLike) -> dict[str, Any]:
    try:
        return {
            "file_name": str(safe_join(root, image["file_name"])),
            "height": _pixels(image["height"]),
            "width": _pixels(image["width"]),
            "image_id": image["id"],
            "annotations": [],
        }
    except KeyError as error:
        raise DataError(f"an image entry of {json_file} lacks {error}: {image}") from None
    except (TypeError, ValueError):
        raise DataError(
            f"an image entry of {json_file} is {image}; expected id, file_name (text), height and width (whole numbers)"
        ) from None


def _pixels(value: Any) -> int:
    if not is_whole(value):
        raise ValueError
    return int(value)


def is_whole(value: Any) -> bool:
    """A whole number, also one that a tool has written as 480.0."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def is_category(value: Any) -> bool:
    """An entry of a json's categories that has what is needed."""
    return isinstance(value, dict) and is_whole(value.get("id")) and isinstance(value.get("name"), str)


def is_polygon(value: Any) -> bool:
    """Three points at least; a flat list of numbers, as hand-made files have it for a mask, is no list of them."""
    return isinstance(value, list) and len(value) >= MIN_POLYGON_NUMBERS and len(value) % 2 == 0


def _instance(annotation: dict[str, Any], contiguous: dict[int, int], json_file: Any) -> dict[str, Any] | None:
    """One annotation in our form; None if it has polygons but no valid one (as detectron2 leaves it out)."""
    name = f"annotation {annotation.get('id')} of {json_file}"
    try:
        x, y, w, h = (float(v) for v in annotation["bbox"])
        if not all(map(math.isfinite, (x, y, w, h))):
            raise ValueError
        category = contiguous[annotation["category_id"]]
    except KeyError as error:
        if error.args[0] in ("bbox", "category_id"):
            raise DataError(f"{name} lacks {error}") from None
        raise DataError(f"{name} has category id {error}, which the file does not declare") from None
    except (TypeError, ValueError):
        raise DataError(f"{name} has bbox {annotation['bbox']!r}; expected [x, y, width, height]") from None
    instance = {
        "bbox": _corners(x, y, w, h),
        "bbox_mode": "XYXY",
        "category_id": category,
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "difficult": 0,
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        segmentation = [part for part in segmentation if is_polygon(part)]
        if not segmentation:
            return None
    if segmentation:
        instance["segmentation"] = segmentation
    return instance


def _corners(x: float, y: float, w: float, h: float) -> list[float]:
    """x1, y1, x2, y2 in float32, as detectron2's BoxMode.convert gives them.

    Anchors and proposals whose overlap with a box is equally large are told apart by the last bits of it.
    """
    with np.errstate(over="ignore"):
        box = np.array([x, y, w, h], dtype=np.float32)
    box[2:] += box[:2]
    return [float(v) for v in box]


def load_coco(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``coco:DIR:SPLIT`` -> the images of DIR/SPLIT, sorted by name, with boxes and segments if asked for.

    Images that the json does not mention come without objects, exactly like images it mentions without annotations.
    """
    layout = f"DIR/{split}/*.jpg and, for labels, DIR/annotations/instances_{split}.json with DIR = {directory}"
    image_root = Path(directory) / split
    files = list_files(image_root) if image_root.is_dir() else []
    if not files:
        raise missing("COCO images", image_root, layout)
    json_file = Path(directory) / "annotations" / f"instances_{split}.json"
    metadata: dict[str, Any] = {"kind": "coco", "classes": [], "image_root": str(image_root), "split": split}
    metadata["json_file"] = str(json_file)
    objects: dict[str, list[dict[str, Any]]] = {}
    if annotations:
        if not json_file.is_file():
            raise missing("COCO annotations", json_file, layout)
        dicts, known = load_coco_instances(json_file, image_root)
        metadata.update(known)
        objects = {row["file_name"]: row["annotations"] for row in dicts}
    root = os.fspath(image_root)
    records = RecordTable.pack(
        Record(path=os.path.join(root, name), key=stem(name), **_objects(objects, root, name, annotations))
        for name in files
    )
    return Dataset(f"coco:{directory}:{split}", records, metadata)


def _objects(table: dict[str, list[dict[str, Any]]], root: str, name: str, wanted: bool) -> dict[str, Any]:
    return object_arrays(table.get(str(safe_join(root, name)), [])) if wanted else {}


def object_arrays(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Boxes and segments of one image's annotations, as :class:`Record` keeps them.

    An object without a segmentation is represented by the four corners of its box.
    """
    boxes = np.asarray([a["bbox"] for a in annotations], dtype=np.float32).reshape(-1, 4)
    segments: list[Segment] = []
    for annotation in annotations:
        segment = annotation.get("segmentation")
        if segment is None:
            x1, y1, x2, y2 = annotation["bbox"]
            segment = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        segments.append(segment)
    return {"boxes": boxes, "segments": segments}


register_scheme("coco", load_coco, arguments=("DIR", "SPLIT"))
register_path_form("coco_2017_train", "coco:{root}/coco:train2017")
register_path_form("coco_2017_val", "coco:{root}/coco:val2017")
