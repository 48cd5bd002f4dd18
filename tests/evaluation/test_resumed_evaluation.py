"""Seeds are averaged, finished parts are not computed again, and nothing stale is taken for finished."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_loc.config import CfgNode
from ssl_loc.evaluation import EVALUATOR_REGISTRY, EvalData
from ssl_loc.evaluation.comparison import comparison, terminal_table
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.results import read_results
from ssl_loc.evaluation.runner import run_protocols
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.file_io import read_json

calls: list[tuple[str, int]] = []
# Seeds at which the protocol is interrupted.
stop_at: set[int] = set()


class Seeded:
    """A number that is the square of the seed."""

    version = "1"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        node.WORD = ""
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        return {"seed": options.SEED}

    def check_weights(self, weights: Weights) -> None: ...

    def check_data(self, data: EvalData) -> None: ...

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        if self.seed in stop_at:
            raise KeyboardInterrupt
        calls.append((weights.label, self.seed))
        return Result("seeded", self.version, {"square": float(self.seed**2)}, seed=self.seed)


class Fixed(Seeded):
    """The same whatever the seed."""

    seeded = False


@pytest.fixture(autouse=True)
def protocols() -> Iterator[None]:
    calls.clear()
    stop_at.clear()
    with EVALUATOR_REGISTRY.temporarily("seeded", Seeded), EVALUATOR_REGISTRY.temporarily("fixed", Fixed):
        yield


def weights(label: str = "A", digest: str = "d") -> Weights:
    return Weights(f"{label}.pth", label, "backbone", digest, None, device=torch.device("cpu"))


def run(
    out: Path,
    names: str = "seeded",
    seeds: tuple[int, ...] = (),
    given: list[Weights] | None = None,
    data: str = "d",
    again: bool = False,
    options: tuple[str, ...] = (),
) -> list[Result]:
    data_ = EvalData(data)
    return run_protocols(names.split(","), given or [weights()], data_, load_options(None, options), out, seeds, again)


def test_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    (result,) = run(tmp_path, seeds=(1, 2, 3))
    assert result.metrics["square"] == pytest.approx((1 + 4 + 9) / 3)
    mean = 14 / 3
    std = math.sqrt(((1 - mean) ** 2 + (4 - mean) ** 2 + (9 - mean) ** 2) / 2)
    assert result.details["std"]["square"] == pytest.approx(std)
    assert result.details["seeds"] == [1, 2, 3]
    assert result.details["per_seed"] == [{"square": 1.0}, {"square": 4.0}, {"square": 9.0}]
    found = read_results([tmp_path])
    assert len(found) == 1 and found[0]["metrics"]["square"] == pytest.approx(mean)
    assert "4.667 ± 4" in terminal_table(found)
    assert comparison(found)[0] == ["weights", "digest", "seeded v1 square", "seeded v1 square std"]


def test_one_seed_has_no_deviation_and_fixed_protocols_run_once(tmp_path: Path) -> None:
    one, fixed = run(tmp_path / "a", "seeded,fixed"), run(tmp_path / "b", "fixed", seeds=(4, 5))
    assert one[0].details["std"] == {"square": None} and one[0].details["seeds"] == [0]
    assert fixed[0].details["seeds"] == [4] and fixed[0].details["std"] == {"square": None}
    assert calls == [("A", 0), ("A", 0), ("A", 4)]


def test_a_stopped_evaluation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    two = [weights("A"), weights("B", "e")]
    stop_at.add(2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seeds=(0, 1, 2), given=two)
    assert calls == [("A", 0), ("A", 1)] and not list(tmp_path.glob("results/*.json"))
    calls.clear()
    stop_at.clear()
    results = run(tmp_path, seeds=(0, 1, 2), given=two)
    assert calls == [("A", 2), ("B", 0), ("B", 1), ("B", 2)]
    assert [r.metrics["square"] for r in results] == [5 / 3, 5 / 3]
    calls.clear()
    again = run(tmp_path, seeds=(0, 1, 2), given=two)
    assert calls == [] and [r.to_dict() for r in again] == [r.to_dict() for r in results]


def test_only_the_same_evaluation_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "labels.txt").write_text("1")
    words = {"out": tmp_path / "out", "data": str(photos)}

    def ran(**changes: Any) -> bool:
        calls.clear()
        run(**{**words, **changes})
        return bool(calls)

    assert ran() and not ran()
    assert ran(given=[weights(digest="other")]) and ran()
    assert ran(options=("SEEDED.WORD", "x")) and not ran() and not ran(options=("SEEDED.WORD", "x"))
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == 2  # neither replaced the other
    assert not ran(options=("BATCH_SIZE", "3", "CACHE", "somewhere", "DEVICE", "cpu", "WORKERS", "0"))
    assert ran(seeds=(1,)) and ran(seeds=(0,)) and not ran(seeds=(0,))
    assert ran(again=True) and not ran()
    # A file of the data that is no picture, and one that an option names.
    (photos / "labels.txt").write_text("22")
    assert ran() and not ran()
    os.utime(photos / "labels.txt", ns=(1, 1))
    assert ran() and not ran()
    note = tmp_path / "note.json"
    note.write_text("a")
    assert ran(options=("SEEDED.WORD", str(note))) and not ran(options=("SEEDED.WORD", str(note)))
    note.write_text("bb")
    assert ran(options=("SEEDED.WORD", str(note))) and not ran()
    monkeypatch.setattr(Seeded, "version", "2")
    assert ran() and not ran()


def test_a_broken_result_is_made_again(tmp_path: Path, caplog) -> None:
    run(tmp_path)
    (file,) = (tmp_path / "results").glob("*.json")
    file.write_text(file.read_text()[:40])
    run(tmp_path)
    assert calls == [("A", 0)] * 2 and "is made anew" in caplog.text
    assert read_json(file)["metrics"] == {"square": 0.0}


def test_published_numbers_of_today_stand_beside_a_stored_result(tmp_path: Path) -> None:
    run(tmp_path)
    rows = (
        '[["a", "seeded", "square", 3.0, "Paper"], ["B", "seeded", "square", 4.5, "Paper"], ["B", "knn", "x", 1, ""]]'
    )
    (result,) = run(tmp_path, options=("PUBLISHED", rows, "PUBLISHED_IF", '[["DATA", "d"]]'))
    assert calls == [("A", 0)]
    assert result.details["published"] == {"square": {"value": 3.0, "source": "Paper"}}
    found = read_results([tmp_path])
    columns, table = comparison(found)
    assert columns[2:] == ["seeded v1 square", "seeded v1 square published"] and table[0][2:] == [0.0, 3.0]
    text = terminal_table(found).splitlines()
    assert [line.split() for line in text[-2:]] == [["a", "published", "3"], ["B", "published", "4.5"]]
    # On other data they say nothing.
    run(tmp_path, options=("PUBLISHED", rows, "PUBLISHED_IF", '[["DATA", "e"]]'))
    found = read_results([tmp_path])
    assert comparison(found)[0][2:] == ["seeded v1 square"] and calls == [("A", 0)]
    assert (
        "2 published numbers of seeded are left out, they hold for other settings: --data d, expected e"
        in (terminal_table(found).splitlines()[-1])
    )


def test_results_of_other_options_and_limits_stand_beside_each_other(tmp_path: Path) -> None:
    for out, words in (("a", ()), ("b", ("SEEDED.WORD", "x"))):
        run(tmp_path / out, options=words)
    run(tmp_path / "a", options=("SIZE", "32"))
    found = read_results([tmp_path / "a", tmp_path / "b"])
    columns, table = comparison(found)
    every = "seeded v1 (SIZE {}, SEEDED.WORD {}) square"
    assert set(columns[2:]) == {every.format(0, "''"), every.format(32, "''"), every.format(0, "x")}
    assert table == [["A", "d", 0.0, 0.0, 0.0]]
    assert len(terminal_table(found).split("\n\n")) == 3
    # Two that agree in everything but their number have a row each.
    twice = [found[0], {**found[0], "metrics": {"square": 7.0}}, found[0]]
    assert comparison(twice)[1] == [["A", "d", 0.0], ["A", "d", 7.0]]
    # Results of an older version do not say their options, so they may be others.
    old = {**found[0], "details": {k: v for k, v in found[0]["details"].items() if k != "chosen_options"}}
    assert "seeded v1 (options not recorded) square" in comparison([found[0], old])[0]


def test_the_tool_takes_seeds_cache_and_again(
    tmp_path: Path, photos: tuple[Path, Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "tools"))
    import evaluate

    out = tmp_path / "out"
    words = ["--protocol", "seeded", "--weights", str(run_folder), "--data", f"folder:{photos[0]}", "--out", str(out)]
    for more in (["--seeds", "2"], ["--seeds", "2"], ["--seeds", "2", "--again", "--cache", "off"]):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *words, *more])
        evaluate.main()
    assert [seed for _, seed in calls] == [0, 1, 0, 1]
    page = (out / "comparison.html").read_text()
    assert "<html" in page and "seeded" in page and (out / "comparison.csv").is_file()
