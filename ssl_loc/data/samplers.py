"""The data order: a pure function of (seed, iteration), so nothing has to be saved to continue a run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ssl_loc.data.rng import Streams
from ssl_loc.utils.errors import ConfigError, DataError

# Stream of the order of an epoch; no image has this index.
_ORDER_INDEX = -1


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The permutation of 0..size-1 that epoch ``epoch`` (from 0) goes through."""
    return Streams(seed, epoch, _ORDER_INDEX)("order").permutation(size)


def epoch_of(iteration: int, batches_per_epoch: int) -> int:
    """Epoch (from 0) that the batch of ``iteration`` (from 0) belongs to."""
    return iteration // batches_per_epoch


class PretrainSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index) for one process.

    Global batch t of an epoch is the t-th slice of the epoch's permutation (the remainder of fewer images than a batch
    is left out; another one each epoch), and process r of W takes the r-th contiguous part of it. So one process sees
    exactly what W processes see together, in the same order.

    Args:
        size: images in the dataset.
        batch_size: global batch, images.
        seed: of the order.
        start_iteration: first batch to give.
        rank, world_size: this process and how many there are.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, start_iteration: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if size < batch_size:
            raise DataError(
                f"the dataset has {size} images, fewer than one batch of {batch_size} (SOLVER.IMS_PER_BATCH); lower "
                "SOLVER.IMS_PER_BATCH or add images"
            )
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH is {batch_size} for {world_size} processes; expected a positive multiple of "
                f"{world_size}, for example {max(1, batch_size // world_size) * world_size}"
            )
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start_iteration = start_iteration
        self.rank = rank
        self.world_size = world_size
        self.batches_per_epoch = size // batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world_size
        iteration, order, known = self.start_iteration, np.empty(0, dtype=np.int64), -1
        while True:
            epoch = epoch_of(iteration, self.batches_per_epoch)
            if epoch != known:
                order, known = epoch_order(self.seed, epoch, self.size), epoch
            start = (iteration % self.batches_per_epoch) * self.batch_size + self.rank * share
            yield [(epoch, int(index)) for index in order[start : start + share]]
            iteration += 1
