"""Fine-tunings for tests of stopping and continuing: in this process, where any point can be hit, and by the tool."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.run import random_trunk
from ssl_loc.transfer.stop import Stop
from ssl_loc.utils.events import read_metrics

ROOT = Path(__file__).parents[2]


class Countdown:
    """A request to stop that is there from the ``at``-th time somebody looks; counts how often somebody did."""

    def __init__(self, at: int = 10**9) -> None:
        self.at, self.looks = at, 0

    @property
    def signal(self) -> int:
        self.looks += 1
        return signal.SIGTERM if self.looks >= self.at else 0


def fine_tune(
    engine: str, recipe: Recipe, resume: bool = False, request: Any = None
) -> dict[str, list[ImagePrediction]]:
    """One job from random weights on an engine, in this process."""
    if engine == "detectron2":
        from ssl_loc.transfer.detectron2_engine.engine import run_job
    else:
        from ssl_loc.transfer.torchvision_engine.engine import run_job
    job = TransferJob(
        recipe, Path(recipe.OUTPUT_DIR), trunk=random_trunk(recipe), resume=resume, stop=Stop(request or Countdown())
    )
    return run_job(job)


def final_model(folder: Path | str) -> dict[str, torch.Tensor]:
    """Tensors of the finished detector."""
    return torch.load(Path(folder) / "model_final.pth", weights_only=True)["model"]


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not equal bit by bit, or in one of them only."""
    return [key for key in a.keys() | b.keys() if key not in a or key not in b or not torch.equal(a[key], b[key])]


class ToolRun:
    """The fine-tuning tool in processes of its own, in a process group of its own; for ``with``, which ends them all.

    Args:
        config: recipe file.
        out: OUTPUT_DIR.
        launcher: words before the tool, such as torchrun's.
        arguments: options and overrides of the tool.
    """

    def __init__(self, config: Path, out: Path, arguments: Sequence[str] = (), launcher: Sequence[str] = ()) -> None:
        self.out, self._stderr = out, out.with_suffix(".stderr")
        tool = [str(ROOT / "tools" / "finetune_det.py"), "--config-file", str(config), "--weights", "random"]
        command = [sys.executable, *launcher, *tool, "--no-report", *arguments, "OUTPUT_DIR", str(out)]
        # As many threads as here: sums of other parts have other last bits.
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "MKL_NUM_THREADS": str(torch.get_num_threads())}
        environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT)}
        with open(self._stderr, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stderr=stderr,
                stdout=stderr,
                start_new_session=True,
                # Shells start what runs in the background with SIGINT ignored, which children inherit.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def __enter__(self) -> ToolRun:
        return self

    def __exit__(self, *error: object) -> None:
        """No training outlives its test, however that ended."""
        if self.process.poll() is None:
            # torchrun's processes have groups of their own, and it ends them when it is asked to end.
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def text(self) -> str:
        """What it said."""
        return self._stderr.read_text()

    def wait_for_rows(self, rows: int) -> None:
        """Until metrics.jsonl has this many."""
        deadline = time.monotonic() + 300
        while not (self.out / "metrics.jsonl").exists() or len(read_metrics(self.out)) < rows:
            assert self.process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.02)

    def send(self, number: int, to_all: bool) -> int:
        """Send a signal, to all processes or to the first; exit status."""
        if to_all:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(timeout=120)
