"""The k-NN benchmark: right answers, and memory bounded by the size of a block, however many rows there are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ssl_loc.benchmark import knn
from ssl_loc.layers import neighbours
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.file_io import read_json

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_blocks_and_plain_search_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "DIM", 16)
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 16 * 70)
    train, test = knn.SimulatedRows(500, 16), knn.SimulatedRows(9, 16)[0:9].float()
    stored = torch.cat([train[i : i + 70] for i in range(0, 500, 70)])
    torch.testing.assert_close(knn.classify(train, test), knn.plain(stored, test), rtol=1e-5, atol=1e-4)


def test_the_comparison_notices_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "DIM", 16)
    test = knn.SimulatedRows(9, 16, seed=knn.QUERY_SEED)[0:9].float()
    assert not torch.equal(test, knn.SimulatedRows(500, 16)[0:9].float())  # no query is a training row
    knn.compare(500, test, 1)
    right = knn.classify
    monkeypatch.setattr(knn, "classify", lambda train, given: right(train, given).roll(1, 1))
    with pytest.raises(RuntimeError, match="blocks and the plain one differ"):
        knn.compare(500, test, 1)


def test_a_block_is_far_below_the_goal() -> None:
    # Of a block: as stored, as float32, normalised, and its similarities, each at most CHUNK_ELEMENTS float32.
    assert 4 * 4 * neighbours.CHUNK_ELEMENTS < 0.25 * knn.MEMORY_GOAL_GB * 1e9


@pytest.mark.parametrize("rows", [1_000, 8_000])
def test_the_search_never_asks_for_more_than_a_block(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2048 numbers per row as in the benchmark, but rows that cost nothing: one row seen many times.
    one = torch.ones(1, 2048, dtype=torch.float16)
    asked: list[int] = []

    class Rows:
        def __len__(self) -> int:
            return rows

        def __getitem__(self, part: slice) -> torch.Tensor:
            start, stop, _ = part.indices(rows)
            asked.append(stop - start)
            return one.expand(stop - start, 2048)

    shapes: list[int] = []
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 1 << 18)
    monkeypatch.setattr(neighbours, "_search", lambda near, test, k, device: search(near, len(test), k, shapes))
    neighbours.neighbours(Rows(), torch.ones(3, 2048), 5)
    assert sum(asked) - 1 == rows  # one row tells the length
    assert max(asked) * 2048 <= 1 << 18 and max(shapes) <= 1 << 18


def search(near: torch.Tensor, queries: int, k: int, shapes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    shapes.append(near.numel())
    return torch.ones(queries, k), torch.arange(k).expand(queries, k)


def test_similarities_of_many_queries_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK_ELEMENTS", 400)
    held: list[int] = []
    original = neighbours.nearest
    monkeypatch.setattr(neighbours, "nearest", lambda s, k: held.append(s.numel()) or original(s, k))
    neighbours._search(torch.randn(20, 8), torch.randn(333, 8), 5, "cpu")
    assert len(held) == 17 and max(held) <= 400


def test_tool_prints_rate_ratio_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr(knn, "DIM", 32)
    words = ["knn", "--rows", "3000", "--queries", "20", "--rounds", "1", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    import benchmark

    benchmark.main()
    rows = read_json(tmp_path / "rows.json")
    assert [row["unit"] for row in rows] == ["queries/s", "million/s", "min", "x", "GB", "rows"]
    assert rows[4]["goal"] == "<= 4.0" and rows[5]["value"] == 3000
    assert "k-NN rate" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="0 queries"):
        knn.run(10, 0)
