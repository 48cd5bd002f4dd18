"""A fine-tuning that is stopped or killed anywhere goes on as if nothing had happened, on either engine."""

from __future__ import annotations

import logging
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detection_recipe import tiny_recipe
from helpers.finetuning import Countdown, ToolRun, different, final_model, fine_tune

from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.resume import last_checkpoint
from ssl_loc.transfer.run import run_transfer
from ssl_loc.transfer.stop import RunStopped
from ssl_loc.utils.errors import ConfigError, WeightsError
from ssl_loc.utils.events import read_metrics

Names = dict[str, str]
HERE, WHY = Detectron2Engine().available()
NEEDS = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
DETECTRON2 = pytest.param("detectron2", marks=NEEDS, id="detectron2")
both_engines = pytest.mark.parametrize("engine", ["torchvision", DETECTRON2])
# Two iterations, an evaluation with its own statistics between them and after them.
SHORT = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 0)


@both_engines
def test_a_stop_anywhere_changes_nothing(engine: str, names: Names, tmp_path: Path) -> None:
    """After a step, during PreciseBN and evaluation between steps and after the last one, during the prediction."""
    look = Countdown()
    whole = fine_tune(engine, tiny_recipe("C4", names, tmp_path / "whole", *SHORT), request=look)
    points = [1, 2, 6, *range(8, look.looks + 1, 2)]
    assert look.looks >= 13
    finished = 0
    for at in points:
        out = tmp_path / f"stopped_{at}"
        with pytest.raises(RunStopped, match="stopped by SIGTERM") as stopped:
            fine_tune(engine, tiny_recipe("C4", names, out, *SHORT), request=Countdown(at))
        assert stopped.value.signal == signal.SIGTERM
        path = last_checkpoint(out)
        assert path is not None
        finished += path.name == "model_final.pth"
        assert path.name == "model_final.pth" or str(path) in str(stopped.value)
        # Loader processes do not matter either.
        again = tiny_recipe("C4", names, out, *SHORT, "DATALOADER.NUM_WORKERS", 2 if at == 1 else 0)
        assert same_predictions(whole, fine_tune(engine, again, resume=True))
        assert not different(final_model(tmp_path / "whole"), final_model(out)), f"stopped at look {at}"
        losses = [(row["iteration"], row["total_loss"]) for row in read_metrics(out) if "total_loss" in row]
        expected = [(row["iteration"], row["total_loss"]) for row in read_metrics(tmp_path / "whole")]
        assert losses == expected
    # Both kinds of stop were met: with training left to do, and with only the prediction left.
    assert 0 < finished < len(points)


@both_engines
def test_two_stops_in_one_run(engine: str, names: Names, tmp_path: Path) -> None:
    """The second one while the first one's unfinished evaluation is made up for."""
    fine_tune(engine, tiny_recipe("FPN", names, tmp_path / "whole", *SHORT))
    recipe = tiny_recipe("FPN", names, tmp_path / "stopped", *SHORT)
    for resume, at in ((False, 2), (True, 2)):
        with pytest.raises(RunStopped, match="after 1 of 2 iterations"):
            fine_tune(engine, recipe, resume, Countdown(at))
    fine_tune(engine, recipe, resume=True)
    assert not different(final_model(tmp_path / "whole"), final_model(tmp_path / "stopped"))


def same_predictions(a: dict[str, list[ImagePrediction]], b: dict[str, list[ImagePrediction]]) -> bool:
    pairs = [(x, y) for name in a for x, y in zip(a[name], b[name], strict=True)]
    return all(np.array_equal(x.scores, y.scores) and np.array_equal(x.boxes, y.boxes) for x, y in pairs)


