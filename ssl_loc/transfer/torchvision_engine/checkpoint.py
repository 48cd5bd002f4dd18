"""Detector checkpoints of this engine: plain values and tensors, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssl_loc.checkpoint.files import (
    BACKBONE_FORMAT,
    DETECTOR_FORMAT,
    describe,
    detector_engine,
    format_of,
    read_torch_file,
    write_torch_file,
)
from ssl_loc.transfer.weights import shorten
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import write_text

ENGINE = "torchvision"
VERSION = 1
FINAL = "model_final.pth"
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
        "version": VERSION,
        "engine": ENGINE,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "iteration": iteration,
        **about,
    }
    write_torch_file(path, content)
    write_text(output_dir / _LAST, name + "\n")
    return path


def load_detector(path: Path) -> dict[str, Any]:
    """Read a checkpoint of :func:`save_detector`.

    Raises:
        WeightsError: it is something else (a backbone, a detectron2 checkpoint, a broken file).
    """
    content = read_torch_file(path)
    if format_of(content) != DETECTOR_FORMAT or detector_engine(content) != ENGINE:
        hint = ""
        if format_of(content) == BACKBONE_FORMAT:
            hint = "; leave out --eval-only to fine-tune from it"
        elif other := detector_engine(content):
            hint = f"; evaluate it with --engine {other}"
        raise WeightsError(
            f"{path} is {describe(content)}; expected a detector of the torchvision engine (the {FINAL} that a "
            f"fine-tuning wrote to its OUTPUT_DIR){hint}"
        )
    if content.get("version") != VERSION:
        raise WeightsError(f"{path} has version {content.get('version')}; this code reads version {VERSION}")
    return content


def restore_model(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Load a whole detector strictly: same names, same shapes."""
    own = model.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is not part of this detector" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        raise WeightsError(f"{path} does not fit the recipe's detector: {shorten(problems, '; ')}")
    model.load_state_dict(state)


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    pointer = output_dir / _LAST
    if not pointer.is_file():
        return None
    path = output_dir / pointer.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise WeightsError(f"{pointer} names {path.name}, which is not there; delete the pointer to start again")
    return path
