"""PASCAL VOC: one parser for pretraining, detection and ground-truth masks (from boxes).

Layout of ``voc:DEVKIT:YEAR:SPLIT``: DEVKIT/VOC<YEAR>/{JPEGImages, Annotations, ImageSets/Main/<SPLIT>.txt}. Pretraining
reads the split file and the image folder only. Data in the same layout with other classes names them, one per line, in
DEVKIT/VOC<YEAR>/classes.txt.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ssl_loc.data.catalog import Dataset, missing, register_path_form, register_scheme
from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.utils.errors import DataError, did_you_mean
from ssl_loc.utils.file_io import safe_join

# The 20 classes in the order of the development kit.
VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
CLASS_FILE = "classes.txt"


def voc_class_names(voc_dir: str | os.PathLike) -> list[str]:
    """Class names of a VOC folder: its classes.txt where there is one, else the 20 of PASCAL VOC."""
    file = Path(voc_dir) / CLASS_FILE
    if not file.is_file():
        return list(VOC_CLASSES)
    return read_lines(file)


def read_split(voc_dir: str | os.PathLike, split: str) -> list[str]:
    """Image ids of ImageSets/Main/<split>.txt in file order (further columns, as in class files, are left out)."""
    file = safe_join(Path(voc_dir) / "ImageSets" / "Main", f"{split}.txt")
    if not file.is_file():
        raise missing("VOC split file", file, _layout(voc_dir, split))
    return [line.split()[0] for line in read_lines(file)]


def read_lines(file: Path) -> list[str]:
    """Lines of a text file in UTF-8 (with or without the mark that Windows editors put first), empty ones left out.

    Raises:
        DataError: it is in another encoding.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8, for example iconv -f LATIN1 -t UTF-8"
        ) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_xml(file: Path) -> ElementTree.Element:
    """Root of an annotation file.

    Raises:
        DataError: it is no xml, or in an encoding that the parser does not have.
    """
    try:
        return ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is not valid xml: {error}") from None
    except (LookupError, ValueError) as error:  # as the parser says of encodings
        raise DataError(f"{file} is not valid xml: {error}; save it as UTF-8") from None


