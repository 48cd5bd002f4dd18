"""Features on disk: one .npy per (weights, images, transform, pooling), read as a memory map.

A file is used only if everything it depends on is equal and its bytes have the checksum that was written with it.
The checksum is part of the file's name and the description beside it says that name, so that several processes may
write the same features at once: whichever description is there belongs to a whole file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import read_json, write_json

logger = logging.getLogger(__name__)

# Part of every key: raised when the files or what they mean change.
FORMAT = 1
# Bytes read at once for a checksum.
_BLOCK = 1 << 24


class FeatureCache:
    """A folder of feature files.

    Args:
        folder: made when the first features are written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)

    def load(self, key: dict[str, Any], say: bool = True) -> Tensor | None:
        """The features of ``key``, float32 (N, D) mapped from disk (writes to it stay in memory); None if they are not
        there. A damaged file is named in a warning and counts as not there.
        """
        about = self._about(key)
        # Another process may replace them between the two reads: the second try sees what it left.
        for last in (False, True):
            if not about.is_file():
                return None
            try:
                found = _read(about, key)
            except (DataError, ValueError, OSError, KeyError, TypeError, EOFError) as error:
                if last:
                    logger.warning("stored features are damaged and are taken anew: %s", error)
                continue
            if found is not None and say:
                logger.info("features from %s (%d x %d)", about.with_suffix(".*"), *found.shape)
            return None if found is None else torch.from_numpy(found)
        return None

    def read_back(self, key: dict[str, Any]) -> Tensor:
        """The features just written.

        Raises:
            DataError: they are not what was written.
        """
        features = self.load(key, say=False)
        if features is None:
            raise DataError(
                f"features written to {self.folder} cannot be read back; check the disk, or use --cache off"
            )
        return features

    @contextmanager
    def writer(self, key: dict[str, Any], rows: int) -> Iterator[FeatureWriter]:
        """Write ``rows`` features batch by batch; the file appears only when all of them are there."""
        about = self._about(key)
        writer = FeatureWriter(about, rows)
        try:
            yield writer
            crc, shape = writer.finish()
            data = about.with_name(f"{about.stem}-{crc:08x}.npy")
            old = _data_file(about)
            # What an interrupted run had written stays useless without its description, which comes last.
            os.replace(writer.temporary, data)
            write_json(about, {"key": _plain(key), "file": data.name, "shape": shape, "crc32": crc})
            if old is not None and old != data:
                old.unlink(missing_ok=True)
        finally:
            writer.temporary.unlink(missing_ok=True)
        logger.info(
            "features stored in %s (%.0f MB; the folder holds %.0f MB)", data, _mb(data), sum(map(_mb, self._files()))
        )

    def _about(self, key: dict[str, Any]) -> Path:
        text = json.dumps(_plain(key), sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        return self.folder / f"{name}.json"

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.npy"))


class FeatureWriter:
    """A .npy file that grows batch by batch under a temporary name."""

    def __init__(self, target: Path, rows: int) -> None:
        self.temporary = target.with_name(f".{target.stem}.{secrets.token_hex(8)}.tmp")
        self.rows, self._done, self._crc = rows, 0, 0
        self._map: np.memmap | None = None

    def put(self, batch: Tensor) -> None:
        """Append float32 (n, D)."""
        if self._map is None:
            self._open(batch.shape[1])
        assert self._map is not None  # just opened
        values = np.ascontiguousarray(batch.numpy(), dtype=np.float32)
        self._map[self._done : self._done + len(values)] = values
        self._crc = zlib.crc32(values.data, self._crc)
        self._done += len(values)

    def _open(self, dim: int) -> None:
        folder = self.temporary.parent
        folder.mkdir(parents=True, exist_ok=True)
        need, free = 4 * self.rows * dim, shutil.disk_usage(folder).free
        if need > free:
            raise ConfigError(
                f"{self.rows} x {dim} features need {need / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; give "
                "another folder with --cache DIR, or --cache off (features then stay in memory)"
            )
        shape = (self.rows, dim)
        self._map = np.lib.format.open_memmap(self.temporary, mode="w+", dtype=np.float32, shape=shape)

    def finish(self) -> tuple[int, list[int]]:
        """Checksum and shape of the complete file."""
        assert self._map is not None and self._done == self.rows, f"{self._done} of {self.rows} features were written"
        self._map.flush()
        return self._crc, list(self._map.shape)


def _read(about: Path, key: dict[str, Any]) -> np.ndarray | None:
    """The features that a description stands for; None if they are of another key."""
    known = read_json(about)
    if known["key"] != _plain(key):
        return None
    data = about.with_name(known.get("file", f"{about.stem}.npy"))
    features = np.load(data, mmap_mode="c", allow_pickle=False)
    if list(features.shape) != known["shape"] or features.dtype != np.float32:
        raise DataError(f"{data} holds {features.dtype} {features.shape}, expected float32 {known['shape']}")
    if checksum(features) != known["crc32"]:
        raise DataError(f"{data} does not have the checksum it was written with")
    return features


def _data_file(about: Path) -> Path | None:
    """The features of a description, as far as it can be read; they had its name once."""
    try:
        known = read_json(about)
        return about.with_name(Path(known.get("file", f"{about.stem}.npy")).name)
    except (DataError, AttributeError, TypeError):
        return None


def checksum(values: np.ndarray) -> int:
    """CRC-32 of an array's bytes, block by block."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    crc = 0
    for start in range(0, len(flat), _BLOCK):
        crc = zlib.crc32(flat[start : start + _BLOCK].data, crc)
    return crc


def _plain(key: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from json (tuples become lists), with the format."""
    return json.loads(json.dumps({"format": FORMAT, **key}))


def _mb(path: Path) -> float:
    return path.stat().st_size / 1e6
