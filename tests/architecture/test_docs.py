"""Documents rot when nobody runs them: every file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "projects" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)\)")
FILE = re.compile(r"(?<![\w./-])((?:configs|tools|docs|ssl_loc|tests)/[\w./-]+\.(?:py|yaml|md|png|html))")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_files_exist(path: Path) -> None:
    text = path.read_text()
    links = {path.parent / name for name in LINK.findall(text) if "://" not in name}
    files = {ROOT / name for name in FILE.findall(text)}
    assert sorted(str(p) for p in links | files if not p.exists()) == []


def test_no_placeholders() -> None:
    assert [p.name for p in DOCUMENTS if "PLACE" + "HOLDER" in p.read_text()] == []
