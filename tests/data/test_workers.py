"""Loader workers leave SIGTERM to the main process while it needs them, and end by it afterwards."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest

from ssl_loc.data.workers import WorkerSetup


def work(setup: WorkerSetup, ready: Any) -> None:
    setup(0)
    ready.set()
    while True:  # a worker that never sees torch's request to end
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sigterm_is_ignored_until_the_end(method: str) -> None:
    context = multiprocessing.get_context(method)
    setup, ready = WorkerSetup(), context.Event()
    worker = context.Process(target=work, args=(setup, ready), daemon=True)
    worker.start()
    try:
        assert ready.wait(120)
        assert worker.pid is not None
        for _ in range(2):
            os.kill(worker.pid, signal.SIGTERM)
            worker.join(0.3)
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.3)
        assert worker.is_alive()
        setup.end()
        worker.terminate()
        worker.join(60)
        assert worker.exitcode == 0
    finally:
        worker.kill()
