"""The pool: every task is answered once, whatever happens to its process."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter

import pytest
from helpers.saliency_estimators import Shouter

from ssl_loc.saliency.timed_pool import PoolError, _serve, run_timed


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_every_task_once(processes: int) -> None:
    words = [f"w{i}" for i in range(23)]
    outcomes = list(run_timed(Shouter(), words, processes, 30.0))
    assert sorted((o.task, o.result, o.problem) for o in outcomes) == sorted((w, w.upper(), "") for w in words)


def test_tasks_that_hang_or_die_cost_only_themselves() -> None:
    words = ["a", "hang", "b", "die", "c", "d", "die", "e", "hang"]
    outcomes = list(run_timed(Shouter(), words, 2, 1.0))
    assert Counter(o.problem for o in outcomes if o.task == "hang") == {"timeout": 2}
    assert Counter(o.problem for o in outcomes if o.task == "die") == {"died": 2}
    assert sorted(o.result for o in outcomes if not o.problem) == list("ABCDE")


def test_an_error_of_the_worker_comes_out_with_its_trace() -> None:
    with pytest.raises(KeyError, match="the shouter's own bug") as caught:
        list(run_timed(Shouter(), ["a", "raise"], 1, 30.0))
    assert "in __call__" in str(caught.value.__cause__)
    assert not multiprocessing.active_children()


def test_tasks_are_taken_as_needed_and_processes_end_with_the_loop() -> None:
    taken = []

    def endless():
        while True:
            taken.append("x")
            yield "x"

    outcomes = run_timed(Shouter(), endless(), 2, 30.0)
    assert next(outcomes).result == "X"
    outcomes.close()
    assert len(taken) <= 6  # two in each pipe, and one more for the answer
    assert not multiprocessing.active_children()


class Failing(Shouter):
    def prepare(self) -> None:
        raise RuntimeError("no weights")


def test_processes_that_fail_together_say_nothing_themselves(capfd) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no weights"):
            list(run_timed(Failing(), ["a", "b", "c", "d"], 4, 30.0))
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_that_nobody_waits_for_is_dropped() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    before = signal.getsignal(signal.SIGINT)
    try:
        _serve(theirs, Failing())  # no BrokenPipeError
    finally:
        signal.signal(signal.SIGINT, before)


class Broken(Shouter):
    def prepare(self) -> None:
        import os

        os._exit(9)


def test_processes_that_never_start_do_not_restart_for_ever() -> None:
    with pytest.raises(PoolError, match="before it took its first task"):
        list(run_timed(Broken(), ["a"], 1, 30.0))
