"""Errors meant for the person at the keyboard.

Each says what was given, what was expected and what to do, in this order, with the config key where there is one.
The tools print them as one sentence (exit status 2); anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user gave cannot work; the message is the whole help."""


class ConfigError(UserError):
    """A configuration key or value cannot be used."""


class DataError(UserError):
    """A dataset, image, mask or annotation cannot be used."""


class WeightsError(UserError):
    """A checkpoint or weight file cannot be used."""


class EngineUnavailableError(UserError):
    """A detection engine was asked for that this installation does not have."""


def did_you_mean(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Return ``"; did you mean A or B?"`` for the nearest known names, or an empty string."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=limit, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def check_choice(key: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; raise :class:`ConfigError` naming the key if not."""
    if value not in choices:
        near = did_you_mean(str(value), choices) or ";"
        raise ConfigError(f"{key} is '{value}'{near} choices: {', '.join(choices)}")
    return value
