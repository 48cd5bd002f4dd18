"""Where the parts of VOC and COCO come from, and where a half-unpacked download left them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

VOC_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/"
COCO_PAGE = "https://cocodataset.org/#download"
# Archives of the official pages, by year and split. The development kit's own code is not needed.
_VOC_ARCHIVES = {
    ("2007", "test"): "VOCtest_06-Nov-2007.tar",
    **{("2007", split): "VOCtrainval_06-Nov-2007.tar" for split in ("train", "val", "trainval")},
    **{("2012", split): "VOCtrainval_11-May-2012.tar" for split in ("train", "val", "trainval")},
}
_ARCHIVE_SUFFIXES = (".tar", ".zip", ".tar.gz", ".tgz")
# How far below a folder misplaced parts are looked for, and how many directory entries are looked at in all.
_DEPTH, _BUDGET = 3, 20_000
# Splits and folders of many datasets.
_COMMON = ("train", "val", "valid", "validation", "test", "trainval", "minival", "images", "masks", "all", "data")
# Folders of tens of thousands of files; nothing is unpacked into them.
_FULL_FOLDERS = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject")


def voc_archive(year: str, split: str) -> str:
    """Name of the archive that holds a VOC split; empty where there is none."""
    return _VOC_ARCHIVES.get((year, split), "")


def coco_archives(split: str) -> tuple[str, str]:
    """Names of the archives with a COCO split's images and annotations; empty for splits that are not COCO's."""
    for year in ("2014", "2017"):
        if split in (f"train{year}", f"val{year}"):
            return f"{split}.zip", f"annotations_trainval{year}.zip"
    return "", ""


def from_archive(archive: str, page: str) -> str:
    """ " (it is in X, from PAGE)", or nothing."""
    return f" (it is in {archive}, from {page})" if archive else ""


def misplaced(expected: Path, near: Sequence[Path], kind: Callable[[Path], bool] = Path.is_dir) -> list[Path]:
    """Folders (or whatever ``kind`` accepts) of the name of ``expected`` in or below the folders ``near``.

    Names that differ in case only count too. The nearest come first; ``expected`` itself is no answer.
    """
    wanted = expected.name.casefold()
    found = [path for folder in near for path in _below(folder) if path.name.casefold() == wanted and path != expected]
    return sorted({path for path in found if kind(path)}, key=lambda path: (len(path.parts), str(path)))


def telling(found: Sequence[Path], split: str, root: Path) -> list[Path]:
    """Those of the ``found`` parts of a split that say something: "train" is a folder of every other dataset, so that
    outside of ``root`` only a name as rare as "train2017" is a trace of this one."""
    return [path for path in found if root in path.parents or split.casefold() not in _COMMON]


def packed(archives: Sequence[str], near: Sequence[Path]) -> list[Path]:
    """Archives that lie in or below the folders ``near`` and are called like one of ``archives`` (any suffix)."""
    wanted = {_bare(name) for name in archives if name}
    found = {path for folder in near for path in _below(folder) if _packed(path) and _bare(path.name) in wanted}
    return sorted(found, key=lambda path: (len(path.parts), str(path)))


def put_right(found: Path, expected: Path, root: Path) -> str:
    """How a part found elsewhere gets to its place: moved within ``root``, linked from outside, where it may belong to
    something else."""
    make = "" if expected.parent.is_dir() else f"mkdir -p {expected.parent} && "
    if root in found.parents:
        return f"it is at {found}: {make}mv {found} {expected}"
    return f"there is one at {found}: {make}ln -s {found.absolute()} {expected}"


def unpack(archive: Path, target: Path) -> str:
    """The sentence that unpacks an archive."""
    how = f"unzip -q {archive} -d {target}" if archive.suffix == ".zip" else f"tar -xf {archive} -C {target}"
    return f"its archive lies at {archive}, not unpacked: {how}"


def splits_of_coco(root: Path) -> list[str]:
    """Splits that DIR/annotations has a file for."""
    return sorted(path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json"))


def splits_of_voc(lists: Path) -> list[str]:
    """Splits of ImageSets/Main, which also holds one list per class and split ("dog_val.txt")."""
    return sorted(path.stem for path in lists.glob("*.txt") if "_" not in path.stem)


def _packed(path: Path) -> bool:
    return path.name.lower().endswith(_ARCHIVE_SUFFIXES) and path.is_file()


def _bare(name: str) -> str:
    for suffix in _ARCHIVE_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.casefold()


def _below(start: Path) -> Iterator[Path]:
    """Everything down to a small depth, breadth first, bounded."""
    level, seen = [start], 0
    for _ in range(_DEPTH):
        folders = []
        for folder in level:
            for entry in _entries(folder):
                seen += 1
                if seen > _BUDGET:
                    return
                path = folder / entry.name
                yield path
                if _is_folder(entry) and entry.name not in _FULL_FOLDERS and not entry.name.startswith("."):
                    folders.append(path)
        level = folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that we may not follow
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:  # gone, no folder, or not ours to read: nothing to find there
        return []
