"""The picture of the matrix shows the matrix."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from ssl_loc.compatibility import Matrix
from ssl_loc.compatibility.tables import refused_orders
from ssl_loc.components import get_cfg
from ssl_loc.visualization.matrix import STATES, matrix_figure

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_a_marker_per_cell() -> None:
    matrix = Matrix(get_cfg())
    losses, augmenters, order = matrix_figure(matrix).axes
    pairs = [(method, loss) for method in matrix.methods for loss in matrix.losses]
    wrong = {pair for pair in pairs if matrix.problem(pair[0], [], [pair[1]])}
    beside = {pair for pair in pairs if pair not in wrong and matrix.caution(pair[0], [pair[1]])}
    shown: dict[str, set[tuple[str, str]]] = {"x": set(), STATES["caution"][1]: set()}
    rows, columns = (
        [label.get_text() for label in axis] for axis in (losses.get_yticklabels(), losses.get_xticklabels())
    )
    for line in losses.get_lines():
        cell = (rows[int(line.get_ydata()[0])], columns[int(line.get_xdata()[0])])
        for look in (line.get_marker(), line.get_color()):
            shown.setdefault(str(look), set()).add(cell)
    assert shown["x"] == wrong and shown[STATES["caution"][1]] == beside and len(losses.get_lines()) == len(pairs)
    assert len(augmenters.get_lines()) == len(matrix.methods) * len(matrix.augmenters)
    refused = {last: firsts for last, firsts in refused_orders(matrix).items() if firsts}
    markers = Counter(str(line.get_marker()) for line in order.get_lines())
    assert markers["x"] == sum(map(len, refused.values()))
    assert sum(markers.values()) == len(refused) * len(matrix.augmenters)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("visualize")
    words = ["visualize.py", "matrix", "--out", str(tmp_path), "--set", "MODEL.RESNET.DEPTH", "18"]
    monkeypatch.setattr(sys, "argv", words)
    tool.main()
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")
