"""Detector checkpoints of this engine: plain values and tensors, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssl_loc.checkpoint.files import DETECTOR_FORMAT, write_torch_file
from ssl_loc.transfer.detector_file import DETECTOR_VERSION, TORCHVISION
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import write_text

_LAST = "last_checkpoint"


def save_detector(
    output_dir: Path,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    about: dict[str, Any],
) -> Path:
    """Write ``output_dir/name`` and point ``last_checkpoint`` at it.

    Args:
        iteration: completed iterations.
        about: plain values: recipe, backbone description, trunk provenance, classes.
    """
    path = output_dir / name
    content = {
        "format": DETECTOR_FORMAT,
        "version": DETECTOR_VERSION,
        "engine": TORCHVISION,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
        **about,
    }
    write_torch_file(path, content)
    write_text(output_dir / _LAST, name + "\n")
    return path


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    pointer = output_dir / _LAST
    if not pointer.is_file():
        return None
    path = output_dir / pointer.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise WeightsError(f"{pointer} names {path.name}, which is not there; delete the pointer to start again")
    return path
