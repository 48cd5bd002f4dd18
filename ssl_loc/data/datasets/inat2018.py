"""iNaturalist 2018: 8,142 species.

Layout of ``inat2018:DIR:SPLIT`` (SPLIT train or val): DIR/<SPLIT>2018.json and the photos in
DIR/train_val2018/<group>/<species>/.
The json is COCO-like (images, annotations, categories) with one class per image and no boxes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_loc.data.catalog import Dataset, register_path_form, register_scheme
from ssl_loc.data.datasets.release import Release, check_images, record, some, unique_names
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, safe_join

INAT2018 = Release("iNaturalist 2018", ("inat2018",), {"train": 437513, "val": 24426}, 8142)
FOLDER = "train_val2018/"


def load_inat2018(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``inat2018:DIR:SPLIT`` -> photos sorted by path, 8,142 classes; there are no boxes."""
    INAT2018.check_split(split)
    root = INAT2018.locate(directory, [f"{split}2018.json", FOLDER], sum(INAT2018.counts.values()))
    file = root / f"{split}2018.json"
    files, labels, names = _read(file)
    images = root / FOLDER
    rows = sorted((_below(root, name, file), labels[i]) for i, name in files.items())
    check_images(images, [name for name, _ in rows], file)
    records = RecordTable.pack(record(images, name, label) for name, label in rows)
    spec = f"inat2018:{directory}:{split}"
    INAT2018.compare(spec, split, len(records), len(names))
    return Dataset(spec, records, {"kind": "inat2018", "classes": names, "image_root": str(images), "split": split})


def _below(root: Path, name: str, file: Path) -> str:
    """The path of an image relative to train_val2018/, where all of them are."""
    if not name.startswith(FOLDER):
        safe_join(root, name)
        raise DataError(f"{file} lists {name}; expected paths below {FOLDER}")
    return name[len(FOLDER) :]


def _read(file: Path) -> tuple[dict[int, str], dict[int, int], list[str]]:
    """Image id -> path, image id -> class number from 0 (categories by id, also those without an image), names."""
    content = read_json(file)
    lists: list[Any] = [content.get(k) if isinstance(content, dict) else None for k in ("images", "annotations")]
    lists.append(content.get("categories") if isinstance(content, dict) else None)
    if not all(isinstance(value, list) and value for value in lists):
        raise DataError(f"{file} needs the lists images, annotations and categories, none of them empty")
    try:
        files = {int(row["id"]): str(row["file_name"]) for row in lists[0]}
        given = {int(row["image_id"]): int(row["category_id"]) for row in lists[1]}
        known = {int(row["id"]): str(row["name"]) for row in lists[2]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"an entry of {file} cannot be used ({type(error).__name__}: {error}); expected images (id, file_name), "
            "annotations (image_id, category_id) and categories (id, name)"
        ) from None
    if lost := [files[i] for i in files if i not in given]:
        raise DataError(f"{len(lost)} of the {len(files)} images of {file} have no class: {some(lost)}")
    if strange := sorted(set(given.values()) - set(known)):
        raise DataError(f"{file} uses categories that it does not declare: {some(strange)}")
    number = {category: i for i, category in enumerate(sorted(known))}
    return files, {i: number[c] for i, c in given.items()}, unique_names({str(c): known[c] for c in sorted(known)})


register_scheme("inat2018", load_inat2018, arguments=("DIR", "SPLIT"))
register_path_form("inat2018_train", "inat2018:{root}/inat2018:train")
register_path_form("inat2018_val", "inat2018:{root}/inat2018:val")
