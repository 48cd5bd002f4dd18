"""Detection datasets for both engines: one name or path -> records with objects, class names and the metric's needs.

Accepted names::

    coco_2017_train, coco_2017_val                     under $SSL_LOC_DATASETS/coco
    voc_{2007,2012}_{train,val,trainval,test}          under $SSL_LOC_DATASETS/VOCdevkit
    scenes_train, scenes_val                           under $SSL_LOC_DATASETS/scenes
    coco:DIR:SPLIT                                     DIR/annotations/instances_SPLIT.json and DIR/SPLIT/
    voc:DEVKIT:YEAR:SPLIT                              DEVKIT/VOCYEAR/{Annotations,JPEGImages,ImageSets/Main/SPLIT.txt}
    scenes:DIR:SPLIT                                   the same as coco:DIR/coco:SPLIT
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_loc.transfer.run_lengths import check_run_lengths
from ssl_loc.utils.errors import ConfigError, DataError, did_you_mean

# Path forms that carry boxes, with the number of their arguments after DIR.
_FORMS = {"coco": ("coco:DIR:SPLIT", 1), "scenes": ("scenes:DIR:SPLIT", 1), "voc": ("voc:DEVKIT:YEAR:SPLIT", 2)}
_USAGE = ", ".join(form for form, _ in _FORMS.values())


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
        without_polygon: ids in the json of objects that ``dicts`` leaves out because none of their polygons is valid.
    """

    name: str
    dicts: list[dict[str, Any]]
    classes: list[str]
    kind: str
    year: int = 0
    json_file: str = ""
    category_ids: dict[int, int] = field(default_factory=dict)
    root: str = ""
    without_polygon: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.dicts)


@dataclass(frozen=True)
class Place:
    """Where a named dataset lies.

    Attributes:
        kind: "voc", "coco" or "scenes".
        root: VOC: the DEVKIT folder; COCO and scenes: the folder with ``annotations``.
        split: name of the split.
        year: VOC year as text; empty otherwise.
        hint: the root of named datasets, for messages; empty for path forms.
    """

    kind: str
    root: Path
    split: str
    year: str = ""
    hint: str = ""


def parse_name(name: str) -> Place:
    """Catalog name or path form -> place on disk, whether or not anything is there.

    Raises:
        ConfigError: the name is unknown or no detection dataset's.
    """
    from ssl_loc.data.catalog import DATASET_REGISTRY, ROOT_VARIABLE, dataset_root, resolve_path_form

    form = resolve_path_form(name)
    kind, colon, rest = form.partition(":")
    if not colon:
        known = [n for n in DATASET_REGISTRY.names() if resolve_path_form(n).partition(":")[0] in _FORMS]
        raise ConfigError(
            f"no detection dataset is called '{name}'{did_you_mean(name, known) or '.'} Known: {', '.join(known)}; or "
            f"a path form: {_USAGE} (DATASETS.TRAIN, DATASETS.TEST)"
        )
    arguments = rest.rsplit(":", _FORMS[kind][1]) if kind in _FORMS else []
    if not all(arguments) or len(arguments) != _FORMS.get(kind, ("", 0))[1] + 1:
        raise ConfigError(f"dataset '{name}' is not in a form that has boxes; expected {_USAGE}, or a registered name")
    hint = f" (${ROOT_VARIABLE} is {dataset_root().absolute()})" if form != name else ""
    if kind == "voc":
        devkit, year, split = arguments
        if not year.isdigit():
            raise ConfigError(
                f"dataset '{name}' gives the VOC year as '{year}'; expected voc:DEVKIT:YEAR:SPLIT with a number"
            )
        return Place(kind, Path(devkit), split, year, hint)
    root = Path(arguments[0]) / "coco" if kind == "scenes" else Path(arguments[0])
    return Place(kind, root, arguments[1], hint=hint)


def get_detection_dataset(name: str) -> DetectionDataset:
    """Load one dataset by catalog name or path form.

    Raises:
        ConfigError: the name is unknown.
        DataError: the tree is incomplete; the sentence says what is missing where.
    """
    place = parse_name(name)
    return _load_voc(name, place) if place.kind == "voc" else _load_coco(name, place)


def get_detection_datasets(names: str | Sequence[str]) -> DetectionDataset:
    """Load several datasets as one, for training; their classes must be equal, in the same order."""
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise ConfigError("DATASETS.TRAIN names no dataset; give at least one, for example ('voc_2007_trainval',)")
    return join([get_detection_dataset(name) for name in wanted])