@both_engines
def test_killed_at_once_and_continued(engine: str, names: Names, tmp_path: Path) -> None:
    """kill -9 at a random iteration, to all processes: the last periodic checkpoint is whole and goes on."""
    keys = ("SOLVER.MAX_ITER", 24, "SOLVER.STEPS", (20,), "SOLVER.CHECKPOINT_PERIOD", 4, "DATALOADER.NUM_WORKERS", 1)
    config = tmp_path / "recipe.yaml"
    config.write_text(tiny_recipe("FPN", names, tmp_path / "killed", *keys).dump_yaml())
    with ToolRun(config, tmp_path / "killed", ("--engine", engine)) as run:
        run.wait_for_rows(random.randrange(5, 16))
        assert run.send(signal.SIGKILL, to_all=True) == -signal.SIGKILL
    begun = last_checkpoint(tmp_path / "killed")
    assert begun is not None and begun.name != "model_final.pth"
    fine_tune(engine, tiny_recipe("FPN", names, tmp_path / "killed", *keys), resume=True)
    fine_tune(engine, tiny_recipe("FPN", names, tmp_path / "whole", *keys))
    assert not different(final_model(tmp_path / "whole"), final_model(tmp_path / "killed")), f"from {begun.name}"
    curve, expected = read_metrics(tmp_path / "killed"), read_metrics(tmp_path / "whole")
    assert [row["total_loss"] for row in curve] == [row["total_loss"] for row in expected]


