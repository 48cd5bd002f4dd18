"""Processes with a time limit per task: a task that hangs or kills its process costs itself and nothing else.

The pools of the standard library cannot stop a running task, and an alarm inside the process does not reach compiled
code; so each process here has its own pipe, and one that overruns is ended and replaced.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

# A second task waits in the pipe, so that a process never waits for this one.
DEPTH = 2
# Imports from a slow disk, with as many processes as processors; callers compile before they start any.
START_LIMIT = 300.0
OVERRUN, DIED = "timeout", "died"


class TaskWorker(Protocol):
    """What runs in the processes; must pickle."""

    def prepare(self) -> None:
        """Called once per process, before the first task and outside of the time limit."""

    def __call__(self, task: Any, /) -> Any: ...


@dataclass
class Outcome:
    """``problem`` is "" for a result, else "timeout" (over the limit) or "died" (the process ended)."""

    task: Any
    result: Any = None
    problem: str = ""


@dataclass
class _Process:
    process: Any
    pipe: Connection
    deadline: float
    ready: bool = False
    tasks: deque[Any] = field(default_factory=deque)


class PoolError(RuntimeError):
    """Processes end before they take a task: a bug of ours, or a machine without memory."""


def run_timed(
    worker: TaskWorker, tasks: Iterable[Any], processes: int, time_limit: float, preload: Sequence[str] = ()
) -> Generator[Outcome, None, None]:
    """Results of ``worker(task)`` as they come, in any order.

    An exception in the worker comes out here. When the caller stops iterating (or is interrupted) the processes end.

    Args:
        worker: runs in every process.
        tasks: consumed lazily.
        processes: number of processes; 0 runs the tasks in this one, without a time limit.
        time_limit: seconds per task.
        preload: modules to import once for all processes.
    """
    if processes == 0:
        worker.prepare()
        for task in tasks:
            yield Outcome(task, worker(task))
        return
    pool = _Pool(worker, iter(tasks), processes, time_limit, preload)
    try:
        yield from pool.run()
    finally:
        pool.close()


class _Pool:
    def __init__(
        self, worker: TaskWorker, tasks: Iterator[Any], processes: int, time_limit: float, preload: Sequence[str]
    ) -> None:
        self.worker, self.tasks, self.time_limit = worker, tasks, time_limit
        self.again: deque[Any] = deque()  # tasks that waited behind one that was stopped
        # Forking this process could copy locks of its threads; a server without threads forks quickly and safely.
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self.context: Any = multiprocessing.get_context(kind)
        if kind == "forkserver":
            self.context.set_forkserver_preload([type(worker).__module__, *preload])
        self.running: list[_Process] = []
        self.wanted = processes

    def run(self) -> Iterator[Outcome]:
        self.running = [self._start() for _ in range(self.wanted)]
        while any(p.tasks for p in self.running) or self._feed():
            yield from self._collect()

    def close(self) -> None:
        """End all processes: first those that wait for a task by closing their pipe, then what is left by force."""
        for p in self.running:
            p.pipe.close()
        until = time.monotonic() + 1.0
        for p in self.running:
            p.process.join(max(0.0, until - time.monotonic()))
            if p.process.is_alive():
                p.process.kill()
                p.process.join()
        self.running = []

    def _start(self) -> _Process:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.worker), daemon=True)
        process.start()
        theirs.close()
        started = _Process(process, ours, time.monotonic() + START_LIMIT)
        self._fill(started)
        return started

    def _next(self) -> list[Any]:
        if self.again:
            return [self.again.popleft()]
        return [task for task in [next(self.tasks, None)] if task is not None]

    def _fill(self, p: _Process) -> None:
        while len(p.tasks) < DEPTH and (got := self._next()):
            p.tasks.append(got[0])
            # A process that has just died is noticed when its pipe is read.
            with suppress(BrokenPipeError, ConnectionResetError):
                p.pipe.send(got[0])

    def _feed(self) -> bool:
        """Hand out tasks that came back; False when there is nothing left to do."""
        for p in self.running:
            self._fill(p)
        return any(p.tasks for p in self.running)

    def _collect(self) -> list[Outcome]:
        """Wait for a result, an end or a deadline, and answer it."""
        busy = [p for p in self.running if p.tasks]
        patience = min(p.deadline for p in busy) - time.monotonic()
        pipes = {p.pipe: p for p in busy}
        outcomes = [got for pipe in wait(list(pipes), max(0.0, patience)) for got in self._receive(pipes[pipe])]  # type: ignore[index]
        for p in self.running:
            if p.tasks and time.monotonic() > p.deadline and not p.pipe.poll():
                outcomes.append(self._replace(p, OVERRUN))
        return outcomes

    def _receive(self, p: _Process) -> list[Outcome]:
        try:
            kind, value = p.pipe.recv()
        except (EOFError, ConnectionResetError):
            return [self._replace(p, DIED)]
        p.deadline = time.monotonic() + self.time_limit
        if kind == "ready":
            p.ready = True
            return []
        if kind == "error":
            error, trace = value
            raise error from RuntimeError(f"in a process of the pool:\n{trace}")
        outcome = Outcome(p.tasks.popleft(), value)
        self._fill(p)
        return [outcome]

    def _replace(self, p: _Process, problem: str) -> Outcome:
        p.process.kill()
        p.process.join()
        p.pipe.close()
        if not p.ready:
            raise PoolError(
                f"a process ended before it took its first task (exit status {p.process.exitcode}, {problem}); "
                "0 processes run the tasks in this one and show why"
            )
        task = p.tasks.popleft()
        self.again.extend(p.tasks)
        self.running[self.running.index(p)] = self._start()
        return Outcome(task, problem=problem)


def _serve(pipe: Connection, worker: TaskWorker) -> None:
    """Body of a process: take tasks until the pipe is closed."""
    # Ctrl-C reaches every process of the terminal; the first one decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker.prepare()
        pipe.send(("ready", None))
        while True:
            pipe.send(("result", worker(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  (handed on to the process that asked, which raises it)
        # Another process may have said it first, and all are being ended.
        with suppress(BrokenPipeError, ConnectionResetError):
            pipe.send(("error", (error, traceback.format_exc())))
