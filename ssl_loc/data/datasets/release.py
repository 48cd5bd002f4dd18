"""A published dataset on disk: where its files are, what is missing, and tables whose lines belong together."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssl_loc.data.catalog import missing
from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.datasets.voc import read_lines
from ssl_loc.data.records import Record
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import safe_join

_LOGGER = logging.getLogger(__name__)
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
# Names shown of a longer list.
_SHOWN = 5


@dataclass(frozen=True)
class Release:
    """What is known about a dataset as it was published.

    Attributes:
        name: for messages, e.g. "CUB-200-2011".
        inside: folders that its archive unpacks to; the files may lie in DIR itself or in DIR/<one of these>.
        counts: split -> number of images published.
        classes: number of classes published.
    """

    name: str
    inside: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    classes: int = 0

    def check_split(self, split: str) -> None:
        """Raise DataError for a split that was never published."""
        if split not in self.counts:
            raise DataError(f"{self.name} has no split '{split}'; its splits: {', '.join(self.counts)}")

    def locate(self, directory: str | os.PathLike, needs: Sequence[str], images: int) -> Path:
        """The folder of the files: DIR or one folder below, whichever holds more of ``needs`` (folders end in "/").

        Args:
            images: number of images published in the folders among ``needs``, for the message.

        Raises:
            DataError: parts are missing there; names them all, and what was found instead.
        """
        places = [Path(directory), *(Path(directory) / name for name in self.inside)]
        root = min(places, key=lambda place: len(absent(place, needs)))
        gone = absent(root, needs)
        if gone:
            found = _listing(root if root.is_dir() else Path(directory))
            said = [f"{part} with {images:,} images" if part.endswith("/") else part for part in gone]
            what = f"{', '.join(said)} ({len(gone)} of {len(needs)} parts of {self.name})"
            raise missing(what, root, f"DIR/{{{', '.join(needs)}}}, as its archive unpacks; found there: {found}")
        return root

    def compare(self, spec: str, split: str, images: int, classes: int) -> None:
        """Warn where a complete-looking set has another size than the published one."""
        for what, found, published in (("images", images, self.counts[split]), ("classes", classes, self.classes)):
            if published and found != published:
                _LOGGER.warning(
                    "%s has %d %s, the published %s %d; numbers on it are not comparable with the literature",
                    spec,
                    found,
                    what,
                    self.name,
                    published,
                )


def absent(root: Path, needs: Iterable[str]) -> list[str]:
    """The parts that are not there."""
    return [part for part in needs if not ((root / part).is_dir() if part.endswith("/") else (root / part).is_file())]


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return f"no folder {folder}"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    packed = [name for name in names if name.endswith(ARCHIVES)]
    return (some(names) or "nothing") + (f"; unpack {', '.join(packed[:_SHOWN])}" if packed else "")


def some(names: Sequence[object]) -> str:
    """The first few of a list and how many follow."""
    more = len(names) - _SHOWN
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def read_table(file: Path, columns: int) -> dict[str, list[str]]:
    """``<id> <value> ...`` per line -> id -> values, in file order; the last of ``columns`` values may hold spaces.

    Raises:
        DataError: the file is missing, a line has too few values, or an id comes twice.
    """
    if not file.is_file():
        raise missing("file", file, f"lines of an id and {columns} values")
    table: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(file), 1):
        key, *values = line.split(maxsplit=columns)
        if len(values) != columns:
            raise DataError(f"line {number} of {file} is '{line}'; expected an id and {columns} values")
        if key in table:
            raise DataError(f"{file} has the id {key} twice (line {number}); expected one line per id")
        table[key] = values
    if not table:
        raise DataError(f"{file} is empty; expected lines of an id and {columns} values")
    return table


def same_ids(of: Collection[str], file: Path, others: Collection[str], other: Path) -> None:
    """Raise DataError where two tables are not about the same things."""
    for here, a, there, b in ((of, file, others, other), (others, other, of, file)):
        known = set(there)
        lost = [key for key in here if key not in known]
        if lost:
            raise DataError(
                f"{b} has no line for {len(lost)} of the {len(here)} ids of {a}: {some(lost)}; the two files belong to "
                "different copies of the dataset, or one is cut off: unpack the archive again"
            )


def numbers(values: Sequence[str], file: Path, key: str) -> list[float]:
    """Values of a line as numbers."""
    try:
        found = [float(value) for value in values]
        if not all(map(math.isfinite, found)):
            raise ValueError
        return found
    except ValueError:
        raise DataError(f"{file}: the line of {key} has '{' '.join(values)}'; expected numbers") from None


def whole(text: str, file: Path, key: str) -> int:
    """A value of a line as a whole number."""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{file}: the line of {key} has '{text}'; expected a whole number") from None


def check_images(root: Path, names: Sequence[str], listed_in: Path) -> None:
    """Raise DataError unless every image of a list is below ``root``; a path that leaves it is refused.

    Args:
        root: folder that ``names`` are relative to ("/" between folders).
        names: as they are written in ``listed_in``.
        listed_in: the file they come from, for the message.
    """
    there = set(list_files(root))
    lost = [name for name in names if name not in there]
    for name in lost:
        safe_join(root, name)
    if lost:
        raise DataError(
            f"{len(lost)} of the {len(names)} images that {listed_in} lists are not below {root}: {some(lost)} "
            f"(found {len(there)} images); unpack the archive again"
        )


def record(root: Path, name: str, label: int, **more: object) -> Record:
    """A record of ROOT/<name>."""
    return Record(path=os.path.join(root, name), label=label, key=stem(name), **more)  # type: ignore[arg-type]


def unique_names(names: Mapping[str, str]) -> list[str]:
    """Class names in the order of ``names`` (id -> name); names that several ids share get their id."""
    count: dict[str, int] = {}
    for name in names.values():
        count[name] = count.get(name, 0) + 1
    return [name if count[name] == 1 else f"{name} ({key})" for key, name in names.items()]
