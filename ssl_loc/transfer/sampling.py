"""Which training images make up batch t: a pure function of (seed, t), so a resumed run sees what it would have seen.

The stream is detectron2's: shuffled passes over the data without end, process r of R takes every R-th image, and images
are grouped by orientation so that a batch pads little.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Sampler

# Keeps the draws of the order apart from those of other users of the same seed.
_ORDER_STREAM = 1
_IMAGE_STREAM = 2
_STEP_STREAM = 3


@dataclass(frozen=True)
class Slot:
    """One place in one batch: what is drawn for it depends on (seed, iteration, rank, position) only."""

    index: int
    iteration: int
    rank: int
    position: int

    def generator_state(self, seed: int, words: int = 4) -> np.ndarray:
        """uint32 words that seed the augmentation of this image."""
        return np.random.SeedSequence([_IMAGE_STREAM, seed, self.iteration, self.rank, self.position]).generate_state(
            words
        )


class TrainingBatches(Sampler[list[Slot]]):
    """Endless batches of one process.

    Args:
        sizes: (height, width) of every image.
        batch_size: images per process and step.
        seed: of the order.
        rank, world_size: this process and the number of processes.
        group_by_orientation: batches hold only wide (width > height) or only other images.
        start_iteration: first batch to yield; the ones before are skipped without being read.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        group_by_orientation: bool = True,
        start_iteration: int = 0,
    ) -> None:
        self._wide = [group_by_orientation and width > height for height, width in sizes]
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._start = start_iteration

    def __iter__(self) -> Iterator[list[Slot]]:
        for iteration, batch in enumerate(self._batches()):
            if iteration >= self._start:
                yield [Slot(index, iteration, self._rank, place) for place, index in enumerate(batch)]

    def _batches(self) -> Iterator[list[int]]:
        waiting: dict[bool, list[int]] = {False: [], True: []}
        for index in itertools.islice(self._order(), self._rank, None, self._world_size):
            group = waiting[self._wide[index]]
            group.append(index)
            if len(group) == self._batch_size:
                yield list(group)
                group.clear()

    def _order(self) -> Iterator[int]:
        for epoch in itertools.count():
            generator = np.random.default_rng([_ORDER_STREAM, self._seed, epoch])
            yield from generator.permutation(len(self._wide)).tolist()


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """What torch's generator is seeded with before a training step, which samples anchors and proposals.

    So a resumed run draws what the uninterrupted one would have drawn, and no generator state has to be stored.
    """
    words = np.random.SeedSequence([_STEP_STREAM, seed, iteration, rank]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def without_empty(dicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Images with at least one object that is not a crowd (DATALOADER.FILTER_EMPTY_ANNOTATIONS)."""
    return [row for row in dicts if any(a.get("iscrowd", 0) == 0 for a in row["annotations"])]
