"""FGVC-Aircraft, by variant.

Layout of ``aircraft:DIR:SPLIT`` (SPLIT train, val, trainval or test; DIR or DIR/fgvc-aircraft-2013b holds data/):
data/images/<id>.jpg, data/images_variant_<SPLIT>.txt, data/variants.txt and data/images_box.txt (read only where boxes
are asked for).

The bottom 20 pixels of every photo are a banner with its photographer's name, which tells sources apart rather than
aircraft. ``aircraft`` leaves it out, in training and test alike; ``aircraft_with_banner`` reads the photos as they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssl_loc.data.catalog import Dataset, register_path_form, register_scheme
from ssl_loc.data.datasets.release import Release, check_images, numbers, read_table, record, some
from ssl_loc.data.datasets.voc import read_lines
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

AIRCRAFT = Release(
    "FGVC-Aircraft",
    ("fgvc-aircraft-2013b",),
    {"train": 3334, "val": 3333, "trainval": 6667, "test": 3333},
    100,
)
# Height of the copyright banner (README of the dataset: "the bottom 20 pixels of the image").
BANNER_PX = 20
VARIANTS, BOXES, FOLDER = "data/variants.txt", "data/images_box.txt", "data/images/"


def load_aircraft(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``aircraft:DIR:SPLIT`` -> aircraft sorted by id, 100 variants, without the banner."""
    return _load("aircraft", directory, split, annotations, BANNER_PX)


def load_aircraft_with_banner(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``aircraft_with_banner:DIR:SPLIT`` -> the same with the whole photos."""
    return _load("aircraft_with_banner", directory, split, annotations, 0)


def _load(scheme: str, directory: str, split: str, annotations: bool, trim_bottom: int) -> Dataset:
    AIRCRAFT.check_split(split)
    list_name = f"data/images_variant_{split}.txt"
    needs = [list_name, VARIANTS, FOLDER, *([BOXES] if annotations else [])]
    root = AIRCRAFT.locate(directory, needs, AIRCRAFT.counts["trainval"] + AIRCRAFT.counts["test"])
    names = read_lines(root / VARIANTS)
    index = {name: i for i, name in enumerate(names)}
    variants = {key: values[0] for key, values in read_table(root / list_name, 1).items()}
    if strange := sorted(set(variants.values()) - set(index)):
        raise DataError(f"{root / list_name} uses variants that {root / VARIANTS} does not list: {some(strange)}")
    boxes = _boxes(root, variants, root / list_name) if annotations else {}
    ids = sorted(variants)
    check_images(root / FOLDER, [f"{key}.jpg" for key in ids], root / list_name)
    records = RecordTable.pack(
        record(root / FOLDER, f"{key}.jpg", index[variants[key]], boxes=boxes.get(key), trim_bottom=trim_bottom)
        for key in ids
    )
    spec = f"{scheme}:{directory}:{split}"
    AIRCRAFT.compare(spec, split, len(records), len(names))
    metadata = {"kind": scheme, "classes": names, "image_root": str(root / FOLDER), "split": split}
    return Dataset(spec, records, metadata)


def _boxes(root: Path, variants: dict[str, str], listed_in: Path) -> dict[str, np.ndarray]:
    """First and last pixel, counted from 1 (README of the dataset) -> half-open from 0."""
    table = read_table(root / BOXES, 4)
    if lost := [key for key in variants if key not in table]:
        raise DataError(
            f"{root / BOXES} has no line for {len(lost)} of the {len(variants)} ids of {listed_in}: {some(lost)}; "
            "unpack the archive again"
        )
    boxes = {}
    for key in variants:
        x1, y1, x2, y2 = numbers(table[key], root / BOXES, key)
        boxes[key] = np.array([[x1 - 1, y1 - 1, x2, y2]], dtype=np.float32)
    return boxes


register_scheme("aircraft", load_aircraft, arguments=("DIR", "SPLIT"))
register_scheme("aircraft_with_banner", load_aircraft_with_banner, arguments=("DIR", "SPLIT"))
for _split in AIRCRAFT.counts:
    register_path_form(f"aircraft_{_split}", f"aircraft:{{root}}/aircraft:{_split}")
    register_path_form(f"aircraft_with_banner_{_split}", f"aircraft_with_banner:{{root}}/aircraft:{_split}")
