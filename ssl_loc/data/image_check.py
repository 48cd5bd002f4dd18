"""What can be known about a dataset's images before training: their sizes, from the headers."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssl_loc.data.image_io import read_size
from ssl_loc.data.records import RecordTable
from ssl_loc.saliency.store import first_names
from ssl_loc.utils import comm
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.progress import progress_bar

_LOGGER = logging.getLogger(__name__)
# A crop of one pixel has no content and no aspect ratio.
MIN_SIDE = 2
# Opening files waits for the disk, not for the processor.
_THREADS = 8
_CHUNK = 256
# A shorter check ends before a progress bar could be read.
_PROGRESS_FROM = 5000
UNREADABLE = -1


def image_sizes(records: RecordTable) -> np.ndarray:
    """(height, width) of every image -> int32 (len(records), 2); -1 where the header cannot be read.

    Each process of a distributed run opens its share and all of them return everything.

    Raises:
        DataError: the processes do not see the same images.
    """
    world, rank = comm.get_world_size(), comm.get_rank()
    _same_everywhere(records)
    mine = [(records[i].path, records[i].trim_bottom) for i in range(rank, len(records), world)]
    sizes = np.full((len(records), 2), UNREADABLE, dtype=np.int32)
    for r, part in enumerate(comm.all_gather_object(_read_sizes(mine))):
        sizes[r::world] = part
    return sizes


def _same_everywhere(records: RecordTable) -> None:
    """Processes on several machines may look at copies of the data; unequal copies would train on nonsense indices."""
    ends = (records[0].key, records[len(records) - 1].key) if len(records) else ("", "")
    seen = comm.all_gather_object((len(records), *ends))
    for rank, other in enumerate(seen):
        if other != seen[0]:
            raise DataError(
                f"process {rank} sees {other[0]} images ({other[1]} .. {other[2]}), process 0 {seen[0][0]} "
                f"({seen[0][1]} .. {seen[0][2]}); every machine needs the same files in DATA.TRAIN"
            )


def _read_sizes(paths: list[tuple[str, int]]) -> np.ndarray:
    sizes = np.full((len(paths), 2), UNREADABLE, dtype=np.int32)
    quiet = len(paths) < _PROGRESS_FROM or not comm.is_main_process()
    with ThreadPoolExecutor(_THREADS) as pool:
        chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
        bar = progress_bar(pool.map(_read_chunk, chunks), total=len(chunks), desc="image headers", show=not quiet)
        for i, part in enumerate(bar):
            sizes[i * _CHUNK : i * _CHUNK + len(part)] = part
    return sizes


def _read_chunk(paths: list[tuple[str, int]]) -> list[tuple[int, int]]:
    return [_read_size(path, trim_bottom) for path, trim_bottom in paths]


def _read_size(path: str, trim_bottom: int) -> tuple[int, int]:
    try:
        return read_size(path, trim_bottom)
    except DataError:
        return UNREADABLE, UNREADABLE


def usable_images(records: RecordTable, sizes: np.ndarray) -> np.ndarray:
    """Positions of the images that can be trained on; those with a side below 2 px are named, counted and left out.

    Unreadable headers are named too, but stay: the mapper passes over a corrupt image when it meets it, and stops when
    there are many in a row.
    """
    unreadable = np.flatnonzero(sizes[:, 0] == UNREADABLE)
    tiny = (sizes.min(axis=1) < MIN_SIDE) & (sizes[:, 0] != UNREADABLE)
    if len(unreadable):
        names = first_names([records[int(i)].path for i in unreadable])
        _LOGGER.warning("%d of %d images cannot be read: %s", len(unreadable), len(records), names)
    if tiny.any():
        names = first_names([records[int(i)].path for i in np.flatnonzero(tiny)])
        _LOGGER.warning("%d images with a side below %d px are left out: %s", tiny.sum(), MIN_SIDE, names)
    return np.flatnonzero(~tiny)