def join(parts: Sequence[DetectionDataset]) -> DetectionDataset:
    """Several datasets as one; raises :class:`ConfigError` unless their classes are equal, in the same order."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for other in parts[1:]:
        if other.classes != first.classes:
            raise ConfigError(
                f"{first.name} has {len(first.classes)} classes ({_few(first.classes)}) and {other.name} has "
                f"{len(other.classes)} ({_few(other.classes)}); datasets trained on together need equal classes in "
                f"equal order (a VOC folder names them in classes.txt)"
            )
    return DetectionDataset(
        name=" + ".join(part.name for part in parts),
        dicts=[record for part in parts for record in part.dicts],
        classes=first.classes,
        kind=first.kind,
        year=first.year,
        category_ids=first.category_ids,
        root=first.root,
        without_polygon=[number for part in parts for number in part.without_polygon],
    )


def require_masks(dataset: DetectionDataset, to_find: bool = False) -> None:
    """Raise :class:`DataError` unless every object has a mask that can be read; asked before training with
    MODEL.MASK_ON.

    Args:
        to_find: the set is one to evaluate on, where objects cannot be left out.
    """
    if to_find and dataset.without_polygon:
        raise DataError(
            f"MODEL.MASK_ON is True, but {len(dataset.without_polygon)} objects of {dataset.json_file} have no valid "
            f"polygon (annotations {_few([str(i) for i in dataset.without_polygon])}); expected segmentation as a list "
            "of lists of at least 6 numbers, [[x, y, x, y, x, y]]; correct them, or set MODEL.MASK_ON False"
        )
    for record in dataset.dicts:
        for annotation in record["annotations"]:
            if isinstance(annotation.get("segmentation"), dict):
                check_run_lengths(annotation["segmentation"], record)
            if not annotation.get("segmentation"):
                raise DataError(
                    f"MODEL.MASK_ON is True, but {dataset.name} has an object without a mask (in "
                    f"{record['file_name']}); use a COCO-style dataset with segmentations, or set MODEL.MASK_ON False"
                )


def require_polygons(dataset: DetectionDataset) -> None:
    """Raise :class:`ConfigError` if an object to learn from has a run-length mask; for INPUT.MASK_FORMAT polygon."""
    for record in dataset.dicts:
        if any(isinstance(a.get("segmentation"), dict) and not a["iscrowd"] for a in record["annotations"]):
            raise ConfigError(
                f"INPUT.MASK_FORMAT is 'polygon' but {dataset.name} has run-length masks (in {record['file_name']}); "
                "set INPUT.MASK_FORMAT bitmask"
            )


def _load_coco(name: str, place: Place) -> DetectionDataset:
    from ssl_loc.data.datasets.coco import load_coco_instances
    from ssl_loc.transfer.layout_coco import missing_parts

    root = place.root
    json_file, images = root / "annotations" / f"instances_{place.split}.json", root / place.split
    _require_tree(name, place, missing_parts(root, place.split, place.kind == "scenes"))
    dicts, metadata = load_coco_instances(str(json_file), str(images))
    dataset = DetectionDataset(
        name=name,
        dicts=dicts,
        classes=list(metadata["classes"]),
        kind="coco",
        json_file=str(json_file),
        category_ids={int(k): int(v) for k, v in metadata["category_ids"].items()},
        root=str(root),
        without_polygon=metadata["without_polygon"],
    )
    _require_images(dataset)
    return dataset


def _load_voc(name: str, place: Place) -> DetectionDataset:
    from ssl_loc.data.datasets.voc import load_voc_instances
    from ssl_loc.transfer.layout_voc import missing_parts

    root = place.root / f"VOC{place.year}"
    _require_tree(name, place, missing_parts(place.root, place.year, place.split))
    classes = voc_classes(root, place.split)
    dicts = load_voc_instances(str(root), place.split, classes)
    dataset = DetectionDataset(
        name=name, dicts=dicts, classes=classes, kind="voc", year=int(place.year), root=str(root)
    )
    _require_images(dataset)
    return dataset


def voc_classes(root: Path, split: str) -> list[str]:
    """Class names of a VOC folder: its classes.txt, else the twenty of PASCAL VOC, else every name found, sorted."""
    from ssl_loc.data.datasets.voc import CLASS_FILE, VOC_CLASSES, read_split, voc_class_names

    if (root / CLASS_FILE).is_file():
        return voc_class_names(root)
    paths = [root / "Annotations" / f"{stem}.xml" for stem in read_split(root, split)]
    if _names_in(path for path in paths if path.is_file()) <= set(VOC_CLASSES):
        return list(VOC_CLASSES)
    # All annotations, not only the split's: training and test must number the classes alike.
    return sorted(_names_in((root / "Annotations").glob("*.xml")))


def _names_in(paths: Iterable[Path]) -> set[str]:
    from ssl_loc.data.datasets.voc import read_xml

    names = set()
    for path in paths:
        names |= {(tag.findtext("name") or "").strip() for tag in read_xml(path).findall("object")}
    return names


def _require_tree(name: str, place: Place, missing: Sequence[str]) -> None:
    if missing:
        raise DataError(f"dataset {name} is incomplete{place.hint}: {'; '.join(missing)}")


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
