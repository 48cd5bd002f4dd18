"""Records: the lines of a dataset (paths, no pixels), kept in one byte buffer.

A list of a million small Python objects is copied into every worker, page by page, because reading an object writes its
reference count. One NumPy buffer is shared with forked workers for good, so memory does not grow with their number.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

# One object as COCO writes it: a list of polygons, each a flat (x, y, x, y, ...) array, or a run-length dict.
Segment = list[np.ndarray] | dict[str, Any]


@dataclass(frozen=True, eq=False)
class Record:
    """One image of a dataset.

    Attributes:
        path: image file.
        label: class index, -1 unknown.
        key: path of the image relative to the dataset's image folder, without suffix, with "/" between folders. The
            saliency map of the image is ``ROOT/<key>.png``.
        boxes: float32 (M, 4) XYXY in pixels, half-open, or None where annotations were not read.
        segments: M objects (polygons or run-length code), or None where the dataset has boxes only.
        trim_bottom: rows at the bottom of the file, in px, that are no part of the picture (a banner); they are left
            out wherever the image is read, and so are missing in its maps.
    """

    path: str
    label: int = -1
    key: str = ""
    boxes: np.ndarray | None = None
    segments: Sequence[Segment] | None = None
    trim_bottom: int = 0


class RecordTable(Sequence[Record]):
    """An immutable sequence of records: one byte buffer, offsets, labels, and the order in which they are shown."""

    def __init__(self, buffer: np.ndarray, offsets: np.ndarray, labels: np.ndarray, order: np.ndarray) -> None:
        self._buffer = buffer
        self._offsets = offsets
        self._labels = labels
        self._order = order

    @classmethod
    def pack(cls, records: Iterable[Record]) -> RecordTable:
        """Pack records one by one (an iterator is never held as a list)."""
        if isinstance(records, RecordTable):
            return records
        buffer, offsets, labels = bytearray(), [0], []
        for record in records:
            buffer += _encode(record)
            offsets.append(len(buffer))
            labels.append(record.label)
        return cls(
            np.frombuffer(buffer, dtype=np.uint8),
            np.asarray(offsets, dtype=np.int64),
            np.asarray(labels, dtype=np.int64),
            np.arange(len(labels), dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> RecordTable: ...
    def __getitem__(self, index: int | slice) -> Record | RecordTable:
        if isinstance(index, slice):
            return RecordTable(self._buffer, self._offsets, self._labels, self._order[index])
        row = int(self._order[index])
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        return _decode(self._buffer[start:end], int(self._labels[row]))

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def select(self, indices: Sequence[int] | np.ndarray) -> RecordTable:
        """The records at ``indices``, in that order; shares the buffer."""
        chosen = self._order[np.asarray(indices, dtype=np.int64)]
        return RecordTable(self._buffer, self._offsets, self._labels, chosen)

    @property
    def labels(self) -> np.ndarray:
        """int64 (len,), -1 where unknown; no record is unpacked for it."""
        return self._labels[self._order]

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffer and its index."""
        return self._buffer.nbytes + self._offsets.nbytes + self._labels.nbytes + self._order.nbytes


def _encode(record: Record) -> bytes:
    # pickle is safe here: these bytes never leave the process.
    boxes = None if record.boxes is None else np.asarray(record.boxes, dtype=np.float32).tobytes()
    segments = None if record.segments is None else [_squeeze(s) for s in record.segments]
    return pickle.dumps(
        (record.path, record.key, boxes, segments, record.trim_bottom), protocol=pickle.HIGHEST_PROTOCOL
    )


def _squeeze(segment: Segment) -> list[bytes] | dict[str, Any]:
    if isinstance(segment, dict):
        return segment
    return [np.asarray(polygon, dtype=np.float32).tobytes() for polygon in segment]


def _decode(data: np.ndarray, label: int) -> Record:
    path, key, packed_boxes, packed_segments, trim_bottom = pickle.loads(data.data)
    boxes = None if packed_boxes is None else np.frombuffer(packed_boxes, dtype=np.float32).reshape(-1, 4)
    segments: list[Segment] | None = None
    if packed_segments is not None:
        segments = [
            s if isinstance(s, dict) else [np.frombuffer(p, dtype=np.float32) for p in s] for s in packed_segments
        ]
    return Record(path, label, key, boxes, segments, trim_bottom)
