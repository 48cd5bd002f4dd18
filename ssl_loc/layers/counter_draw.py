"""Random integers as a function of counters: the same on every device, in any number of processes, after a restart."""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014), as signed 64-bit numbers.
_GAMMA = -7046029254386353131
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685


def draw(seed: int, step: int, rows: Tensor, count: int, below: int) -> Tensor:
    """``count`` integers in [0, ``below``) for each row, with replacement -> (N, count) int64.

    Column j of a row is a function of (``seed``, ``step``, the row's number, j) alone.

    Args:
        rows: (N,) int64 numbers of the rows.
        count, below: at least 1. The shares of the numbers differ by at most below / 2^63 of themselves.
    """
    if count < 1 or below < 1:
        raise ValueError(f"draw needs count >= 1 and below >= 1, got {count} and {below}")
    state = _mix(_mix(_mix(torch.full_like(rows, seed)) + step) + rows)
    columns = torch.arange(1, count + 1, device=rows.device)
    # One stream per row, in which column j is the j-th number.
    mixed = _mix(state[:, None] + columns * _GAMMA)
    return (mixed & torch.iinfo(torch.int64).max) % below


def _mix(x: Tensor) -> Tensor:
    """Scramble 64 bits; products wrap around."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Logical shift to the right (torch's keeps the sign)."""
    return (x >> by) & ((1 << (64 - by)) - 1)
