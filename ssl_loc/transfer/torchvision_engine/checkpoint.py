"""Detector checkpoints of this engine: plain values and tensors, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_loc.checkpoint.files import DETECTOR_FORMAT, write_torch_file
from ssl_loc.transfer.detector_file import DETECTOR_VERSION, TORCHVISION
from ssl_loc.transfer.resume import LAST
from ssl_loc.utils.file_io import write_text


def save_detector(output_dir: Path, name: str, content: dict[str, Any]) -> Path:
    """Write ``output_dir/name`` and point ``last_checkpoint`` at it.

    Args:
        content: "model" and "optimizer" states, "iteration" (completed), "unfinished" (what follows that iteration is
            still to be done: evaluation, PreciseBN), "own_statistics" (of every process), "scaler", and about the run:
            "recipe", "backbone", "trunk", "processes", "classes".
    """
    path = output_dir / name
    header = {"format": DETECTOR_FORMAT, "version": DETECTOR_VERSION, "engine": TORCHVISION}
    write_torch_file(path, {**header, **content})
    write_text(output_dir / LAST, name + "\n")
    return path
