"""Bootstrap of image averages: how often each image is drawn."""

from __future__ import annotations

import numpy as np


def bootstrap_counts(images: int, samples: int, seed: int) -> np.ndarray:
    """How often each of ``images`` comes up when as many are drawn with replacement -> float64 (samples, images).

    The same (images, samples, seed) give the same draws, so that several sets of maps can be resampled together.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((samples, images), dtype=np.float64)
    for row in counts:
        row[:] = np.bincount(rng.integers(images, size=images), minlength=images)
    return counts
