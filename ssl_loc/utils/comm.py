"""Process-group helpers that are identities in one process.

The process group itself is made by ``engine.launch`` (gloo on CPU, nccl on GPU); nothing here creates one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True inside an initialised process group of more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def get_world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def is_main_process() -> bool:
    return get_rank() == 0


def barrier() -> None:
    """Wait for every process; no-op in one process."""
    if is_distributed():
        dist.barrier()


@torch.no_grad()
def all_gather(x: Tensor) -> Tensor:
    """Concatenate ``x`` (N, ...) over processes in rank order -> (N * world, ...). No gradient."""
    if not is_distributed():
        return x
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def gather_strided(x: Tensor, total: int) -> Tensor:
    """Rows that were dealt out one by one, back in order on every process: (n, ...) -> (total, ...).

    Process r of W holds rows r, r + W, r + 2 W, ... of ``total``; the shorter ones are padded for the exchange and the
    padding is dropped. Collective; CPU tensors also travel under nccl.
    """
    if not is_distributed():
        return x
    parts = all_gather_object(x)
    longest = max(len(part) for part in parts)
    padded = [torch.cat([part, part.new_zeros((longest - len(part), *part.shape[1:]))]) for part in parts]
    return torch.stack(padded, 1).flatten(0, 1)[:total]


def all_gather_object(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in rank order."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


@torch.no_grad()
def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean of ``x`` over processes (a new tensor). No gradient."""
    if not is_distributed():
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / get_world_size()


@torch.no_grad()
def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """Overwrite ``x`` with the value of process ``source`` and return it."""
    if is_distributed():
        dist.broadcast(x, source)
    return x


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes whose backward is the sum of the gradients over processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # Calling apply (not dist.all_reduce) keeps this differentiable, so second-order losses work too.
        return _AllReduceSum.apply(grads[0].contiguous())


def all_reduce_sum(x: Tensor) -> Tensor:
    """Differentiable sum of ``x`` over processes; identity in one process."""
    return _AllReduceSum.apply(x) if is_distributed() else x


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Differentiable :func:`all_gather`: (N, ...) -> (N * world, ...) in rank order; identity in one process.

    The gradient of a row is the sum of what all processes send back to it. Each process adds its rows to zeros, which
    is exact; the traffic is twice that of a gather, of embeddings only.
    """
    if not is_distributed():
        return x
    n, rank = x.shape[0], get_rank()
    before = x.new_zeros((rank * n, *x.shape[1:]))
    after = x.new_zeros(((get_world_size() - rank - 1) * n, *x.shape[1:]))
    return all_reduce_sum(torch.cat([before, x, after]))
