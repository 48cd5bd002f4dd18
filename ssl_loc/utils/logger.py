"""One place that decides where log lines go. Everybody else says ``logging.getLogger(__name__)``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

_FORMAT = "%(asctime)s %(levelname).1s %(shortname)s: %(message)s"
_DATE = "%m-%d %H:%M:%S"
# Records logged with extra=PROGRESS are the periodic lines of a loop: a terminal that shows a bar does without them.
PROGRESS = {"progress": True}


class _ConsoleHandler(logging.Handler):
    """Writes to stderr without tearing a progress bar apart."""

    def __init__(self) -> None:
        super().__init__()
        # A console without a bar (a log file of a batch system) shows the periodic lines.
        self.addFilter(lambda record: not (getattr(record, "progress", False) and sys.stderr.isatty()))

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _Formatter(logging.Formatter):
    def __init__(self, rank: int) -> None:
        super().__init__(_FORMAT if rank == 0 else f"[process {rank}] {_FORMAT}", _DATE)

    def format(self, record: logging.LogRecord) -> str:
        record.shortname = record.name.removeprefix("ssl_loc.")
        return super().format(record)


def setup_logger(output_dir: str | os.PathLike | None = None, rank: int = 0) -> logging.Logger:
    """Send log lines to stderr and, if ``output_dir`` is given, to its ``log.txt`` (appended).

    Process 0 says everything; the others, which would repeat it, show errors only and keep ``log.rankN.txt``.
    Calling it again replaces what the last call set up. Returns the package's logger.
    """
    root, package = logging.getLogger(), logging.getLogger("ssl_loc")
    close_logger()
    package.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [_ConsoleHandler()]
    handlers[0].setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if output_dir is not None:
        name = "log.txt" if rank == 0 else f"log.rank{rank}.txt"
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(output_dir) / name, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(_Formatter(rank))
        _mark(handler)
        # On the root logger, so that lines of project modules and warnings of libraries arrive too.
        root.addHandler(handler)
    return package


def close_logger() -> None:
    """Remove and close the handlers that :func:`setup_logger` added."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if getattr(h, "_ssl_loc", False)]:
        root.removeHandler(handler)
        handler.close()


def _mark(handler: Any) -> None:
    handler._ssl_loc = True
