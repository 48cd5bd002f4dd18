"""Detection datasets for both engines: one name or path -> records with objects, class names and the metric's needs.

Accepted names::

    coco_2017_train, coco_2017_val                     under $SSL_LOC_DATASETS/coco
    voc_{2007,2012}_{train,val,trainval,test}          under $SSL_LOC_DATASETS/VOCdevkit
    scenes_train, scenes_val                           under $SSL_LOC_DATASETS/scenes (its COCO form)
    coco:DIR:SPLIT                                     DIR/annotations/instances_SPLIT.json and DIR/SPLIT/
    voc:DEVKIT:YEAR:SPLIT                              DEVKIT/VOCYEAR/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt}
    scenes:DIR:SPLIT                                   the same as coco:DIR/coco:SPLIT
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_loc.utils.errors import ConfigError, DataError, did_you_mean

# The twenty classes of PASCAL VOC, in the devkit's (alphabetical) order.
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
# One class per line, beside Annotations/ or in the devkit's root: names and order for VOC trees with other classes.
CLASS_FILE = "classes.txt"
_VOC_NAME = re.compile(r"voc_(2007|2012)_(train|val|trainval|test)")
_COCO_NAME = re.compile(r"coco_2017_(train|val)")
_SCENES_NAME = re.compile(r"scenes_(train|val)")
_EXAMPLES = (
    *("coco_2017_train", "coco_2017_val", "voc_2007_trainval", "voc_2007_test", "voc_2012_trainval"),
    *("scenes_train", "scenes_val"),
)


@dataclass
class DetectionDataset:
    """Images with objects.

    Attributes:
        name: what was asked for.
        dicts: one per image: ``file_name, height, width, image_id, annotations``; an annotation has ``bbox`` (XYXY px,
            0-based, continuous), ``bbox_mode`` "XYXY", ``category_id`` (contiguous), ``iscrowd``, ``difficult`` and,
            where known, ``segmentation`` (polygons or a run-length code).
        classes: names; the contiguous category id is the position.
        kind: "voc" or "coco"; decides the metric.
        year: VOC year (2007 means eleven-point AP); 0 for COCO.
        json_file: COCO annotation file; empty for VOC and for concatenated sets.
        category_ids: contiguous id -> id in the json.
        root: folder the images lie under, for messages.
    """

    name: str
    dicts: list[dict[str, Any]]
    classes: list[str]
    kind: str
    year: int = 0
    json_file: str = ""
    category_ids: dict[int, int] = field(default_factory=dict)
    root: str = ""

    def __len__(self) -> int:
        return len(self.dicts)


def get_detection_dataset(name: str) -> DetectionDataset:
    """Load one dataset by catalog name or path form.

    Raises:
        ConfigError: the name is unknown.
        DataError: the tree is incomplete; the sentence says what is missing where.
    """
    return _resolve(name)(name)


def get_detection_datasets(names: str | Sequence[str]) -> DetectionDataset:
    """Load several datasets as one, for training; their classes must be equal, in the same order."""
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise ConfigError("DATASETS.TRAIN names no dataset; give at least one, for example ('voc_2007_trainval',)")
    parts = [get_detection_dataset(name) for name in wanted]
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for other in parts[1:]:
        if other.classes != first.classes:
            raise ConfigError(
                f"{first.name} has {len(first.classes)} classes ({_few(first.classes)}) and {other.name} has "
                f"{len(other.classes)} ({_few(other.classes)}); datasets trained on together need equal classes in "
                f"equal order (a VOC tree takes them from {CLASS_FILE})"
            )
    return DetectionDataset(
        name=" + ".join(part.name for part in parts),
        dicts=[record for part in parts for record in part.dicts],
        classes=first.classes,
        kind=first.kind,
        year=first.year,
        category_ids=first.category_ids,
        root=first.root,
    )


def require_masks(dataset: DetectionDataset) -> None:
    """Raise :class:`DataError` unless every object has a mask; asked before training with MODEL.MASK_ON."""
    for record in dataset.dicts:
        for annotation in record["annotations"]:
            if not annotation.get("segmentation"):
                raise DataError(
                    f"MODEL.MASK_ON is True, but {dataset.name} has an object without a mask (in "
                    f"{record['file_name']}); use a COCO-style dataset with segmentations, or set MODEL.MASK_ON False"
                )


def _resolve(name: str) -> Callable[[str], DetectionDataset]:
    kind, _, rest = name.partition(":")
    if not rest:
        return _by_catalog_name(name)
    if kind == "voc":
        parts = rest.rsplit(":", 2)
        if len(parts) == 3:
            return lambda n: _load_voc(n, Path(parts[0]), parts[1], parts[2], "")
    elif kind in ("coco", "scenes"):
        parts = rest.rsplit(":", 1)
        if len(parts) == 2:
            root = Path(parts[0]) / "coco" if kind == "scenes" else Path(parts[0])
            return lambda n: _load_coco(n, root, parts[1], "")
    raise ConfigError(
        f"dataset '{name}' is not in a known form; expected coco:DIR:SPLIT, voc:DEVKIT:YEAR:SPLIT, scenes:DIR:SPLIT or "
        f"a name such as {', '.join(_EXAMPLES[:4])}"
    )


def _by_catalog_name(name: str) -> Callable[[str], DetectionDataset]:
    from ssl_loc.data.catalog import dataset_root

    hint = f" (from $SSL_LOC_DATASETS or ./datasets: {dataset_root()})"
    if found := _VOC_NAME.fullmatch(name):
        year, split = found.groups()
        return lambda n: _load_voc(n, dataset_root() / "VOCdevkit", year, split, hint)
    if found := _COCO_NAME.fullmatch(name):
        split = f"{found.group(1)}2017"
        return lambda n: _load_coco(n, dataset_root() / "coco", split, hint)
    if found := _SCENES_NAME.fullmatch(name):
        split = found.group(1)
        return lambda n: _load_coco(n, dataset_root() / "scenes" / "coco", split, hint)
    raise ConfigError(
        f"no detection dataset is called '{name}'{did_you_mean(name, _EXAMPLES)} Known: {', '.join(_EXAMPLES)}, or a "
        "path: coco:DIR:SPLIT, voc:DEVKIT:YEAR:SPLIT, scenes:DIR:SPLIT"
    )


def _load_coco(name: str, root: Path, split: str, hint: str) -> DetectionDataset:
    from ssl_loc.data.datasets.coco import load_coco_instances

    json_file, images = root / "annotations" / f"instances_{split}.json", root / split
    _require_tree(name, [json_file, images], hint, _splits_of_coco(root))
    dicts, metadata = load_coco_instances(str(json_file), str(images))
    dataset = DetectionDataset(
        name=name,
        dicts=dicts,
        classes=list(metadata["classes"]),
        kind="coco",
        json_file=str(json_file),
        category_ids={int(k): int(v) for k, v in metadata["category_ids"].items()},
        root=str(root),
    )
    _require_images(dataset)
    return dataset


def _load_voc(name: str, devkit: Path, year: str, split: str, hint: str) -> DetectionDataset:
    from ssl_loc.data.datasets.voc import load_voc_instances

    if not year.isdigit():
        raise ConfigError(
            f"dataset '{name}' gives the VOC year as '{year}'; expected voc:DEVKIT:YEAR:SPLIT with a number"
        )
    root = devkit / f"VOC{year}"
    lists = root / "ImageSets" / "Main"
    needed = [root / "Annotations", root / "JPEGImages", lists / f"{split}.txt"]
    _require_tree(name, needed, hint, _splits_of_voc(lists))
    classes = voc_classes(devkit, root, split)
    dicts = load_voc_instances(str(root), split, classes)
    dataset = DetectionDataset(name=name, dicts=dicts, classes=classes, kind="voc", year=int(year), root=str(root))
    _require_images(dataset)
    return dataset


def voc_classes(devkit: Path, root: Path, split: str) -> list[str]:
    """Class names of a VOC tree: its classes.txt, else the twenty of PASCAL VOC, else every name found, sorted."""
    for path in (root / CLASS_FILE, devkit / CLASS_FILE):
        if path.is_file():
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    stems = [
        line.split()[0]
        for line in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines()
        if line.strip()
    ]
    paths = [root / "Annotations" / f"{stem}.xml" for stem in stems]
    if _names_in(path for path in paths if path.is_file()) <= set(VOC_CLASSES):
        return list(VOC_CLASSES)
    # All annotations, not only the split's: training and test must number the classes alike.
    return sorted(_names_in((root / "Annotations").glob("*.xml")))


def _names_in(paths: Any) -> set[str]:
    names = set()
    for path in paths:
        try:
            tree = ElementTree.parse(path)
        except ElementTree.ParseError as error:
            raise DataError(f"{path} is not valid XML: {error}") from None
        names |= {(tag.findtext("name") or "").strip() for tag in tree.iter("object")}
    return names


def _splits_of_coco(root: Path) -> list[str]:
    return sorted(path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json"))


def _splits_of_voc(lists: Path) -> list[str]:
    # Main/ also holds one list per class and split ("dog_val.txt").
    return sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)


def _require_tree(name: str, needed: Sequence[Path], hint: str, splits: Sequence[str]) -> None:
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        there = f"; splits found there: {', '.join(splits)}" if splits else ""
        raise DataError(f"dataset {name} is incomplete{hint}: missing {', '.join(missing)}{there}")


def _require_images(dataset: DetectionDataset) -> None:
    """Every image file exists; one directory listing per folder instead of one look-up per image."""
    if not dataset.dicts:
        raise DataError(f"dataset {dataset.name} lists no images; its root is {dataset.root}")
    by_folder: dict[str, list[str]] = defaultdict(list)
    for record in dataset.dicts:
        folder, file = os.path.split(record["file_name"])
        by_folder[folder].append(file)
    missing = []
    for folder, files in by_folder.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        missing += [os.path.join(folder, file) for file in files if file not in present]
    if missing:
        raise DataError(
            f"dataset {dataset.name} lists {len(dataset.dicts)} images, but {len(missing)} of the files are missing "
            f"(first: {missing[0]}); complete the download or correct the lists"
        )


def _few(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
