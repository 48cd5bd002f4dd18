"""The detector: built by detectron2, its trunk filled through the explicit name map and verified."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from ssl_loc.checkpoint.files import write_torch_file
from ssl_loc.engine.step import wrap_ddp
from ssl_loc.transfer import running_statistics
from ssl_loc.transfer.build import Trunk
from ssl_loc.transfer.detector_file import DETECTRON2, read_to_continue
from ssl_loc.transfer.detectron2_engine.heads import Res5ROIHeadsExtraNorm  # noqa: F401  (registers the head)
from ssl_loc.transfer.detectron2_engine.noise import quiet
from ssl_loc.transfer.resume import LAST
from ssl_loc.transfer.weights import FRESH_DETECTRON2, detectron2_key, load_trunk, shorten
from ssl_loc.utils import comm
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import write_text

logger = logging.getLogger(__name__)


def build_detector(cfg: CfgNode, seed: int) -> nn.Module:
    """The model with freshly drawn heads (equal on every process), on MODEL.DEVICE."""
    torch.manual_seed(seed)
    with quiet():
        return build_model(cfg)


def load_into(model: nn.Module, trunk: Trunk, arch: str) -> None:
    """Copy the trunk under its exact names, then compare bit by bit."""
    report = load_trunk(model, trunk.state, arch, detectron2_key, FRESH_DETECTRON2)
    logger.info("%s (%s)", report, trunk.source)


def parallel(model: nn.Module) -> nn.Module:
    """DDP over the process group, if there is one. On CPU ``device_ids`` must be absent, which detectron2's helper
    does not know."""
    if not comm.is_distributed():
        return model
    return wrap_ddp(model)


class StrictCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, but files are written whole or not at all, and one of another model is an error."""

    def save_run(self, name: str, done: int, unfinished: bool = False) -> Path:
        """Write SAVE_DIR/NAME and make it the last checkpoint: statistics averaged over processes, and beside them each
        process's own. Collective.

        Args:
            done: iterations made.
            unfinished: what follows the last of them (evaluation, PreciseBN) is still to be done.
        """
        path = Path(self.save_dir) / name
        model = {**self.model.state_dict(), **running_statistics.mean(self.model)}
        own = running_statistics.of_all_processes(self.model)
        if comm.is_main_process():
            content = {"model": model, **{key: part.state_dict() for key, part in self.checkpointables.items()}}
            # detectron2 counts from 0: the last iteration made.
            write_torch_file(path, content | {"iteration": done - 1, "own_statistics": own, "unfinished": unfinished})
            self.tag_last_checkpoint(name)
        # Nobody goes on, or ends the others by ending, before the file is there.
        comm.barrier()
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that a resumed run starts from."""
        write_text(Path(self.save_dir) / LAST, last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        # fvcore's would let torch's own errors through, and open a .pkl without any check of what is in it.
        return read_to_continue(filename, DETECTRON2)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        checkpoint.pop("matching_heuristics", None)
        found = super()._load_model(checkpoint)
        problems = [f"{key} is missing" for key in found.missing_keys]
        problems += [f"{key} is unknown" for key in found.unexpected_keys]
        problems += [f"{key} is {have} instead of {want}" for key, have, want in found.incorrect_shapes]
        if problems:
            raise WeightsError(
                f"the detector checkpoint does not fit this recipe, {len(problems)} problem(s): "
                f"{shorten(problems, '; ')}. Use the recipe, the weights and the engine that it was trained with, or "
                "another OUTPUT_DIR"
            )
        return found


class About:
    """What a detector checkpoint says about itself (plain values); evaluation rebuilds the trunk from it."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def state_dict(self) -> dict[str, Any]:
        """Called by the checkpointer when it saves."""
        return dict(self._values)

    def add(self, **values: Any) -> None:
        """Say more."""
        self._values.update(values)

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Called on resume; whether the runs are one was asked before (:mod:`ssl_loc.transfer.resume`)."""
