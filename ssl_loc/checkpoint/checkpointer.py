"""Checkpoints of a run: written atomically, rotated, found again."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.files import CHECKPOINT_FORMAT, CHECKPOINT_VERSION, read_format, write_torch_file
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import write_text

FOLDER = "checkpoints"
LAST = "last_checkpoint"
# Prefix of the method's tensors inside a checkpoint's "model"; the losses' are under "losses.".
METHOD_PREFIX = "method."
_NAME = re.compile(r"iter_(\d{7,})\.pth")
_logger = logging.getLogger(__name__)


class Checkpointer:
    """The ``checkpoints`` folder of a run.

    Args:
        output_dir: run folder.
        keep: number of newest checkpoints to keep; the last one is kept always.
    """

    def __init__(self, output_dir: str | os.PathLike, keep: int = 2) -> None:
        self.folder = Path(output_dir) / FOLDER
        self.keep = max(1, keep)

    def path_of(self, iteration: int) -> Path:
        return self.folder / f"iter_{iteration:07d}.pth"

    def save(self, iteration: int, state: dict[str, Any]) -> Path:
        """Write the state after ``iteration`` steps, point ``last_checkpoint`` at it, remove the oldest."""
        path = self.path_of(iteration)
        content = {"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, "iteration": iteration, **state}
        write_torch_file(path, content)
        write_text(self.folder / LAST, path.name + "\n")
        for old in self.all()[: -self.keep]:
            if old != path:
                old.unlink()
        _logger.info("wrote %s (%.1f MB)", path, path.stat().st_size / 1e6)
        return path

    def all(self) -> list[Path]:
        """Checkpoints in the folder, oldest iteration first."""
        found = [(int(m[1]), p) for p in self.folder.glob("iter_*.pth") if (m := _NAME.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    def last(self) -> Path | None:
        """The checkpoint ``last_checkpoint`` names, or None where the folder holds no run.

        Raises:
            WeightsError: it names a file that is gone.
        """
        pointer = self.folder / LAST
        if not pointer.is_file():
            return None
        path = self.folder / pointer.read_text(encoding="utf-8").strip()
        if not path.is_file():
            there = ", ".join(p.name for p in self.all()) or "none"
            raise WeightsError(
                f"{pointer} names {path.name}, which is not there; checkpoints there: {there}; write the name of "
                f"one of them into {pointer}"
            )
        return path


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a run's checkpoint, or the last one of a run folder.

    Returns:
        dict with "iteration" (steps done), "model" (state dict; see :func:`method_state`), "optimizer", "scaler",
        "rng", "config" (plain dict) and "meta".

    Raises:
        WeightsError: not a checkpoint of an ssl_loc run; the message says what it is.
    """
    return read_format(run_checkpoint(path), CHECKPOINT_FORMAT)


def run_checkpoint(path: str | os.PathLike) -> Path:
    """``path`` itself, or, if it is a run folder, its last checkpoint."""
    if not Path(path).is_dir():
        return Path(path)
    last = Checkpointer(path).last()
    if last is None:
        raise WeightsError(
            f"folder {path} holds no run (no {FOLDER}/{LAST}); expected a run's OUTPUT_DIR or a .pth file"
        )
    return last


def method_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The method's own state dict inside a loaded checkpoint."""
    model: dict[str, Tensor] = checkpoint["model"]
    return {name[len(METHOD_PREFIX) :]: t for name, t in model.items() if name.startswith(METHOD_PREFIX)}
