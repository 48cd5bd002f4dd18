"""The ``--seeds`` option of the tools: a number of seeds, or the seeds themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssl_loc.utils.errors import ConfigError

SEEDS_HELP = "a number of seeds (3: the seeds 0, 1, 2), or the seeds separated by commas (7,8; a single one: 7,)"


def parse_seeds(text: str) -> list[int]:
    """ "3" -> [0, 1, 2]; "7,8" -> [7, 8]; "7," -> [7].

    Raises:
        ConfigError: no seeds, negative ones, or one twice.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        if len(words) == 1:
            seeds = list(range(int(words[0])))
        else:
            seeds = [int(word) for word in (words[:-1] if words[-1] == "" else words)]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        hint = "; for seed 0 alone write --seeds 0," if text.strip() == "0" else ""
        raise ConfigError(f"--seeds is '{text}'; expected {SEEDS_HELP}{hint}")
    return seeds


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1); of one value the deviation is NaN: one run has no spread."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
