"""Checks of what an augmenter may be given; each names the key."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_loc.utils.errors import ConfigError


def check_range(key: str, values: Sequence[float]) -> tuple[float, float]:
    """Return ``values`` as (low, high) if they are two numbers with 0 < low <= high; raise :class:`ConfigError` if not.

    ``key`` is the config key below AUGMENT.
    """
    numbers = all(isinstance(value, (int, float)) for value in values)
    if len(values) != 2 or not numbers or not 0 < values[0] <= values[1] < float("inf"):
        raise ConfigError(f"AUGMENT.{key} is {list(values)}; expected two numbers, 0 < low <= high")
    return values[0], values[1]


def check_within(key: str, value: float, low: float = 0.0, high: float = 1.0, meaning: str = "probability") -> float:
    """Return ``value`` if it is in [low, high]; raise :class:`ConfigError` naming AUGMENT.``key`` if not."""
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == float("inf") else f"{low:g} to {high:g}"
        raise ConfigError(f"AUGMENT.{key} is {value}; expected a {meaning}, {limits}")
    return value
