"""One foreground per photo, with its class: what a Backgrounds Challenge set is made of.

The class is the photo's label (class folders, fine-grained releases). Where photos have objects of several classes
(COCO, VOC), the largest object that is neither a crowd nor "difficult" stands for the photo. The mask is that of the
objects, or a saliency map, cut to the object where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ssl_loc.data.catalog import Dataset, get_dataset
from ssl_loc.data.datasets.coco import load_coco_instances, object_arrays
from ssl_loc.data.datasets.voc import load_voc_instances
from ssl_loc.data.eval_transforms import whole
from ssl_loc.data.ground_truth import has_objects, rasterize
from ssl_loc.data.image_io import read_image, read_map
from ssl_loc.data.records import Record
from ssl_loc.saliency.binarize import binarize
from ssl_loc.saliency.map_io import MAP_SUFFIX
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import safe_join

GROUND_TRUTH, FOLDER = "ground_truth", "folder:"
# A square picture's value above which an interpolated mask is foreground.
_HALF = 127


@dataclass(frozen=True)
class Foreground:
    """A photo, its class, and (for datasets with objects) the one object that stands for it.

    Attributes:
        name: the photo's path without suffix, made to one word: its file name in every setting.
        label: class name.
        record: the photo, with the boxes and segments that belong to the foreground.
    """

    name: str
    label: str
    record: Record


@dataclass(frozen=True)
class Masks:
    """Where masks come from.

    Attributes:
        source: "ground_truth" or "folder:DIR" with DIR/<key>.png.
        rule: how a map becomes a mask (see ``saliency.binarize``); its largest part is taken, holes are filled.
    """

    source: str = GROUND_TRUTH
    rule: str = "adaptive"

    def __post_init__(self) -> None:
        folder = self.source.removeprefix(FOLDER)
        if self.source != GROUND_TRUTH and (folder == self.source or not folder):
            raise ConfigError(f"--masks is '{self.source}'; expected {GROUND_TRUTH} or {FOLDER}DIR")
        if self.source != GROUND_TRUTH and not Path(folder).is_dir():
            raise DataError(f"--masks names {folder}, which is no folder; expected DIR/<photo without suffix>.png")

    def file(self, record: Record) -> Path | None:
        """The map of a photo; None where masks are the objects."""
        if self.source == GROUND_TRUTH:
            return None
        return safe_join(self.source.removeprefix(FOLDER), f"{record.key}{MAP_SUFFIX}")

    def read(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        """Mask bool (H, W) of a photo of that size.

        Raises:
            DataError: the map is missing or cannot be read.
        """
        objects = rasterize(record, size) > 0 if has_objects(record) else None
        file = self.file(record)
        if file is None:
            return np.zeros(size, bool) if objects is None else objects
        grey = read_map(file)
        if grey.shape != size:
            grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_LINEAR)
        if objects is not None:
            grey = np.where(objects, grey, 0).astype(np.uint8)
        return binarize(grey, self.rule, fill_holes=True, largest=True)


def read_foreground(foreground: Foreground, masks: Masks, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The photo's central square, uint8 (side, side, 3), and its mask, bool (side, side)."""
    record = foreground.record
    image = read_image(record.path, record.trim_bottom)
    mask = masks.read(record, (image.shape[0], image.shape[1]))
    both = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)[None].to(torch.uint8) * 255
    square, square_mask = (whole(part, side) for part in both)
    return np.ascontiguousarray(square.permute(1, 2, 0).numpy()), square_mask[0].numpy() > _HALF


def find_foregrounds(spec: str, masks: Masks) -> list[Foreground]:
    """One foreground per photo of a dataset, sorted by class and name; photos without an object are not among them.

    Raises:
        DataError: the photos have neither labels nor objects with a class; or no objects where masks are those.
    """
    dataset = get_dataset(spec)
    labelled = bool((dataset.records.labels >= 0).any())
    found = _labelled(spec, masks) if labelled else _largest_objects(dataset)
    if masks.source == GROUND_TRUTH and not any(has_objects(f.record) for f in found):
        raise DataError(
            f"{spec} has no boxes or masks; expected --masks {FOLDER}DIR with a map of every photo "
            "(tools/make_saliency.py makes them), or a dataset with objects (coco:, voc:)"
        )
    names: dict[tuple[str, str], str] = {}
    for f in found:
        other = names.setdefault((f.label, f.name), f.record.path)
        if other != f.record.path:
            raise DataError(f"{other} and {f.record.path} would both be {f.label}/{f.name}; rename one of them")
    return sorted(found, key=lambda f: (f.label, f.name))


def _labelled(spec: str, masks: Masks) -> list[Foreground]:
    dataset = get_dataset(spec, annotations=masks.source == GROUND_TRUTH)
    classes = dataset.metadata["classes"]
    return [_foreground(classes[r.label], r, classes[r.label]) for r in dataset.records if r.label >= 0]


def _foreground(label: str, record: Record, folder: str = "") -> Foreground:
    # Class folders are part of the key; they come back as folders of the settings.
    key = record.key.removeprefix(f"{folder}/") if folder else record.key
    return Foreground(key.replace("/", "_"), label, record)


def _largest_objects(dataset: Dataset) -> list[Foreground]:
    rows, classes = _instances(dataset)
    records = {record.path: record for record in dataset.records}
    found = []
    for row in rows:
        record = records.get(row["file_name"])
        objects = [a for a in row["annotations"] if not a["iscrowd"] and not a["difficult"]]
        if record is None or not objects:
            continue
        largest = max(objects, key=lambda a: _area(a["bbox"]))
        boxed = Record(record.path, -1, record.key, **_arrays(largest))
        found.append(_foreground(classes[largest["category_id"]], boxed))
    if not found:
        raise DataError(f"{dataset.name}: no photo has an object; expected boxes with classes")
    return found


def _instances(dataset: Dataset) -> tuple[list[dict[str, Any]], list[str]]:
    meta = dataset.metadata
    readers: dict[str, Callable[[], tuple[list[dict[str, Any]], list[str]]]] = {
        "voc": lambda: (load_voc_instances(meta["voc_dir"], meta["split"]), meta["classes"]),
        "coco": lambda: _coco(meta["json_file"], meta["image_root"]),
    }
    if meta.get("kind") not in readers:
        raise DataError(
            f"{dataset.name} has photos without a class; expected class folders (class_folder:DIR), or a dataset whose "
            "objects have classes (coco:, voc:)"
        )
    return readers[meta["kind"]]()


def _coco(json_file: str, image_root: str) -> tuple[list[dict[str, Any]], list[str]]:
    rows, known = load_coco_instances(json_file, image_root)
    return rows, known["classes"]


def _arrays(annotation: dict[str, Any]) -> dict[str, Any]:
    arrays = object_arrays([annotation])
    return arrays if "segmentation" in annotation else {"boxes": arrays["boxes"]}


def _area(box: list[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
