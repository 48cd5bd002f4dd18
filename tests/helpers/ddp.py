"""Run a function in several gloo processes on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_processes(function: Callable[..., Any], world: int, *args: Any) -> list[Any]:
    """``function(rank, *args)`` in ``world`` processes of one group -> its results (tensors, plain values) by rank.

    ``function`` must be importable (top level of a test file).
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, (function, world, folder, args), nprocs=world, join=True)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _worker(rank: int, function: Callable[..., Any], world: int, folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        torch.save(function(rank, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
