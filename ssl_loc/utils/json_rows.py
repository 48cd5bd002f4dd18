"""JSON with a long table at its end, a row per line: 100 thousand rows stay readable, and are written in a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_with_rows(head: Mapping[str, Any], name: str, rows: Mapping[str, Any]) -> str:
    """``head`` indented as usual, then ``name`` with one line per row; reads back as ``{**head, name: rows}``."""
    start = json.dumps(dict(head), indent=2)[:-2] if head else "{"
    lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
    body = f"{{\n{lines}\n  }}" if rows else "{}"
    return f"{start}{',' if head else ''}\n  {json.dumps(name)}: {body}\n}}\n"
