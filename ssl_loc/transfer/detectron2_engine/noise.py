"""Messages that say nothing to the user of this engine. Imports nothing of detectron2."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOUD = {
    # detectron2 asks whether it is being traced; torch answers with a warning about the name of the question.
    "torch.fx._symbolic_trace": logging.ERROR,
    # Its loop logs the traceback of every exception that it passes on; ours arrive as sentences.
    "detectron2.engine.train_loop": logging.CRITICAL,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out deprecation notices that detectron2 and pycocotools cause in current torch and numpy."""
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    for name, level in _LOUD.items():
        logging.getLogger(name).setLevel(level)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", message=".*torch.meshgrid.*")
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
