"""Image-level labels of PASCAL VOC: which classes a photo shows.

1 = present, -1 = absent, 0 = "difficult" (all objects of the class are marked so), as in the development kit's files
ImageSets/Main/<class>_<split>.txt; where a data set has no such files, the same from the objects in its xml files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_loc.data.datasets.voc import load_voc_instances, read_lines, read_split, voc_class_names
from ssl_loc.utils.errors import DataError

PRESENT, DIFFICULT, ABSENT = 1, 0, -1


def load_voc_labels(voc_dir: str | os.PathLike, split: str, class_names: Sequence[str] | None = None) -> np.ndarray:
    """int8 (N, C): rows in the sorted order of image ids (that of ``voc:DEVKIT:YEAR:SPLIT``), columns as classes.

    Raises:
        DataError: a class file has other images than the split, or another label; some class files are missing.
    """
    names = list(voc_class_names(voc_dir) if class_names is None else class_names)
    ids = sorted(set(read_split(voc_dir, split)))
    folder = Path(voc_dir) / "ImageSets" / "Main"
    files = {name: folder / f"{name}_{split}.txt" for name in names}
    absent = [file.name for file in files.values() if not file.is_file()]
    if len(absent) == len(names):
        return _from_objects(voc_dir, split, names, ids)
    if absent:
        raise DataError(
            f"{folder} lacks {', '.join(absent[:5])} ({len(absent)} of {len(names)} class files of split '{split}'); "
            "add them, or remove the others: labels then come from the xml files"
        )
    return np.stack([_from_file(file, ids) for file in files.values()], axis=1)


def _from_file(file: Path, ids: Sequence[str]) -> np.ndarray:
    labels: dict[str, int] = {}
    for line in read_lines(file):
        words = line.split()
        if len(words) != 2 or words[1] not in ("1", "0", "-1"):
            raise DataError(f"{file} has the line '{line}'; expected an image id and 1, 0 or -1")
        labels[words[0]] = int(words[1])
    if missing := [i for i in ids if i not in labels]:
        raise DataError(f"{file} has no label for {', '.join(missing[:5])} ({len(missing)} images of the split)")
    return np.array([labels[i] for i in ids], dtype=np.int8)


def _from_objects(voc_dir: str | os.PathLike, split: str, names: Sequence[str], ids: Sequence[str]) -> np.ndarray:
    rows = {image: row for row, image in enumerate(ids)}
    labels = np.full((len(ids), len(names)), ABSENT, dtype=np.int8)
    for image in load_voc_instances(voc_dir, split, names):
        for one in image["annotations"]:
            row, column = rows[image["image_id"]], one["category_id"]
            # One object that is not difficult decides.
            labels[row, column] = PRESENT if not one["difficult"] else max(labels[row, column], DIFFICULT)
    return labels
