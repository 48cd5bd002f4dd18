"""Does the house stand? Arrows, sizes, doors, unread keys."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_loc.components import get_cfg

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ssl_loc"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
MAX_FILE, MAX_FUNCTION, MAX_TOOL = 400, 50, 120


def _imports(path: Path) -> set[str]:
    """Top-level names of every module imported anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_arrows_point_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_detectron2_has_one_door() -> None:
    door = PACKAGE / "transfer" / "detectron2_engine"
    inside = [p for p in SOURCES if door in p.parents]
    others = [p for p in SOURCES if door not in p.parents] + TOOLS
    assert any("detectron2" in _imports(p) for p in inside), (
        "the door itself must import it, or this test proves nothing"
    )
    assert [str(p.relative_to(ROOT)) for p in others if "detectron2" in _imports(p)] == []


def test_nothing_outside_tools_and_projects_is_imported_by_the_package() -> None:
    assert [str(p) for p in SOURCES if _imports(p) & {"tools", "projects", "tests"}] == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ssl_loc", {"torch", "numpy", "yacs", "cv2"}),
        ("ssl_loc.config", {"torch", "torchvision", "cv2", "matplotlib", "sklearn"}),
        ("ssl_loc.structures", {"torchvision", "cv2", "matplotlib", "sklearn"}),
        ("ssl_loc.components", {"matplotlib", "sklearn", "pycocotools", "detectron2", "tensorboard"}),
    ],
)
def test_import_stays_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded & heavy == set()


def test_files_and_functions_stay_small() -> None:
    long = []
    for path in [*SOURCES, *sorted((ROOT / "projects").rglob("*.py"))]:
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_FILE:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    long += [f"{p.name}: tool too long" for p in TOOLS if p.read_text().count("\n") > MAX_TOOL]
    assert long == []


def test_every_default_key_is_read_by_code() -> None:
    """A leaf key must appear as an attribute (`.KEY`) or a string outside of the place that defines it."""
    text = {p: p.read_text() for p in [*SOURCES, *TOOLS]}
    unread = []
    for full in get_cfg().keys_flat():
        key = full.rsplit(".", 1)[-1]
        read = re.compile(rf"""(\.{key}\b(?!\s*=[^=]))|(["']{key}["'])""")
        if not any(read.search(t) for p, t in text.items() if p.name != "defaults.py"):
            unread.append(full)
    assert unread == []


def test_no_machine_paths_and_no_left_overs() -> None:
    # Spelt in two parts so that this file does not match itself.
    bad = re.compile(r"/(wo" + r"rk|ro" + r"ot|ho" + r"me)/|\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b|except" + r":")
    tracked = [p for p in ROOT.rglob("*") if p.suffix in {".py", ".yaml", ".md", ".toml"} and ".venv" not in p.parts]
    hits = [
        f"{p.relative_to(ROOT)}:{i}"
        for p in tracked
        for i, line in enumerate(p.read_text(errors="replace").splitlines(), 1)
        if bad.search(line)
    ]
    assert hits == []
