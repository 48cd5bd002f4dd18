"""The head of every yaml of a published row says which row, what to expect, measured how, on what and for how long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.config_differences import family

from ssl_loc.components import setup_cfg

FAMILIES = ("baselines", "cast", "cvsa", "dilo")
ROWS = [path for name in FAMILIES for path in family(name) if not path.stem.startswith("Base")]
BASES = [path for name in FAMILIES for path in family(name) if path.stem.startswith("Base")]
PAPERS = {"baselines": r"et al\.|DiLo", "cast": "CAST paper|paper row", "cvsa": "CVSA paper", "dilo": "DiLo paper"}
PARTS = {
    "published number": r"Expected: [^#]*?\d",
    "protocol": r"Protocol: \w",
    "hardware": r"Hardware: \d+ GPUs",
    "time": r"Time: about [^#]*?\d+ (?:A100|V100) GPU hours|Time: about \d+ h on 8 V100",
}


def head(path: Path) -> str:
    """The comments before the first key, as one line."""
    lines = path.read_text().split("_BASE_:")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_row(path: Path) -> None:
    text = head(path)
    assert re.search(PAPERS[path.parent.name], text), "which paper?"
    assert [part for part, words in PARTS.items() if not re.search(words, text)] == []


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.stem)
def test_base(path: Path) -> None:
    assert "No published row" in head(path)


@pytest.mark.parametrize("path", family("quick"), ids=lambda path: path.stem)
def test_quick(path: Path) -> None:
    """Each says what it is a small size of, and is one: scenes, small pictures, few steps."""
    cfg = setup_cfg(str(path))
    assert cfg.DATA.TRAIN == "scenes_train" and cfg.SOLVER.MAX_ITER <= 1000 and cfg.AUGMENT.SIZE <= 128
    assert "small size" in head(path)


@pytest.mark.parametrize("path", ROWS + BASES + family("quick"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_run_has_a_folder_of_its_own_or_none(path: Path) -> None:
    """Two configs that name the same OUTPUT_DIR would refuse to run one after the other."""
    own = [line for line in path.read_text().splitlines() if line.startswith("OUTPUT_DIR:")]
    others = [other for other in (*ROWS, *BASES, *family("quick")) if other != path]
    assert not any(own[0] in other.read_text().splitlines() for other in others if own)