def load_voc_instances(
    voc_dir: str | os.PathLike, split: str, class_names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Read one split of a VOC folder.

    Args:
        voc_dir: e.g. VOCdevkit/VOC2007.
        split: name of a file in ImageSets/Main, e.g. "trainval".
        class_names: position = category id; None takes :func:`voc_class_names`.

    Returns:
        One dict per image in the order of the split file: ``{file_name, height, width, image_id (text), annotations:
        [{bbox (xmin - 1, ymin - 1, xmax, ymax), bbox_mode "XYXY", category_id, iscrowd 0, difficult}]}``. VOC counts
        pixels from 1 and includes the last one, hence the -1 on one side only: half-open boxes from 0.

    Raises:
        DataError: a file is missing or broken, or an object's class is not in ``class_names``.
    """
    names = list(voc_class_names(voc_dir) if class_names is None else class_names)
    ids = {name: i for i, name in enumerate(names)}
    return [
        _read_image(Path(voc_dir), image_id, path, ids) for image_id, path in _image_files(Path(voc_dir), split).items()
    ]


def _image_files(voc_dir: Path, split: str) -> dict[str, str]:
    """Image id -> file, in the order of the split file."""
    image_ids = read_split(voc_dir, split)
    folder = voc_dir / "JPEGImages"
    files = {stem(name): name for name in list_files(folder)}
    found: dict[str, str] = {}
    for image_id in image_ids:
        if image_id not in files:
            safe_join(folder, image_id)
            raise missing(f"image '{image_id}' of split '{split}'", folder / f"{image_id}.jpg", _layout(voc_dir, split))
        found[image_id] = os.path.join(folder, files[image_id])
    if not found:
        raise DataError(f"split '{split}' of {voc_dir} is empty; expected image ids, one per line")
    return found


def _read_image(voc_dir: Path, image_id: str, path: str, ids: dict[str, int]) -> dict[str, Any]:
    file = safe_join(voc_dir / "Annotations", f"{image_id}.xml")
    if not file.is_file():
        raise missing(f"annotation of image '{image_id}'", file, "VOC xml, one file per image of the split")
    root = read_xml(file)
    height, width = _size(root, path)
    annotations = [_read_object(node, ids, file) for node in root.findall("object")]
    return {"file_name": path, "height": height, "width": width, "image_id": image_id, "annotations": annotations}


def _size(root: ElementTree.Element, path: str) -> tuple[int, int]:
    """(height, width) from the xml; from the image header where the xml has none or zeros (some tools write them)."""
    try:
        height, width = int(root.findtext("size/height", "0")), int(root.findtext("size/width", "0"))
    except ValueError:
        height = width = 0
    if height > 0 and width > 0:
        return height, width
    from ssl_loc.data.image_io import read_size  # late: image libraries are not needed to list a dataset

    return read_size(path)


def _read_object(node: ElementTree.Element, ids: dict[str, int], file: Path) -> dict[str, Any]:
    name = (node.findtext("name") or "").strip()
    if name not in ids:
        raise DataError(
            f"{file} has an object of class '{name}'{did_you_mean(name, ids) or ', which is not known;'} expected one "
            f"of {', '.join(ids)}; other classes go into {CLASS_FILE} beside Annotations/, one name per line"
        )
    box = node.find("bndbox")  # a direct child: <part> elements have boxes of their own
    corners = [None if box is None else box.findtext(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(c or "missing") for c in corners)
        if not all(map(math.isfinite, (xmin, ymin, xmax, ymax))):
            raise ValueError
    except ValueError:
        raise DataError(f"{file}: object '{name}' has box {corners}; expected numbers xmin, ymin, xmax, ymax") from None
    return {
        "bbox": [xmin - 1, ymin - 1, xmax, ymax],
        "bbox_mode": "XYXY",
        "category_id": ids[name],
        "iscrowd": 0,
        "difficult": _difficult(node, file),
    }


def _difficult(node: ElementTree.Element, file: Path) -> int:
    text = (node.findtext("difficult") or "").strip()
    if (value := difficult_flag(text)) is None:
        name = (node.findtext("name") or "").strip()
        raise DataError(f"{file}: object '{name}' has <difficult>{text}</difficult>; expected 0 or 1, or leave it out")
    return value


def difficult_flag(text: str) -> int | None:
    """0 or 1; None for what is neither (some tools write "Unspecified"). Nothing is 0."""
    try:
        value = float(text or 0)
    except ValueError:
        return None
    return int(value) if value in (0, 1) else None


def load_voc(devkit: str, year: str, split: str, *, annotations: bool = False) -> Dataset:
    """``voc:DEVKIT:YEAR:SPLIT`` -> the images of that split, sorted by id, with boxes if asked for."""
    voc_dir = Path(devkit) / f"VOC{year}"
    if not voc_dir.is_dir():
        raise missing("VOC folder", voc_dir, _layout(voc_dir, split))
    files = _image_files(voc_dir, split)
    boxes: dict[str, np.ndarray] = {}
    if annotations:
        for row in load_voc_instances(voc_dir, split):
            found = [a["bbox"] for a in row["annotations"]]
            boxes[row["image_id"]] = np.asarray(found, dtype=np.float32).reshape(-1, 4)
    records = RecordTable.pack(Record(path=files[i], key=i, boxes=boxes.get(i)) for i in sorted(files))
    metadata = {"kind": "voc", "classes": voc_class_names(voc_dir), "image_root": str(voc_dir / "JPEGImages")}
    metadata |= {"voc_dir": str(voc_dir), "year": year, "split": split}
    return Dataset(f"voc:{devkit}:{year}:{split}", records, metadata)


def _layout(voc_dir: str | os.PathLike, split: str) -> str:
    name = Path(voc_dir).name
    return f"DEVKIT/{name}/{{JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/{split}.txt}}"


register_scheme("voc", load_voc, arguments=("DEVKIT", "YEAR", "SPLIT"))
for _year in ("2007", "2012"):
    for _split in ("train", "val", "trainval", "test"):
        register_path_form(f"voc_{_year}_{_split}", f"voc:{{root}}/VOCdevkit:{_year}:{_split}")
