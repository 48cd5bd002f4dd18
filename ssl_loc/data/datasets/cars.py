"""Stanford Cars in both of its published forms.

Layout of ``cars:DIR:SPLIT`` (SPLIT train or test; DIR or DIR/stanford_cars or DIR/car_devkit holds the files):

* the development kit: devkit/cars_meta.mat, devkit/cars_train_annos.mat with cars_train/, and for the test split
  cars_test_annos_withlabels.mat (beside devkit/ or in it) with cars_test/;
* the single list: cars_annos.mat with car_ims/.

Labels and pixel coordinates of both count from 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssl_loc.data.catalog import Dataset, register_path_form, register_scheme
from ssl_loc.data.datasets.release import Release, absent, check_images, record
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

CARS = Release("Stanford Cars", ("stanford_cars", "car_devkit"), {"train": 8144, "test": 8041}, 196)
META, TRAIN, TEST = "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
FLAT, FLAT_FOLDER = "cars_annos.mat", "car_ims/"
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def load_cars(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``cars:DIR:SPLIT`` -> cars sorted by file name, 196 classes, each with its box if asked for."""
    CARS.check_split(split)
    root, file, folder, flat = _find(directory, split)
    content = read_mat(file)
    names = _class_names(content if flat else read_mat(root / META), file if flat else root / META)
    rows = sorted(_rows(content, file, split, flat))
    if not rows:
        raise DataError(f"{file} has no image of the split '{split}'")
    images = root / folder
    check_images(images, [name for name, _, _ in rows], file)
    if wrong := [row for row in rows if not 1 <= row[1] <= len(names)]:
        name, label, _ = wrong[0]
        raise DataError(f"{file} gives {name} the class {label}; expected 1 to {len(names)}")
    records = RecordTable.pack(
        record(images, name, label - 1, boxes=_box(corners) if annotations else None) for name, label, corners in rows
    )
    spec = f"cars:{directory}:{split}"
    CARS.compare(spec, split, len(records), len(names))
    return Dataset(spec, records, {"kind": "cars", "classes": names, "image_root": str(images), "split": split})


def _find(directory: str, split: str) -> tuple[Path, Path, str, bool]:
    """(root, list of annotations, folder of images, whether it is the single list)."""
    count = CARS.counts[split]
    places = [Path(directory), *(Path(directory) / name for name in CARS.inside)]
    for place in places:
        if not absent(place, [FLAT]):
            root = CARS.locate(place, [FLAT, FLAT_FOLDER], sum(CARS.counts.values()))
            return root, root / FLAT, FLAT_FOLDER, True
    folder = f"cars_{split}/"
    if split == "train":
        root = CARS.locate(directory, [META, TRAIN, folder], count)
        return root, root / TRAIN, folder, False
    for place in places:
        if not absent(place, [f"devkit/{TEST}"]):
            root = CARS.locate(place, [META, f"devkit/{TEST}", folder], count)
            return root, root / "devkit" / TEST, folder, False
    root = CARS.locate(directory, [META, TEST, folder], count)
    return root, root / TEST, folder, False


def read_mat(file: Path) -> dict[str, Any]:
    """Variables of a MATLAB file.

    Raises:
        DataError: it cannot be read.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return loadmat(file, squeeze_me=True)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, EOFError) as error:
        raise DataError(f"cannot read {file}: {error}; expected a MATLAB file up to version 7.2") from None


def _class_names(content: dict[str, Any], file: Path) -> list[str]:
    if "class_names" not in content:
        raise DataError(f"{file} has no variable class_names; found: {', '.join(sorted(content))}")
    return [str(name) for name in np.atleast_1d(content["class_names"])]


def _rows(content: dict[str, Any], file: Path, split: str, flat: bool) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """(file name, class from 1, corners) per image of the split."""
    name = "relative_im_path" if flat else "fname"
    table = np.atleast_1d(content.get("annotations", np.zeros(0)))
    wanted = {name, "class", *CORNERS, *({"test"} if flat else ())}
    lost = sorted(wanted - set(table.dtype.names or ()))
    if lost:
        hint = "; cars_test_annos.mat of the kit has no labels, this needs cars_test_annos_withlabels.mat"
        raise DataError(
            f"annotations of {file} lack {', '.join(lost)}; expected the fields {', '.join(sorted(wanted))}"
            + (hint if lost == ["class"] else "")
        )
    for row in table:
        if not flat or bool(row["test"]) == (split == "test"):
            yield (
                _below(file, str(row[name])) if flat else str(row[name]),
                int(row["class"]),
                tuple(float(row[corner]) for corner in CORNERS),
            )


def _below(file: Path, name: str) -> str:
    """The path of an image relative to car_ims/, where the single list has all of them."""
    if not name.startswith(FLAT_FOLDER):
        raise DataError(f"{file} lists {name}; expected paths below {FLAT_FOLDER}")
    return name[len(FLAT_FOLDER) :]


def _box(corners: tuple[float, ...]) -> np.ndarray:
    """First and last pixel, counted from 1 -> half-open from 0."""
    x1, y1, x2, y2 = corners
    return np.array([[x1 - 1, y1 - 1, x2, y2]], dtype=np.float32)


register_scheme("cars", load_cars, arguments=("DIR", "SPLIT"))
register_path_form("cars_train", "cars:{root}/cars:train")
register_path_form("cars_test", "cars:{root}/cars:test")
