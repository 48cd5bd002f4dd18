"""SIGTERM and Ctrl-C as requests that the loop answers after the step in progress."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

# Exit status of a stopped run = this + signal number, as shells and schedulers expect: 130 for Ctrl-C, 143 for SIGTERM.
STATUS_BASE = 128
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class RunStopped(Exception):
    """A signal ended a fine-tuning or evaluation early; everything needed to go on is on disk.

    Attributes:
        signal: its number; a tool exits with 128 more.
    """

    def __init__(self, number: int, where: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{where}")
        self.signal = number


class SharedInt(Protocol):
    """An integer that several processes see (``multiprocessing.Value``)."""

    value: int


# Set by `launch` in spawned processes: the signal that the parent received.
_from_parent: SharedInt | None = None


def listen_to_parent(flag: SharedInt) -> None:
    """Make :class:`StopRequest` of this process also report the signal in ``flag``; 0 = none.

    Ctrl-C reaches every process of a terminal at once; here the parent alone listens to it.
    """
    global _from_parent
    _from_parent = flag
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class StopRequest:
    """Within its ``with`` block the first SIGTERM or SIGINT is only remembered; a second SIGINT interrupts at once.

    Data workers forked inside the block inherit the handlers, so they outlive a Ctrl-C and the step can finish.
    """

    def __init__(self) -> None:
        self._received = 0
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def signal(self) -> int:
        """Number of the signal received, 0 if none."""
        return self._received or (_from_parent.value if _from_parent is not None else 0)

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread only; a notebook's worker thread does without them.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        # Not the logger: a handler may run in the middle of one of its writes.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing the step and writing a checkpoint (Ctrl-C again quits at once)\n".encode())
