"""--seeds: one run per seed, nothing twice, nothing mixed, and the numbers that come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.detection_recipe import CONFIGS, tiny_recipe
from helpers.detection_results import noisy_predictions

from ssl_loc.transfer import seeds
from ssl_loc.transfer.build import DETECTION_ENGINE_REGISTRY, TransferJob
from ssl_loc.transfer.command import finetune
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.detector_file import DetectorFile
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.published import PUBLISHED
from ssl_loc.transfer.run import with_seed
from ssl_loc.transfer.seeds import combine, read_result, spread_table
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.file_io import read_json, write_json
from ssl_loc.utils.logger import close_logger


class FakeEngine:
    """Predicts what the seed says instead of training."""

    name = "fake"
    ran: list[tuple[int, bool]] = []
    dies_at: int | None = None

    def available(self) -> tuple[bool, str]:
        return True, ""

    def version(self) -> str:
        return "1"

    def run(self, job: TransferJob) -> dict[str, list[ImagePrediction]]:
        seed = job.recipe.SEED
        self.ran.append((seed, job.resume))
        if seed == self.dies_at:
            raise KeyboardInterrupt
        names = job.recipe.DATASETS.TEST
        return {n: noisy_predictions(get_detection_dataset(n), seed, 2.0 + seed, False) for n in names}


@pytest.fixture
def go(names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict]]:
    """finetune() with the fake engine into tmp_path/out."""
    monkeypatch.setattr(FakeEngine, "ran", [])
    monkeypatch.setattr(FakeEngine, "dies_at", None)

    def run(wanted: list[int], *overrides: object, weights: str = "random", **options: Any) -> dict[str, float]:
        recipe = tiny_recipe("FPN", names, tmp_path / "out", *overrides)
        return finetune(recipe, weights, "fake", seeds=wanted, **options)

    with DETECTION_ENGINE_REGISTRY.temporarily("fake", FakeEngine):
        yield run
    close_logger()


def test_mean_and_sample_deviation_of_every_number(go: Callable, tmp_path: Path) -> None:
    drawn: list[str] = []
    metrics = go([3, 4, 7], draw=drawn.append)
    out = tmp_path / "out"
    each = {seed: read_json(out / f"seed_{seed}" / "result.json") for seed in (3, 4, 7)}
    combined = read_json(out / "result.json")
    assert combined["metrics"] == metrics and list(metrics) == list(each[3]["metrics"])
    for name, mean in metrics.items():
        values = [result["metrics"][name] for result in each.values()]
        assert mean == pytest.approx(sum(values) / 3)
        variance = sum((v - mean) ** 2 for v in values) / 2
        assert combined["details"]["std"][name] == pytest.approx(math.sqrt(variance), abs=1e-9)
    assert len({result["metrics"]["bbox/AP"] for result in each.values()}) == 3
    assert [result["seed"] for result in each.values()] == [3, 4, 7]  # the seed that ran is on record
    assert {s: row["metrics"] for s, row in combined["details"]["seeds"].items()} == {
        str(seed): result["metrics"] for seed, result in each.items()
    }
    assert len({result["digest"] for result in each.values()}) == 3 and combined["digest"] == ""  # three random trunks
    assert drawn == [str(out / f"seed_{s}") for s in (3, 4, 7)] + [str(out)]
    assert "seed 7" in (out / "log.txt").read_text() and "std (n - 1)" in (out / "log.txt").read_text()
    assert (out / "seed_3" / "log.txt").is_file()


def test_the_same_command_goes_on(go: Callable, tmp_path: Path) -> None:
    FakeEngine.dies_at = 1
    with pytest.raises(KeyboardInterrupt):
        go([0, 1, 2])
    assert not (tmp_path / "out" / "result.json").exists()
    FakeEngine.dies_at = None
    before = (tmp_path / "out" / "seed_0" / "result.json").stat().st_mtime_ns
    go([0, 1, 2])
    # Seed 0 is not repeated, seed 1 is continued, seed 2 is new.
    assert FakeEngine.ran == [(0, False), (1, False), (1, True), (2, False)]
    assert (tmp_path / "out" / "seed_0" / "result.json").stat().st_mtime_ns == before
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "seeds finished before, not repeated: 0" in log and "seeds begun before, continued: 1" in log
    FakeEngine.ran.clear()
    four = go([0, 1, 2, 3])  # more seeds later; keys that change no number do not matter
    assert FakeEngine.ran == [(3, False)] and len(read_json(tmp_path / "out/result.json")["details"]["seeds"]) == 4
    assert go([0, 1, 2, 3], "DATALOADER.NUM_WORKERS", 1, "TRANSFER.LOG_PERIOD", 9) == four
    assert FakeEngine.ran == [(3, False)]


def test_other_settings_are_refused_before_anything_runs(go: Callable, tmp_path: Path) -> None:
    go([0, 1])
    FakeEngine.ran.clear()
    with pytest.raises(ConfigError, match=r"seed_0 holds a finished .*SOLVER.MAX_ITER 3 there, 5 now.*OUTPUT_DIR"):
        go([2, 0], "SOLVER.MAX_ITER", 5)
    result = read_json(tmp_path / "out" / "seed_1" / "result.json")
    write_json(tmp_path / "out" / "seed_1" / "result.json", {**result, "digest": "of other weights"})
    with pytest.raises(ConfigError, match=r"seed_1 holds .*weights of other weights there"):
        go([0, 1])
    FakeEngine.dies_at = 5
    with pytest.raises(KeyboardInterrupt):
        go([5])
    with pytest.raises(ConfigError, match=r"seed_5 holds a begun .*SOLVER.BASE_LR"):
        go([5], "SOLVER.BASE_LR", 0.5)
    assert FakeEngine.ran == [(5, False)]


def test_evaluation_only_has_no_seeds(go: Callable) -> None:
    with pytest.raises(ConfigError, match="--seeds fine-tunes and --eval-only does not"):
        go([0], eval_only=True)


def test_one_seed_has_no_spread(go: Callable, tmp_path: Path) -> None:
    go([4])
    result = read_result(tmp_path / "out")
    assert set(result.details["std"].values()) == {None} and result.seed == 4
    assert "std" not in spread_table(result)
    assert combine([result], "w", ["seed_4"]).metrics == result.metrics


def test_published_numbers_of_the_recipe_go_into_every_result(go: Callable, tmp_path: Path) -> None:
    go([0], config_file=str(CONFIGS / "voc_R50_C4_24k.yaml"))
    for folder in (tmp_path / "out", tmp_path / "out" / "seed_0"):
        rows = read_result(folder).details[PUBLISHED]["rows"]
        differs = " ".join(read_result(folder).details[PUBLISHED]["differs"])
        assert "SOLVER.MAX_ITER 24000 there, 3 now" in differs and "SEED" not in differs and "OUTPUT_DIR" not in differs
        assert {row["label"]: row["bbox/AP"] for row in rows}["CAST"] == 54.2


def test_a_drawn_seed_is_on_record_and_kept_by_resume(go: Callable, names: dict[str, str], tmp_path: Path) -> None:
    go([], "SEED", -1)
    out = tmp_path / "out"
    seed = read_json(out / "result.json")["seed"]
    assert seed >= 0 and FakeEngine.ran == [(seed, False)]
    recipe = tiny_recipe("FPN", names, out, "SEED", -1)
    assert with_seed(recipe, resume=True).SEED == seed
    (out / "result.json").unlink()
    go([], "SEED", -1, resume=True)
    assert FakeEngine.ran == [(seed, False), (seed, True)]
    assert {with_seed(recipe).SEED for _ in range(3)} != {seed}


def test_seeds_do_not_overwrite_a_single_run(go: Callable, tmp_path: Path) -> None:
    go([], "SEED", 1)
    before = (tmp_path / "out" / "result.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a single run .a finished one, result.json., whose result"):
        go([1])
    assert (tmp_path / "out" / "result.json").read_bytes() == before and len(FakeEngine.ran) == 1


def test_a_begun_seed_of_other_weights_is_refused(
    go: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeEngine.dies_at = 0
    with pytest.raises(KeyboardInterrupt):
        go([0])
    file = DetectorFile(tmp_path / "x.pth", "torchvision", {}, {"trunk": {"digest": "of other weights"}})
    monkeypatch.setattr(seeds, "last_checkpoint", lambda folder: file.path)
    monkeypatch.setattr(seeds, "read_detector", lambda path: file)
    with pytest.raises(ConfigError, match="begun .*weights of other weights there, .* now; engine torchvision there"):
        go([0])
