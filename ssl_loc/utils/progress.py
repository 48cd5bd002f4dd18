"""The one progress bar of the project."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def progress_bar(*args: Any, show: bool = True, **kwargs: Any) -> tqdm:
    """A tqdm bar with ETA and rate where stderr is a terminal; nothing in a file, where it would be a wall of noise.

    Args:
        show: False hides it everywhere (other processes than the first, tests).
        args, kwargs: those of ``tqdm.tqdm``.
    """
    return tqdm(*args, disable=None if show else True, **kwargs)  # type: ignore[call-overload]
