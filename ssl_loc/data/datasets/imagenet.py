"""ImageNet-1k in its class folders.

Layout of ``imagenet:DIR:SPLIT`` (SPLIT train or val): DIR/train/<wnid>/*.JPEG and DIR/val/<wnid>/*.JPEG. The archive of
the validation images is flat and has to be sorted into the same 1,000 class folders first.
"""

from __future__ import annotations

import os
from pathlib import Path

from ssl_loc.data.catalog import Dataset, missing, register_path_form, register_scheme
from ssl_loc.data.datasets.folder import list_files
from ssl_loc.data.datasets.release import Release, record, some
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

IMAGENET = Release("ImageNet-1k", (), {"train": 1281167, "val": 50000}, 1000)


def load_imagenet(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``imagenet:DIR:SPLIT`` -> images sorted by path; classes are the sorted folders; there are no boxes."""
    IMAGENET.check_split(split)
    root = IMAGENET.locate(directory, [f"{split}/"], IMAGENET.counts[split]) / split
    spec = f"imagenet:{directory}:{split}"
    dataset = class_tree(spec, root, "imagenet")
    names = dataset.metadata["classes"]
    train = Path(directory) / "train"
    if split == "val" and train.is_dir():
        same_classes(names, root, train)
    IMAGENET.compare(spec, split, len(dataset), len(names))
    dataset.metadata["split"] = split
    return dataset


def class_tree(spec: str, root: Path, kind: str) -> Dataset:
    """Images below ``root``; the class is the whole path of their folder (``o/office`` and ``h/office`` differ).

    Raises:
        DataError: there are no images, or some lie outside of any class folder.
    """
    files = list_files(root)
    layout = f"{root}/<class>/<image>"
    if not files:
        raise missing("images", root, layout)
    loose = [name for name in files if "/" not in name]
    if loose:
        raise DataError(
            f"{len(loose)} of the {len(files)} images of {root} lie outside of any class folder: {some(loose)}; "
            f"expected {layout}: sort them into the class folders of the training images (archives of validation "
            "images are often flat and come with a list of their classes)"
        )
    parents = [name.rsplit("/", 1)[0] for name in files]
    names = sorted(set(parents))
    index = {name: i for i, name in enumerate(names)}
    records = RecordTable.pack(record(root, name, index[parent]) for name, parent in zip(files, parents, strict=True))
    return Dataset(spec, records, {"kind": kind, "classes": names, "image_root": str(root)})


def same_classes(names: list[str], root: Path, train: Path) -> None:
    """Raise DataError unless a split has exactly the class folders of the training images."""
    known = sorted(entry.name for entry in os.scandir(train) if entry.is_dir() and not entry.name.startswith("."))
    lost, strange = sorted(set(known) - set(names)), sorted(set(names) - set(known))
    if lost or strange:
        raise DataError(
            f"{root} has {len(names)} class folders with images and {train} {len(known)}"
            + (f"; missing in {root}: {some(lost)}" if lost else "")
            + (f"; not in {train}: {some(strange)}" if strange else "")
            + "; expected the same folders in both"
        )


register_scheme("imagenet", load_imagenet, arguments=("DIR", "SPLIT"))
register_path_form("imagenet_train", "imagenet:{root}/imagenet:train")
register_path_form("imagenet_val", "imagenet:{root}/imagenet:val")
