"""A resumed run makes the same bits; a run that must not be continued is refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from engine_runs import assert_equal_bits, cast_keys, last_state, tensors, tiny_cfg

from ssl_loc.engine import train
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.events import read_metrics

Data = tuple[Path, Path]


@pytest.mark.parametrize("workers", [0, 2])
def test_three_plus_three_is_six(drawn: Data, tmp_path: Path, workers: int) -> None:
    keys = [*cast_keys(drawn), "DATA.NUM_WORKERS", workers, "ENGINE.CHECKPOINT_PERIOD", 3, "ENGINE.LOG_PERIOD", 3]
    whole = train(tiny_cfg(drawn, tmp_path / "whole", *keys, "SOLVER.WARMUP_ITERS", 2))
    assert whole["iteration"] == 6
    # The same run, as it was after three steps.
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "whole", half)
    (half / "checkpoints" / "iter_0000006.pth").unlink()
    (half / "checkpoints" / "last_checkpoint").write_text("iter_0000003.pth\n")
    before = tensors(last_state(half))
    train(tiny_cfg(drawn, half, *keys, "SOLVER.WARMUP_ITERS", 2), resume=True)
    assert_equal_bits(last_state(tmp_path / "whole"), last_state(half))
    after = tensors(last_state(half))
    for part in ("query_trunk.conv1.weight", "key_trunk.conv1.weight", "queue.features"):
        assert not before[f"model.method.{part}"].equal(after[f"model.method.{part}"]), f"{part} did not move"
    curve = [(row["iteration"], row["loss"]) for row in read_metrics(half)]
    assert curve == [(row["iteration"], row["loss"]) for row in read_metrics(tmp_path / "whole")]


def test_resume_without_a_run_starts(drawn: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = train(tiny_cfg(drawn, tmp_path / "new", "SOLVER.MAX_ITER", 1), resume=True)
    assert result["iteration"] == 1
    assert "no checkpoint in" in caplog.text and "starts at iteration 0" in caplog.text


def test_existing_run_is_not_overwritten(drawn: Data, tmp_path: Path) -> None:
    cfg = tiny_cfg(drawn, tmp_path / "run", "SOLVER.MAX_ITER", 1)
    train(cfg)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(
        ConfigError, match="already holds a run .checkpoint iter_0000001.pth.; continue it with --resume"
    ):
        train(cfg)
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_resume_of_another_config_is_refused_and_length_may_change(
    drawn: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 1))
    with pytest.raises(ConfigError) as error:
        train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 2, "SOLVER.BASE_LR", 0.5, "MODEL.MOCO.T", 0.2), resume=True)
    text = str(error.value)
    assert "SOLVER.BASE_LR 0.03 -> 0.5" in text and "MODEL.MOCO.T 0.07 -> 0.2" in text
    assert "MAX_ITER" not in text
    caplog.set_level(logging.INFO)
    assert train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 2, "ENGINE.LOG_PERIOD", 1), resume=True)["iteration"] == 2
    assert "SOLVER.MAX_ITER 1 -> 2" in caplog.text
    assert train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 2), resume=True)["iteration"] == 2
    assert "nothing to do: 2 of 2" in caplog.text
