"""SIGTERM and Ctrl-C during a fine-tuning: noticed between two steps, by all processes at the same one."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist

from ssl_loc.engine.signals import RunStopped
from ssl_loc.utils.comm import all_gather_object, is_distributed


class HasSignal(Protocol):
    """Such as :class:`ssl_loc.engine.signals.StopRequest`."""

    @property
    def signal(self) -> int:
        """Number of the signal that this process received, 0 if none."""


class Stop:
    """Has someone been asked to stop? Without a ``request`` nobody ever is."""

    def __init__(self, request: HasSignal | None = None) -> None:
        self._request = request

    @property
    def signal(self) -> int:
        """What this process knows: for leaving a loop that the other processes do not wait for."""
        return self._request.signal if self._request is not None else 0

    def check(self, device: torch.device | None = None) -> None:
        """Raise in every process if a signal reached any of them. Collective.

        Args:
            device: where the processes exchange tensors (the GPU under nccl); None is slower and needs no device.

        Raises:
            RunStopped: the same in every process.
        """
        number = self.signal
        if is_distributed() and device is None:
            number = max(all_gather_object(number))
        elif is_distributed():
            highest = torch.tensor(number, device=device)
            dist.all_reduce(highest, op=dist.ReduceOp.MAX)
            number = int(highest)
        if number:
            raise RunStopped(number)
