"""The memory of instance discrimination: one feature per image of the data set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.utils.comm import all_gather


class MemoryBank(nn.Module):
    """Running average of every image's embedding (Wu et al., CVPR 2018, sections 3.1 and 3.2), part of the state dict.

    Args:
        dim: length D of the features.
        momentum: share of itself that a feature keeps at an update, in [0, 1].

    Attributes:
        features: (n, D) float32, unit rows: random after :meth:`allocate`, empty (n = 0) before. This is the live
            buffer: call :meth:`update` only after the losses that read it have been back-propagated.
    """

    features: Tensor

    def __init__(self, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        if dim < 1 or not 0 <= momentum <= 1:
            raise ValueError(f"MemoryBank needs dim >= 1 and momentum in [0, 1], got {dim} and {momentum}")
        self.momentum = momentum
        self.register_buffer("features", torch.zeros(0, dim))

    def allocate(self, images: int) -> None:
        """Make room for ``images`` images, with random unit rows (as the code draws them: uniform per entry)."""
        shape = (images, self.features.shape[1])
        self.features = F.normalize(torch.rand(shape, device=self.features.device) * 2 - 1, dim=1)

    @property
    def size(self) -> int:
        return self.features.shape[0]

    @torch.no_grad()
    def update(self, index: Tensor, features: Tensor) -> None:
        """V_i <- unit(momentum V_i + (1 - momentum) f) for this process's images. Collective.

        Args:
            index: (N,) int64 positions in the data set.
            features: (N, D) unit rows.

        An image that comes twice takes its last feature, in the order of processes and rows: every process does the
        same, and N processes do what one does with the global batch.
        """
        index, features = all_gather(index), all_gather(features.detach())
        features = features[last_occurrence(index)].to(self.features.dtype)
        mixed = torch.lerp(features, self.features[index], self.momentum)
        # Rows of the same image are equal by now, so it does not matter which of them is written last.
        self.features.index_copy_(0, index, F.normalize(mixed, dim=1))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        """An empty bank takes the size of a checkpoint (evaluation does not know the data set); an allocated one checks
        it like any other tensor."""
        stored = state_dict.get(f"{prefix}features")
        if self.size == 0 and stored is not None and stored.shape[1:] == self.features.shape[1:]:
            self.features = torch.zeros_like(stored, device=self.features.device)
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[arg-type]


def last_occurrence(index: Tensor) -> Tensor:
    """For each entry of (N,) the largest position that holds the same value -> (N,) int64; never waits for a GPU."""
    order = torch.argsort(index, stable=True)
    ordered, places = index[order], torch.arange(len(index), device=index.device)
    # In sorted order an entry's last equal is the end of its run: the nearest end at or behind it.
    end = torch.ones_like(places, dtype=torch.bool)
    end[:-1] = ordered[1:] != ordered[:-1]
    ends = torch.where(end, places, len(index)).flip(0).cummin(0).values.flip(0)
    return torch.empty_like(order).scatter_(0, order, order[ends])
