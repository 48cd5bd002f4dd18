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
from ssl_loc.transfer.build import Trunk
from ssl_loc.transfer.detector_file import DETECTRON2, read_to_continue
from ssl_loc.transfer.detectron2_engine.heads import Res5ROIHeadsExtraNorm  # noqa: F401  (registers the head)
from ssl_loc.transfer.detectron2_engine.noise import quiet
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
    device = next(model.parameters()).device
    ids = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)


class StrictCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, but files are written whole or not at all, and one of another model is an error."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write SAVE_DIR/NAME.pth and make it the last checkpoint; on the main process only."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        write_torch_file(Path(self.save_dir) / f"{name}.pth", content | kwargs)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the file that a resumed run starts from."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

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

    def load_state_dict(self, stored: dict[str, Any]) -> None:
        """Called on resume: says so if the run began with other weights."""
        before, now = stored.get("trunk", {}).get("digest"), self._values.get("trunk", {}).get("digest")
        if before != now:
            logger.warning("the run to resume began with trunk %s, not %s; its own weights are kept", before, now)
