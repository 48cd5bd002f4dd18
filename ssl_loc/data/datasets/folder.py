"""Any folder of images: flat or nested, labels only where asked for.

``folder:DIR`` takes every image below DIR, unlabelled. ``class_folder:DIR`` takes the same images and uses the name of
the folder each one lies in as its class (the layout of ImageNet and of torchvision's ImageFolder).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ssl_loc.data.catalog import Dataset, missing, register_scheme
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.utils.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_files(root: str | os.PathLike, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Files below ``root`` with one of ``suffixes`` (any case), relative to it with "/" between folders, sorted.

    Links are followed (once per folder, so circles end); hidden files and folders are left out.
    """
    return sorted(_walk(os.fspath(root), suffixes))


def _walk(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        yield from (prefix + name for name in files if not name.startswith(".") and name.lower().endswith(suffixes))


def stem(relative: str) -> str:
    """ "a/b.c.jpg" -> "a/b.c": the key of an image."""
    return os.path.splitext(relative)[0]


def load_folder(directory: str, *, annotations: bool = False) -> Dataset:
    """Every image below ``directory``, without labels."""
    files = _images(directory)
    records = RecordTable.pack(Record(path=os.path.join(directory, name), key=stem(name)) for name in files)
    return Dataset(f"folder:{directory}", records, {"kind": "folder", "classes": [], "image_root": directory})


def load_class_folder(directory: str, *, annotations: bool = False) -> Dataset:
    """Every image below ``directory``, labelled by the name of its parent folder."""
    files = _images(directory)
    parents = [PurePosixPath(name).parent.name for name in files]
    if not all(parents):
        loose = files[parents.index("")]
        raise DataError(
            f"class_folder:{directory} holds {loose} outside of any class folder; expected DIR/.../<class>/<image>. "
            f"Use folder:{directory} for images without labels"
        )
    classes = sorted(set(parents))
    index = {name: i for i, name in enumerate(classes)}
    records = RecordTable.pack(
        Record(path=os.path.join(directory, name), label=index[parent], key=stem(name))
        for name, parent in zip(files, parents, strict=True)
    )
    metadata = {"kind": "folder", "classes": classes, "image_root": directory}
    return Dataset(f"class_folder:{directory}", records, metadata)


def _images(directory: str) -> list[str]:
    layout = f"images ({', '.join(IMAGE_SUFFIXES)}) in that folder or at any depth below it"
    if not Path(directory).is_dir():
        raise missing("folder", directory, layout)
    files = list_files(directory)
    if not files:
        raise missing("images", directory, layout)
    return files


register_scheme("folder", load_folder, arguments=("DIR",))
register_scheme("class_folder", load_class_folder, arguments=("DIR",))
