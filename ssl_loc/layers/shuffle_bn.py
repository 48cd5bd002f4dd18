"""Shuffle-BN: keys are normalised in other company than their queries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_loc.utils.comm import all_gather, get_rank, get_world_size


class ShuffleBN:
    """Shuffles the global batch before the key encoder and undoes it on the keys (MoCo paper, section 3.3).

    The permutation is a pure function of (seed, step, salt) over the *global* batch, so it is the same in one process
    and in N, and after a restart. ``salt`` keeps several key batches of one step apart.

    Args:
        seed: seed of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def permutation(self, total: int, step: int, salt: int = 0) -> Tensor:
        """Permutation of ``total`` images, int64 on the CPU."""
        generator = torch.Generator().manual_seed(_mix(self.seed, step, salt))
        return torch.randperm(total, generator=generator)

    @torch.no_grad()
    def __call__(self, encoder: Callable[[Tensor], Tensor], images: Tensor, step: int, salt: int = 0) -> Tensor:
        """``encoder(images)`` -> (N, D), each process encoding its slice of the shuffled global batch.

        ``images`` (N, ...) is this process's contiguous slice of the global batch; all processes hold N.
        """
        n, rank = images.shape[0], get_rank()
        order = self.permutation(n * get_world_size(), step, salt).to(images.device)
        mine = slice(rank * n, (rank + 1) * n)
        keys = all_gather(encoder(all_gather(images)[order[mine]]))
        restored = torch.empty_like(keys)
        restored[order] = keys
        return restored[mine]


def _mix(*values: int) -> int:
    """One 63-bit seed from small integers; neighbouring steps give unrelated seeds (splitmix64)."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & mask)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    return state >> 1