def test_no_run_outlives_its_test(tmp_path: Path) -> None:
    """A test that fails ends its processes, and they hear SIGINT even where this one was started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = "import os, signal, time; os.fork(); print(signal.getsignal(signal.SIGINT), flush=True); time.sleep(600)"
    try:
        with pytest.raises(AssertionError), ToolRun(tmp_path, tmp_path / "x", launcher=("-c", code)) as run:
            while run.text.count("\n") < 2:
                time.sleep(0.02)
            raise AssertionError
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.text.count("default_int_handler") == 2
    # The killed children of a dead process are collected by init, which takes a moment.
    for _ in range(500):
        if not running(run.process.pid):
            break
        time.sleep(0.02)
    assert not running(run.process.pid)


def running(group: int) -> list[str]:
    """States of the processes of a group that have not ended."""
    words = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout.split()
    pairs = zip(words[0::2], words[1::2], strict=True)
    return [state for number, state in pairs if int(number) == group and not state.startswith("Z")]


@pytest.mark.parametrize(
    ("engine", "number"),
    [("torchvision", signal.SIGINT), pytest.param("detectron2", signal.SIGTERM, marks=NEEDS)],
)
def test_the_tool_exits_as_pretraining_does(engine: str, number: int, names: Names, tmp_path: Path) -> None:
    """A signal to the tool and all its loader workers, as a terminal, torchrun and batch systems send it."""
    config = tmp_path / "recipe.yaml"
    keys = ("SOLVER.MAX_ITER", 100000, "DATALOADER.NUM_WORKERS", 2)
    config.write_text(tiny_recipe("C4", names, tmp_path / "run", *keys).dump_yaml())
    with ToolRun(config, tmp_path / "run", ("--engine", engine)) as run:
        run.wait_for_rows(2)
        assert run.send(number, to_all=True) == 128 + number, run.text
    name = signal.Signals(number).name
    assert f"{name}: finishing the step and writing a checkpoint" in run.text
    assert f"stopped by {name} after" in run.text and "the same command with --resume goes on" in run.text
    assert "Traceback" not in run.text
    path = last_checkpoint(tmp_path / "run")
    assert path is not None and path.name == f"model_{read_metrics(tmp_path / 'run')[-1]['iteration'] - 1:07d}.pth"


@pytest.mark.slow
@both_engines
@pytest.mark.parametrize("launcher", ["torchrun", "spawn"])
def test_two_processes_are_stopped_and_continued(engine: str, launcher: str, names: Names, tmp_path: Path) -> None:
    """SIGTERM to torchrun, which passes it on (and itself exits with 1), or to all processes that the tool spawned."""
    keys = ("MODEL.RESNETS.NORM", "SyncBN", "SOLVER.CHECKPOINT_PERIOD", 0, "TEST.PRECISE_BN.ENABLED", "False")
    words = [str(word) for word in keys]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    before, options = (torchrun, ()) if launcher == "torchrun" else ((), ("--num-gpus", "2"))
    config = tmp_path / "recipe.yaml"
    config.write_text(tiny_recipe("FPN", names, tmp_path / "run").dump_yaml())

    def start(name: str, length: int, *more: str) -> ToolRun:
        arguments = ("--engine", engine, *options, *more, *words, "SOLVER.MAX_ITER", str(length))
        return ToolRun(config, tmp_path / name, arguments, before)

    with start("stopped", 100000) as run:
        run.wait_for_rows(2)
        status = run.send(signal.SIGTERM, to_all=launcher == "spawn")
        assert status == (1 if launcher == "torchrun" else 143), run.text
    assert "finishing the step and writing a checkpoint" in run.text and "killed by signal" not in run.text
    length = read_metrics(tmp_path / "stopped")[-1]["iteration"] + 3
    for name, more in (("stopped", ["--resume"]), ("whole", [])):
        with start(name, length, *more) as run:
            assert run.process.wait(timeout=300) == 0, run.text
    assert not different(final_model(tmp_path / "whole"), final_model(tmp_path / "stopped"))


@both_engines
def test_resume_of_another_recipe_is_refused(
    engine: str, names: Names, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, once = tmp_path / "run", ("SOLVER.MAX_ITER", 1)
    run_transfer(tiny_recipe("C4", names, out, *once), "random", engine)
    files = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    other = tiny_recipe("C4", names, out, *once, "SOLVER.BASE_LR", 0.5, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 4)
    with pytest.raises(ConfigError) as error:
        run_transfer(other, "random", engine, resume=True)
    text = str(error.value)
    assert "SOLVER.BASE_LR 0.01 -> 0.5" in text and "BATCH_SIZE_PER_IMAGE 8 -> 4" in text and "MAX_ITER" not in text
    assert "another OUTPUT_DIR" in text
    assert files == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    caplog.set_level(logging.INFO)
    longer = tiny_recipe("C4", names, out, "SOLVER.MAX_ITER", 2, "INPUT.MIN_SIZE_TEST", 80)
    assert run_transfer(longer, "random", engine, resume=True) is not None
    assert "changed since model_final.pth: SOLVER.MAX_ITER 1 -> 2" in caplog.text
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == (1 if engine == "detectron2" else 2)
    # Once more: nothing left to train, evaluated again.
    assert run_transfer(longer, "random", engine, resume=True) is not None
    assert "nothing left to train: 2 of 2 iterations are done" in caplog.text


def test_resume_without_a_run_and_without_its_file(
    names: Names, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = tiny_recipe("C4", names, tmp_path, "SOLVER.MAX_ITER", 1)
    assert run_transfer(recipe, "random", "torchvision", resume=True) is not None
    assert "no checkpoint in" in caplog.text and "starts at iteration 0" in caplog.text
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(WeightsError, match="names model_final.pth, which is not there; delete the pointer"):
        run_transfer(recipe, "random", "torchvision", resume=True)


def test_a_signal_reaches_run_transfer(names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent while the numbers are computed: the result is written, and the caller still learns of it."""
    from ssl_loc.transfer import run as module

    summary = module.summary

    def interrupting(result: Any) -> str:
        signal.raise_signal(signal.SIGTERM)
        return summary(result)

    monkeypatch.setattr(module, "summary", interrupting)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStopped, match="SIGTERM"):
        run_transfer(tiny_recipe("C4", names, tmp_path, "SOLVER.MAX_ITER", 1), "random", "torchvision")
    assert (tmp_path / "result.json").is_file() and signal.getsignal(signal.SIGTERM) == before
