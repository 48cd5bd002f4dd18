"""Counter-based randomness: every draw is a function of (seed, epoch, index, view, stream name).

So the draw for a crop depends neither on whether a paste happened before it (exact off switches), nor on the worker
count, the world size or a restart.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Key(ISeedSequence):
    """Hands Philox a ready key. ``Philox(key=...)`` gives the same stream but first asks the system for entropy,
    which takes longer than everything else here."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self.key


@dataclass(frozen=True)
class Streams:
    """Random streams of one view of one image in one epoch.

    ``streams("crop")`` gives a fresh generator for that name; asking twice gives the same numbers twice, so each
    augmenter takes its own stream name and draws everything it needs from one generator.
    """

    seed: int
    epoch: int
    index: int
    view: int = 0

    def __call__(self, name: str) -> np.random.Generator:
        packed = struct.pack("<4q", self.seed, self.epoch, self.index, self.view) + name.encode()
        key = np.frombuffer(blake2b(packed, digest_size=16).digest(), dtype=np.uint64)
        # numpy's stub forgets that any ISeedSequence will do.
        return np.random.Generator(np.random.Philox(_Key(key)))  # type: ignore[arg-type]

    def for_view(self, view: int) -> Streams:
        """The streams of another view of the same image."""
        return Streams(self.seed, self.epoch, self.index, view)
