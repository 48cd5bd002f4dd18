"""Files: atomic, digestible, inside their root."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import atomic_write, file_digest, read_json, safe_join, write_json


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_round_trip_and_errors(tmp_path: Path) -> None:
    write_json(tmp_path / "x" / "a.json", {"b": [1, 2.5]})
    assert read_json(tmp_path / "x" / "a.json") == {"b": [1, 2.5]}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"no file .*none\.json"):
        read_json(tmp_path / "none.json")


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()[:16]


@pytest.mark.parametrize("bad", ["../x", "a/../../x", "/etc/passwd"])
def test_paths_cannot_leave_their_root(tmp_path: Path, bad: str) -> None:
    with pytest.raises(DataError, match="leaves its root"):
        safe_join(tmp_path, bad)


def test_paths_inside_are_joined(tmp_path: Path) -> None:
    assert safe_join(tmp_path, "a/./b.jpg") == tmp_path.resolve() / "a" / "b.jpg"
