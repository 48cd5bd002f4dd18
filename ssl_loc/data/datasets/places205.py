"""Places-205, from its lists or from class folders.

Layout of ``places205:DIR:SPLIT`` (SPLIT train or val), whichever is there:

* the lists: <SPLIT>_places205.csv with lines ``a/abbey/gsun_0003.jpg 0``, in DIR or DIR/trainvalsplit_places205, and
  the images in DIR/images256/ or where the archive puts them (DIR/data/vision/torralba/deeplearning/images256/);
* folders: DIR/<SPLIT>/<class>/... as for ImageNet; the class is the whole path of the folder (``a/abbey``).
"""

from __future__ import annotations

from pathlib import Path

from ssl_loc.data.catalog import Dataset, missing, register_path_form, register_scheme
from ssl_loc.data.datasets.imagenet import class_tree
from ssl_loc.data.datasets.release import Release, check_images, record
from ssl_loc.data.datasets.voc import read_lines
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

PLACES205 = Release("Places-205", (), {"train": 2448873, "val": 20500}, 205)
LIST_FOLDERS = ("", "trainvalsplit_places205")
IMAGE_FOLDERS = ("images256", "data/vision/torralba/deeplearning/images256")


def load_places205(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``places205:DIR:SPLIT`` -> photos sorted by path; there are no boxes."""
    PLACES205.check_split(split)
    root, spec = Path(directory), f"places205:{directory}:{split}"
    lists = [root / folder / f"{split}_places205.csv" for folder in LIST_FOLDERS]
    found = [file for file in lists if file.is_file()]
    if found:
        dataset = _from_list(spec, root, found[0])
    elif (root / split).is_dir():
        dataset = class_tree(spec, root / split, "places205")
    else:
        layout = f"DIR/{split}_places205.csv with DIR/images256/, or DIR/{split}/<class>/<image>"
        raise missing(f"{split}_places205.csv or folder {split}/ of Places-205", root, layout)
    dataset.metadata["split"] = split
    PLACES205.compare(spec, split, len(dataset), len(dataset.metadata["classes"]))
    return dataset


def _from_list(spec: str, root: Path, file: Path) -> Dataset:
    places = [root / folder for folder in IMAGE_FOLDERS if (root / folder).is_dir()]
    if not places:
        raise missing(
            "images of Places-205", root / IMAGE_FOLDERS[0], f"DIR/{{{', '.join(IMAGE_FOLDERS)}}}/a/abbey/*.jpg"
        )
    rows = sorted(_rows(file))
    check_images(places[0], [name for name, _ in rows], file)
    names: dict[int, str] = {}
    for name, label in rows:
        place = name.rsplit("/", 1)[0]
        if names.setdefault(label, place) != place:
            raise DataError(f"{file} gives the class {label} to images of {names[label]} and of {place}; expected one")
    if sorted(names) != list(range(len(names))):
        raise DataError(f"the classes of {file} are not 0 to {len(names) - 1}; is the list cut off?")
    records = RecordTable.pack(record(places[0], name, label) for name, label in rows)
    classes = [names[i] for i in range(len(names))]
    return Dataset(spec, records, {"kind": "places205", "classes": classes, "image_root": str(places[0])})


def _rows(file: Path) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(read_lines(file), 1):
        name, _, label = line.replace(",", " ").rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"line {number} of {file} is '{line}'; expected an image and its class number")
        rows.append((name.strip().lstrip("/"), int(label)))
    if not rows:
        raise DataError(f"{file} is empty; expected lines of an image and its class number")
    return rows


register_scheme("places205", load_places205, arguments=("DIR", "SPLIT"))
register_path_form("places205_train", "places205:{root}/places205:train")
register_path_form("places205_val", "places205:{root}/places205:val")
