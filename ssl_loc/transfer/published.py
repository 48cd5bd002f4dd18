"""Published numbers that stand in the header of a recipe's file.

A header is the comment at the top. The part that counts has the form (tests hold all recipes to it)::

    # Published (AP / AP50 / AP75 on VOC 2007 test; all pretrained on COCO for 200 epochs):
    #   random init 33.8 / 60.2 / 33.1; MoCo 47.5 / 75.4 / 51.5;
    #   CAST 54.2 / 80.1 / 59.9.
    # Protocol: ...

With six numbers per row, the second three are of masks.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from ssl_loc.config.node import load_chain

# Key of a result's details.
PUBLISHED = "published_with_recipe"
_TRIPLE = r"(\d+\.\d+) / (\d+\.\d+) / (\d+\.\d+)"
_PART = re.compile(r"Published \((?P<what>.+?)\)(?P<tasks>, box, then mask)?: (?P<rows>.+)")
_ROW = re.compile(rf"(.+?) {_TRIPLE}(?:, {_TRIPLE})?\.?")
_NAMES = [f"{task}/{name}" for task in ("bbox", "segm") for name in ("AP", "AP50", "AP75")]


def read_published(path: str | Path) -> dict[str, Any]:
    """{"what": what was measured on what, "rows": [{"label": ..., "bbox/AP": ...}], "file": whose header};
    empty where there is nothing.

    Of a file without published numbers, those of its ``_BASE_`` are taken: a preset for fewer GPUs names its recipe.
    """
    for name, _ in reversed(list(load_chain(path))):
        found = parse_header(Path(name).read_text(encoding="utf-8"))
        if found:
            return {**found, "file": str(name)}
    return {}


def parse_header(text: str) -> dict[str, Any]:
    """The published numbers in the leading comment of ``text``."""
    comment = [line.removeprefix("#") for line in itertools.takewhile(lambda s: s.startswith("#"), text.splitlines())]
    starts = [i for i, line in enumerate(comment) if line.startswith(" Published (")]
    if not starts:
        return {}
    # Continued lines are indented by more than one blank.
    rest = itertools.takewhile(lambda line: line.startswith("  "), comment[starts[0] + 1 :])
    part = _PART.fullmatch(" ".join(line.strip() for line in [comment[starts[0]], *rest]))
    if part is None:
        return {}
    rows = []
    for words in part["rows"].split(";"):
        row = _ROW.fullmatch(words.strip())
        if row is not None:
            numbers = [float(number) for number in row.groups()[1:] if number]
            rows.append({"label": row[1], **dict(zip(_NAMES, numbers, strict=False))})
    return {"what": part["what"], "rows": rows} if rows else {}
