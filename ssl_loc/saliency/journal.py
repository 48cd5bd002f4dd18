"""What a run of an estimator writes down while it runs, so that a stopped run loses nothing.

``ROOT/.maps-I-of-N.jsonl``: one line per map made by shard I of N. Listing a folder takes the descriptions from here
instead of opening every map again, and learns which maps stand for images without an answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows, where two runs must not share a folder at the same time
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".manifest.lock"
_JOURNALS = ".maps-*.jsonl"


class Journal:
    """Appends one line per image.

    Args:
        root: the folder of maps.
        identity: what makes the maps; lines of another maker are not used.
        shard: (I, N).
    """

    def __init__(self, root: str | os.PathLike, identity: dict[str, Any], shard: tuple[int, int] = (0, 1)) -> None:
        self.path = Path(root) / f".maps-{shard[0]}-of-{shard[1]}.jsonl"
        self.identity = identity

    def __enter__(self) -> Journal:
        self._stream: IO[str] = open(self.path, "a", encoding="utf-8", buffering=1)  # a line at a time
        # The line before may have been cut off by a crash.
        self._stream.write("\n" + json.dumps({"made_by": self.identity}) + "\n")
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def add(self, key: str, entry: list[Any] | None, reason: str = "") -> None:
        """A map's description, or None and the reason why an image has no map."""
        self._stream.write(json.dumps([key, entry, reason]) + "\n")


def read_journals(
    root: str | os.PathLike, identity: dict[str, Any] | None = None
) -> dict[str, tuple[list[Any] | None, str]]:
    """Key -> (description or None, reason), from the journals of every shard; later lines win.

    Args:
        root: the folder.
        identity: lines of this maker only; None takes all.
    """
    found: dict[str, tuple[list[Any] | None, str]] = {}
    for path in sorted(Path(root).glob(_JOURNALS)):
        ours = False
        with open(path, encoding="utf-8") as stream:
            for line in stream:
                try:
                    value = json.loads(line) if line.strip() else None
                except json.JSONDecodeError:  # the last line of a run that was killed
                    continue
                if isinstance(value, dict):
                    ours = identity is None or value.get("made_by") == identity
                elif value is not None and ours:
                    found[value[0]] = (value[1], value[2])
    return found


def remove_journals(root: str | os.PathLike) -> None:
    """Forget the runs of a maker whose maps are gone."""
    for path in Path(root).glob(_JOURNALS):
        path.unlink(missing_ok=True)


@contextmanager
def folder_lock(root: str | os.PathLike) -> Iterator[None]:
    """Only one process at a time claims or lists a folder, so that shards do not lose each other's lines.

    File systems without locks are used without one.
    """
    with open(Path(root) / LOCK_NAME, "a") as stream:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield
