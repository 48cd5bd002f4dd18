"""CUB-200-2011 and NABirds: the same text tables, ``<id> <value>``, in one folder.

Layout of ``cub:DIR:SPLIT`` and ``nabirds:DIR:SPLIT`` (SPLIT train or test; DIR holds the files or the folder
CUB_200_2011 or nabirds, as the archives unpack): images.txt, image_class_labels.txt, train_test_split.txt, classes.txt,
bounding_boxes.txt (read only where boxes are asked for) and images/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_loc.data.catalog import Dataset, register_path_form, register_scheme
from ssl_loc.data.datasets.release import (
    Release,
    check_images,
    numbers,
    read_table,
    record,
    same_ids,
    unique_names,
    whole,
)
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

CUB = Release("CUB-200-2011", ("CUB_200_2011",), {"train": 5994, "test": 5794}, 200)
NABIRDS = Release("NABirds", ("nabirds",), {"train": 23929, "test": 24633}, 555)
IMAGES, LABELS, SPLITS = "images.txt", "image_class_labels.txt", "train_test_split.txt"
CLASSES, BOXES, FOLDER = "classes.txt", "bounding_boxes.txt", "images/"


def load_cub(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``cub:DIR:SPLIT`` -> birds by image id, 200 classes."""
    return _load(CUB, "cub", directory, split, annotations)


def load_nabirds(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``nabirds:DIR:SPLIT`` -> birds by image id; classes are the leaves that have images (555 of 1,011 nodes)."""
    return _load(NABIRDS, "nabirds", directory, split, annotations)


def _load(release: Release, scheme: str, directory: str, split: str, annotations: bool) -> Dataset:
    release.check_split(split)
    needs = [IMAGES, LABELS, SPLITS, CLASSES, FOLDER, *([BOXES] if annotations else [])]
    root = release.locate(directory, needs, sum(release.counts.values()))
    images = {key: values[0] for key, values in read_table(root / IMAGES, 1).items()}
    names, labels = _classes(root, images)
    boxes = _boxes(root, images) if annotations else {}
    chosen = sorted(_of_split(root, images, split), key=_by_number)
    check_images(root / FOLDER, [images[key] for key in chosen], root / IMAGES)
    records = RecordTable.pack(record(root / FOLDER, images[k], labels[k], boxes=boxes.get(k)) for k in chosen)
    spec = f"{scheme}:{directory}:{split}"
    release.compare(spec, split, len(records), len(names))
    metadata = {"kind": scheme, "classes": names, "image_root": str(root / FOLDER), "split": split}
    return Dataset(spec, records, metadata)


def _by_number(key: str) -> tuple[int, str]:
    """CUB's ids are numbers (10 after 9), those of NABirds texts."""
    return (int(key) if key.isdecimal() else 0, key)


def _classes(root: Path, images: dict[str, str]) -> tuple[list[str], dict[str, int]]:
    """Class names, and image id -> class number from 0, over both splits so that they agree."""
    table = {key: whole(values[0], root / LABELS, key) for key, values in read_table(root / LABELS, 1).items()}
    same_ids(images, root / IMAGES, table, root / LABELS)
    known = {whole(key, root / CLASSES, key): values[0] for key, values in read_table(root / CLASSES, 1).items()}
    used = sorted(set(table.values()))
    if strange := [number for number in used if number not in known]:
        raise DataError(f"{root / LABELS} uses the class {strange[0]}, which {root / CLASSES} does not name")
    contiguous = {number: i for i, number in enumerate(used)}
    return unique_names({str(n): known[n] for n in used}), {key: contiguous[n] for key, n in table.items()}


def _of_split(root: Path, images: dict[str, str], split: str) -> list[str]:
    table = read_table(root / SPLITS, 1)
    same_ids(images, root / IMAGES, table, root / SPLITS)
    flags = {key: values[0] for key, values in table.items()}
    if bad := [key for key, flag in flags.items() if flag not in ("0", "1")]:
        raise DataError(f"{root / SPLITS}: the line of {bad[0]} has '{flags[bad[0]]}'; expected 1 (train) or 0 (test)")
    chosen = [key for key, flag in flags.items() if (flag == "1") == (split == "train")]
    if not chosen:
        raise DataError(f"{root / SPLITS} puts no image into the split '{split}'; expected 1 (train) and 0 (test)")
    return chosen


def _boxes(root: Path, images: dict[str, str]) -> dict[str, np.ndarray]:
    """x, y, width, height in pixels (fractions in CUB) -> XYXY."""
    table = read_table(root / BOXES, 4)
    same_ids(images, root / IMAGES, table, root / BOXES)
    boxes = {}
    for key, values in table.items():
        x, y, w, h = numbers(values, root / BOXES, key)
        boxes[key] = np.array([[x, y, x + w, y + h]], dtype=np.float32)
    return boxes


register_scheme("cub", load_cub, arguments=("DIR", "SPLIT"))
register_scheme("nabirds", load_nabirds, arguments=("DIR", "SPLIT"))
for _split in ("train", "test"):
    register_path_form(f"cub_{_split}", f"cub:{{root}}/cub:{_split}")
    register_path_form(f"nabirds_{_split}", f"nabirds:{{root}}/nabirds:{_split}")
