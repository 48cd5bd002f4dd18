"""Everything a checkpoint must hold so that a resumed run makes the same bits."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ssl_loc.engine.step import TrainStep
from ssl_loc.utils import comm
from ssl_loc.utils.errors import WeightsError

_logger = logging.getLogger(__name__)


class RunState:
    """State of a run beside its iteration.

    The data order and every augmentation are functions of (seed, iteration), and so is the learning rate; neither
    needs a state of its own.

    Args:
        step: holds model (with EMA and queue), optimiser and gradient scaler.
        config: the config as plain values.
        meta: see :func:`ssl_loc.checkpoint.metadata.run_metadata`.
    """

    def __init__(self, step: TrainStep, config: dict[str, Any], meta: dict[str, Any]) -> None:
        self.step, self.config, self.meta = step, config, meta

    def capture(self) -> dict[str, Any]:
        """Tensors and plain values. Collective."""
        return {
            "model": dict(self.step.model.state_dict()),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "rng": gather_rng(self.step.device),
            "config": self.config,
            "meta": self.meta,
        }

    def restore(self, checkpoint: dict[str, Any], source: str) -> None:
        """Put a loaded checkpoint back.

        Raises:
            WeightsError: its tensors do not fit the model this config builds.
        """
        try:
            self.step.model.load_state_dict(checkpoint["model"])
            self.step.optimizer.load_state_dict(checkpoint["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:400]
            raise WeightsError(
                f"{source} does not fit the model of this config ({reason}); was it made by another version of a part?"
            ) from None
        # An empty one belongs to a run without fp16; loading it into an enabled scaler would be refused by torch.
        if checkpoint["scaler"]:
            self.step.scaler.load_state_dict(checkpoint["scaler"])
        restore_rng(checkpoint["rng"], self.step.device)


def gather_rng(device: torch.device) -> dict[str, list[Tensor]]:
    """States of torch's generators of every process, in rank order. Collective."""
    mine = [torch.get_rng_state()]
    if device.type == "cuda":
        mine.append(torch.cuda.get_rng_state(device))
    everyone = comm.all_gather_object(mine)
    return {
        "cpu": [states[0] for states in everyone],
        "cuda": [states[1] for states in everyone if len(states) > 1],
    }


def restore_rng(states: dict[str, list[Tensor]], device: torch.device) -> None:
    """Give this process its own states back; with another number of processes it takes one of the old ones."""
    rank, saved = comm.get_rank(), len(states["cpu"])
    if saved != comm.get_world_size():
        _logger.warning(
            "the checkpoint was written by %d processes and %d continue it: the batches stay the same, random "
            "states of torch are handed round",
            saved,
            comm.get_world_size(),
        )
    torch.set_rng_state(states["cpu"][rank % saved])
    if device.type == "cuda" and states["cuda"]:
        torch.cuda.set_rng_state(states["cuda"][rank % saved], device)
