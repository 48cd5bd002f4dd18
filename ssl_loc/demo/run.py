"""Runs stages: several at once, finished ones skipped, every output in a log file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ssl_loc.demo.plan import ROOT, Stage, command_of
from ssl_loc.utils.errors import UserError
from ssl_loc.utils.file_io import file_digest, read_json, write_json
from ssl_loc.utils.progress import progress_bar

# Words of a command that change how it is run, not what it makes.
_IMMATERIAL = ("--workers",)
# Seconds between two looks at the running stages, and the time a stopped one gets to write its checkpoint.
_POLL, _GRACE = 0.2, 30.0
_TAIL_LINES = 12
_METRICS = "metrics.jsonl"


class StageError(UserError):
    """A stage failed; the message holds the end of its log."""


@dataclass
class _Running:
    stage: Stage
    key: str
    process: subprocess.Popen
    started: float = field(default_factory=time.perf_counter)


@dataclass
class Runner:
    """Runs stages in ``out``, at most ``slots`` at a time with ``threads`` threads each.

    Attributes:
        title: what the progress bar is called.
        seconds: stage name -> wall seconds of the run that finished it (also of an earlier demo command).
        skipped: names of the stages that an earlier command had finished.
    """

    out: Path
    slots: int = 1
    threads: int = 1
    title: str = "demo"
    seconds: dict[str, float] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def run(self, stages: Sequence[Stage], kinds: Sequence[str] = ()) -> None:
        """Run what is not finished yet; with ``kinds`` only the stages of these kinds.

        Raises:
            StageError: a command failed; the others are stopped (and can be resumed). Or a stage of ``kinds`` needs
                one of another kind that is not finished.
        """
        keys = stage_keys(stages)
        waiting = [s for s in stages if not self._finished(s, keys[s.name])]
        if kinds:
            waiting = _only(waiting, kinds)
        running: list[_Running] = []
        bar = progress_bar(total=len(stages), initial=len(stages) - len(waiting), unit="stage", desc=self.title)
        try:
            while waiting or running:
                self._start_ready(waiting, running, keys)
                time.sleep(_POLL)
                for job in [j for j in running if self._advance(j)]:
                    running.remove(job)
                    self._report(job.stage, bar)
                    bar.update()
                # disable=None: in a file or pipe there is no bar, only a line per finished stage.
                bar.set_postfix_str(", ".join(_progress(j.stage) for j in running), refresh=True)
        finally:
            bar.close()
            _stop(running)

    def log_file(self, stage: Stage) -> Path:
        return self.out / "logs" / f"{stage.name.replace('/', '_')}.log"

    def _report(self, stage: Stage, bar: tqdm) -> None:
        bar.write(f"  {stage.title:<36} {self.seconds[stage.name]:6.0f} s   ({stage.name})", file=sys.stdout)
        sys.stdout.flush()

    def _marker(self, stage: Stage) -> Path:
        return self.out / ".stages" / f"{stage.name.replace('/', '_')}.json"

    def _finished(self, stage: Stage, key: str) -> bool:
        marker = self._marker(stage)
        if not marker.exists():
            return False
        found = read_json(marker)
        if found["key"] != key or not found["finished"] or not stage.folder.exists():
            return False
        self.seconds[stage.name] = found["seconds"]
        self.skipped.append(stage.name)
        return True

    def _start_ready(self, waiting: list[Stage], running: list[_Running], keys: dict[str, str]) -> None:
        for stage in list(waiting):
            if len(running) >= self.slots:
                return
            if all(name in self.seconds for name in stage.needs):
                waiting.remove(stage)
                running.append(self._start(stage, keys[stage.name]))

    def _start(self, stage: Stage, key: str) -> _Running:
        marker = self._marker(stage)
        if stage.folder.exists() and not (marker.exists() and read_json(marker)["key"] == key):
            # Left by another command: to go on from it would mix two runs.
            shutil.rmtree(stage.folder)
        stage.folder.mkdir(parents=True, exist_ok=True)
        write_json(marker, {"key": key, "finished": False, "command": list(stage.command)})
        self.log_file(stage).parent.mkdir(parents=True, exist_ok=True)
        return _Running(stage, key, self._launch(stage))

    def _launch(self, stage: Stage) -> subprocess.Popen:
        threads = str(self.threads)
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with open(self.log_file(stage), "ab") as log:  # the child keeps its own copy of the handle
            return subprocess.Popen(
                command_of(stage),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                cwd=ROOT,
                # A terminal's Ctrl-C then reaches this program alone, which stops its stages once, in order.
                start_new_session=True,
            )

    def _advance(self, job: _Running) -> bool:
        """Look at a running stage; write its marker when it is finished and return True."""
        status = job.process.poll()
        if status is None:
            return False
        if status:
            raise StageError(self._failure(job, status))
        seconds = time.perf_counter() - job.started
        self.seconds[job.stage.name] = seconds
        values = {"key": job.key, "finished": True, "command": list(job.stage.command), "seconds": seconds}
        write_json(self._marker(job.stage), values)
        return True

    def _failure(self, job: _Running, status: int) -> str:
        file = self.log_file(job.stage)
        tail = file.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        end = "\n  ".join(line for line in tail if line.strip())
        return (
            f"the stage '{job.stage.title}' ended with status {status}; the end of its log {file}:\n  {end}\n"
            "Once the cause is removed, the same command goes on from here."
        )


def _only(waiting: Sequence[Stage], kinds: Sequence[str]) -> list[Stage]:
    """The waiting stages of these kinds; one whose needs will not be met is an error, not an endless wait."""
    chosen = [stage for stage in waiting if stage.kind in kinds]
    left = {stage.name: stage for stage in waiting if stage.kind not in kinds}
    for stage in chosen:
        if missing := [name for name in stage.needs if name in left]:
            found = ", ".join(f"{name} ({left[name].kind})" for name in missing)
            raise StageError(f"'{stage.title}' needs {found}, not finished and not of the kinds {', '.join(kinds)}")
    return chosen


def stage_keys(stages: Iterable[Stage]) -> dict[str, str]:
    """Stage name -> digest of its command, its input files and the keys of the stages it needs."""
    keys: dict[str, str] = {}
    for stage in stages:
        parts: list[object] = [_material(stage.command)]
        parts += [file_digest(path) for path in stage.inputs]
        parts += [keys[name] for name in stage.needs]
        keys[stage.name] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return keys


def _material(command: Sequence[str]) -> list[str]:
    words: list[str] = []
    skip = False
    for word in command:
        if not skip and word not in _IMMATERIAL:
            words.append(word)
        skip = word in _IMMATERIAL
    return words


def _progress(stage: Stage) -> str:
    """Title, and the newest iteration where the stage logs one."""
    file = stage.folder / _METRICS
    if not file.exists():
        return stage.title
    with open(file, "rb") as stream:
        stream.seek(max(0, file.stat().st_size - 4096))
        lines = stream.read().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut by the seek, or half written
            return f"{stage.title} it {json.loads(line)['iteration']}"
    return stage.title


def _stop(running: Sequence[_Running]) -> None:
    """SIGTERM (a pretraining then writes a checkpoint), and after a while SIGKILL, to what is still running."""
    alive = [job.process for job in running if job.process.poll() is None]
    for process in alive:
        os.killpg(process.pid, signal.SIGTERM)  # with the workers it may have started
    deadline = time.perf_counter() + _GRACE
    for process in alive:
        try:
            process.wait(max(0.1, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
