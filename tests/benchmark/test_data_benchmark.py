"""The data benchmark runs end to end, and its rows say what holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssl_loc.benchmark import data
from ssl_loc.benchmark.photos import draw_map, draw_photo, encode_photo
from ssl_loc.benchmark.rows import Row, format_rows, write_rows
from ssl_loc.utils.errors import ConfigError


def test_rows_know_whether_they_hold() -> None:
    assert Row.at_least("a", 3.8, "x", "b", 3.7).holds and not Row.at_least("a", 3.6, "x", "b", 3.7).holds
    assert Row.at_most("a", 0.1, "ms", "", 0.15).holds and not Row.at_most("a", 0.2, "ms", "", 0.15).holds


def test_rows_as_table_and_json(tmp_path: Path) -> None:
    rows = [Row.at_least("speed", 3.0, "x", "peer", 3.7), Row("size", 89.0, "kB")]
    assert "NO" in format_rows(rows) and ">= 3.7" in format_rows(rows)
    write_rows(tmp_path / "rows.json", rows)
    read = json.loads((tmp_path / "rows.json").read_text())
    assert read[0] == {
        "name": "speed",
        "value": 3.0,
        "unit": "x",
        "baseline": "peer",
        "goal": ">= 3.7",
        "holds": False,
    }
    assert read[1]["holds"] is None


def test_photos_take_what_photos_take() -> None:
    rng = np.random.default_rng(0)
    data_ = encode_photo(draw_photo(rng))
    assert 80_000 < len(data_) <= 89_000
    share = (draw_map(rng, 4) > 0).mean()
    assert share == pytest.approx(0.2, abs=0.04)


def test_benchmark_runs() -> None:
    rows = {row.name: row for row in data.run(images=2, rounds=1, progress=False)}
    assert sum(row.holds is not None for row in rows.values()) == 3
    assert all(row.value > 0 for row in rows.values())
    assert sum(name.startswith("stage: ") for name in rows) == 9


def test_wrong_counts_are_explained() -> None:
    with pytest.raises(ConfigError, match="images 1 and rounds 0"):
        data.run(images=1, rounds=0)
