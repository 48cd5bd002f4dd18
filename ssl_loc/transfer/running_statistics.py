"""Running statistics of batch norms: each process's own in training, their mean wherever they are used or saved.

Plain batch norm sees other images in each process. Without this, every process would evaluate another model and a
checkpoint would hold the first one's. A run goes on from its own statistics, not from the mean: saving, which may
happen at any time, must not change what training gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.utils import comm

_AVERAGED = ("running_mean", "running_var")


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Every buffer of the batch norms of ``model`` by its full name (those the model holds, not copies)."""
    return {
        f"{name}.{key}" if name else key: buffer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm)
        for key, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def average(model: nn.Module) -> None:
    """Give every process the mean of all processes' statistics. Collective; identity in one process."""
    if comm.is_distributed():
        put_back(model, mean(model))


@torch.no_grad()
def mean(model: nn.Module) -> dict[str, Tensor]:
    """Statistics averaged over processes (copies); ``model`` keeps its own. Collective."""
    return {
        key: comm.all_reduce_mean(buffer) if key.endswith(_AVERAGED) else buffer.clone()
        for key, buffer in statistics(model).items()
    }


def of_all_processes(model: nn.Module) -> list[dict[str, Tensor]]:
    """Each process's own statistics on the CPU, in rank order; nothing in one process. Collective."""
    if not comm.is_distributed():
        return []
    return comm.all_gather_object({key: buffer.cpu() for key, buffer in statistics(model).items()})


def restore_own(model: nn.Module, stored: Sequence[Mapping[str, Tensor]]) -> None:
    """Put back what :func:`of_all_processes` gave, if it was as many processes as now."""
    if len(stored) == comm.get_world_size():
        put_back(model, stored[comm.get_rank()])


@torch.no_grad()
def put_back(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite statistics by name."""
    held = statistics(model)
    for key, value in values.items():
        held[key].copy_(value)


@contextmanager
def restored_on(error: type[BaseException], model: nn.Module, needed: bool = True) -> Iterator[None]:
    """If ``error`` leaves the block, the statistics are again what they were before it; nothing if not ``needed``."""
    before = {key: buffer.clone() for key, buffer in statistics(model).items()} if needed else {}
    try:
        yield
    except error:
        put_back(model, before)
        raise
