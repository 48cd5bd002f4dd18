"""Warnings that say nothing to the user of this engine. Imports nothing of detectron2."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out deprecation notices that detectron2 and pycocotools cause in current torch and numpy."""
    tracing = logging.getLogger("torch.fx._symbolic_trace")
    level = tracing.level
    # detectron2 asks whether it is being traced; torch answers with a warning about the name of the question.
    tracing.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message=".*torch.meshgrid.*")
        try:
            yield
        finally:
            tracing.setLevel(level)
