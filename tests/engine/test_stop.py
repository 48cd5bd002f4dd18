"""SIGTERM and Ctrl-C finish the step, write a checkpoint, and the run goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_runs import assert_equal_bits, last_state, tiny_cfg

import ssl_loc
from ssl_loc.config import CfgNode
from ssl_loc.data.build import PretrainLoader, build_pretrain_loader
from ssl_loc.engine import train
from ssl_loc.engine.signals import StopRequest
from ssl_loc.structures import Views
from ssl_loc.utils.events import read_metrics

Data = tuple[Path, Path]
ROOT = Path(ssl_loc.__file__).resolve().parents[1]


class SelfStopping:
    """The real loader; before batch ``at`` it sends ``number`` to its own process."""

    def __init__(self, loader: PretrainLoader, number: int, at: int) -> None:
        self.loader, self.number, self.at = loader, number, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Views]:
        for i, batch in enumerate(self.loader):
            if i == self.at:
                os.kill(os.getpid(), self.number)
            yield batch


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    drawn: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    cfg = tiny_cfg(drawn, tmp_path / "stopped", "SOLVER.MAX_ITER", 4, "DATA.NUM_WORKERS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            "ssl_loc.engine.run.build_pretrain_loader",
            lambda *args, **kwargs: SelfStopping(build_pretrain_loader(*args, **kwargs), number, at=1),
        )
        stopped = train(cfg)
    assert (stopped["stopped_by"], stopped["iteration"]) == (number, 2)
    assert last_state(tmp_path / "stopped")["iteration"] == 2
    assert train(cfg, resume=True)["stopped_by"] == 0
    train(tiny_cfg(drawn, tmp_path / "whole", "SOLVER.MAX_ITER", 4))
    assert_equal_bits(last_state(tmp_path / "whole"), last_state(tmp_path / "stopped"))


def test_handlers_are_given_back_and_a_second_interrupt_is_immediate() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("processes", "to"), [(1, "group"), (2, "process"), (2, "group")])
def test_the_tool_exits_143_on_sigterm(drawn: Data, tmp_path: Path, processes: int, to: str) -> None:
    """Sent to the tool alone, or, as by batch systems, to it, its processes and all loader workers."""
    out, workers = tmp_path / "run", ("DATA.NUM_WORKERS", 2 if to == "group" else 0)
    cfg = tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 100000, "ENGINE.LOG_PERIOD", 1, *workers)
    status, text = stop_the_tool(cfg, out, [], ["--num-gpus", str(processes)], to)
    assert status == 128 + signal.SIGTERM, text
    assert "SIGTERM: finishing the step and writing a checkpoint" in text
    assert "Traceback" not in text and "killed by signal" not in text
    assert last_state(out)["iteration"] == read_metrics(out)[-1]["iteration"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("to", ["process", "group"])
def test_torchrun_passes_sigterm_on(drawn: Data, tmp_path: Path, to: str) -> None:
    """To torchrun, which sends it to its processes and all loader workers; it then exits with a status of its own."""
    # A schedule that is the same however long the run is.
    constant = ("SOLVER.SCHEDULE", "step", "SOLVER.STEPS", [])
    stopped, keys = tmp_path / "stopped", ("ENGINE.LOG_PERIOD", 1, "DATA.NUM_WORKERS", 2, *constant)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    status, text = stop_the_tool(tiny_cfg(drawn, stopped, "SOLVER.MAX_ITER", 100000, *keys), stopped, torchrun, [], to)
    assert status != 0 and "SIGTERM: finishing the step and writing a checkpoint" in text
    iteration = last_state(stopped)["iteration"]
    assert iteration == read_metrics(stopped)[-1]["iteration"] >= 2, text
    for out, more in ((stopped, ["--resume"]), (tmp_path / "whole", [])):
        cfg = tiny_cfg(drawn, out, "SOLVER.MAX_ITER", iteration + 2, *keys)
        run = start_the_tool(cfg, out, torchrun, more)
        assert run.wait(timeout=300) == 0, out.with_suffix(".stderr").read_text()
    assert_equal_bits(last_state(tmp_path / "whole"), last_state(stopped))


def start_the_tool(cfg: CfgNode, out: Path, launcher: list[str], arguments: list[str]) -> subprocess.Popen:
    """In a process group of its own; what it says goes to OUT.stderr."""
    config = out.with_suffix(".yaml")
    config.write_text(cfg.dump_yaml())
    command = [sys.executable, *launcher, str(ROOT / "tools" / "train_net.py"), "--config-file", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(out.with_suffix(".stderr"), "wb") as stderr:
        return subprocess.Popen([*command, *arguments], env=environment, stderr=stderr, start_new_session=True)


def stop_the_tool(cfg: CfgNode, out: Path, launcher: list[str], arguments: list[str], to: str) -> tuple[int, str]:
    """Start, wait for two steps, send SIGTERM; (exit status, what it said)."""
    run = start_the_tool(cfg, out, launcher, arguments)
    stderr, deadline = out.with_suffix(".stderr"), time.monotonic() + 300
    while not (out / "metrics.jsonl").exists() or len(read_metrics(out)) < 2:
        assert run.poll() is None and time.monotonic() < deadline, stderr.read_text()
        time.sleep(0.1)
    if to == "group":
        os.killpg(run.pid, signal.SIGTERM)
    else:
        run.send_signal(signal.SIGTERM)
    return run.wait(timeout=120), stderr.read_text()
