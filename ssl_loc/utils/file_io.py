"""Safe files: atomic writes, digests, and paths that cannot leave their root."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ssl_loc.utils.errors import DataError


@contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it on success; on error ``path`` is untouched."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        # mkstemp makes the file private; give it the permissions an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)
        with os.fdopen(handle, mode) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` (UTF-8) atomically."""
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; a missing or broken one raises :class:`DataError` naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # Windows editors put a mark first
    except FileNotFoundError:
        raise DataError(f"no file {path}; expected a JSON file there") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}), as JSON must be") from None


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file, first 16 hex digits: names a checkpoint in every result."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def safe_join(root: str | os.PathLike, relative: str) -> Path:
    """Join ``relative`` (a path from a data file) to ``root``; refuse to leave ``root``."""
    base = os.path.abspath(root)
    # Links inside the dataset, which users do have, are not followed: only the text is compared. Loaders come here for
    # every image, so no file is touched and no Path object is compared.
    joined = os.path.normpath(os.path.join(base, relative))
    if joined != base and not joined.startswith(base.rstrip(os.sep) + os.sep):
        raise DataError(f"path '{relative}' leaves its root {base}; paths in data files must stay inside")
    return Path(joined)
