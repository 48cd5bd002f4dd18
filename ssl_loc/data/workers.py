"""How a loader's worker processes are set up, and when they end."""

from __future__ import annotations

import atexit
import os
import signal
from multiprocessing import RawValue
from types import FrameType

import cv2
import torch


class WorkerSetup:
    """``worker_init_fn`` of a loader: single-threaded workers that outlive a signal sent to the whole process group.

    Ctrl-C reaches every process of a terminal, and torchrun and batch systems send SIGTERM to all processes of a job.
    The main process then finishes its step and writes a checkpoint, for which it needs its workers. So they leave
    both signals to it, until :meth:`end` was called: from then on SIGTERM ends them, since it is what torch and
    multiprocessing send, at last, to a worker that does not end by itself.
    """

    def __init__(self) -> None:
        self._ended = RawValue("b", 0)  # shared with the workers
        # However the main process ends, before multiprocessing terminates and joins what is left.
        atexit.register(self.end)

    def end(self) -> None:
        """The main process needs its workers no more."""
        self._ended.value = 1

    def __call__(self, worker: int) -> None:
        # Workers share the cores with each other: threads inside each would only get in one another's way.
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if self._ended.value:
            os._exit(0)
