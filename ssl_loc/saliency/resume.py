"""Which maps of a folder stay when a run goes on, and which have to be made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ssl_loc.saliency.manifest import Manifest, MapEntry, describe_map, known_entries, scan_maps
from ssl_loc.saliency.store import first_names, fits
from ssl_loc.utils.errors import DataError

_LOGGER = logging.getLogger(__name__)
UNREADABLE, WRONG_SIZE = "unreadable", "wrong size"


@dataclass
class Standing:
    """Maps that exist.

    Attributes:
        kept: key -> description, of those that stay.
        again: kind of problem -> keys, of those to be made again.
    """

    kept: dict[str, MapEntry] = field(default_factory=dict)
    again: dict[str, list[str]] = field(default_factory=dict)


def standing_maps(
    shell: Manifest,
    paths: Mapping[str, str],
    flags: Collection[str] = (UNREADABLE,),
    read_size: Callable[[str], tuple[int, int]] | None = None,
) -> Standing:
    """Look at the maps that exist; only those that changed since they were described are opened.

    Args:
        shell: who makes the maps of the folder, and where it is.
        paths: key -> image file, of the maps asked for.
        flags: maps with one of these are made again.
        read_size: image file -> (H, W); with it, maps that do not fit their image are made again.
    """
    found = Standing()
    files = scan_maps(shell.root)
    known, _ = known_entries(shell)
    for key, path in paths.items():
        if key not in files:
            continue
        status, entry = files[key], known.get(key)
        if entry is None or (entry.bytes, entry.mtime_ns) != (status.st_size, status.st_mtime_ns):
            entry = describe_map(shell.path(key), status, shell.threshold)
        problem = next((flag for flag in entry.flags if flag in flags), "")
        if not problem and read_size is not None and not _fits_image(entry, path, read_size):
            problem = WRONG_SIZE
        if problem:
            found.again.setdefault(problem, []).append(key)
        else:
            found.kept[key] = entry
    for problem, keys in found.again.items():
        _LOGGER.warning("%d maps in %s are made again (%s): %s", len(keys), shell.root, problem, first_names(keys))
    return found


def _fits_image(entry: MapEntry, path: str, read_size: Callable[[str], tuple[int, int]]) -> bool:
    try:
        return fits((entry.height, entry.width), read_size(path))
    except DataError:  # no map can be made of an image that cannot be read
        return True
