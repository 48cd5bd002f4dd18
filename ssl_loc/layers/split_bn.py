"""Batch normalisation over groups of the global batch: the statistics of many small devices on any number of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.layers.batch_values import check_values
from ssl_loc.utils.comm import all_reduce_mean, get_world_size, is_distributed
from ssl_loc.utils.errors import ConfigError


class SplitBN(_BatchNorm):
    """BatchNorm computed separately on ``groups`` contiguous parts of the global batch.

    With 8 groups one process does what the papers' 8 GPUs did, so shuffle-BN has something to shuffle (as in the
    MoCo authors' single-GPU demo). W processes hold groups / W groups each, cut at the same images: one process equals
    W processes.

    Running statistics follow the mean over groups of what each group alone would have tracked. Within a process that
    mean is taken at once; across processes by :func:`average_split_statistics`, at any later time, since averaging
    and tracking commute.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        groups: int = 8,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if groups < 1:
            raise ConfigError(f"SplitBN got {groups} groups; expected at least 1 (MODEL.NORM_GROUPS)")
        self.groups = groups

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SplitBN expects (N, C, ...), got shape {tuple(input.shape)}")

    def local_groups(self) -> int:
        """Groups that this process holds."""
        world = get_world_size()
        if self.groups % world:
            raise ConfigError(
                f"MODEL.NORM_GROUPS is {self.groups} but {world} processes run; SplitBN needs a multiple "
                f"of the number of processes. Set MODEL.NORM_GROUPS {max(1, self.groups // world) * world}, or "
                "MODEL.NORM BN or SyncBN."
            )
        return self.groups // world

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        groups = self.local_groups()
        if groups == 1:
            check_values("SplitBN", input)
            return super().forward(input)
        if input.shape[0] % groups:
            raise ConfigError(
                f"SplitBN got {input.shape[0]} images in this process for {groups} groups; expected a multiple. Change "
                "SOLVER.IMS_PER_BATCH (or SOLVER.ACCUMULATE), or set MODEL.NORM_GROUPS to a divisor."
            )
        check_values("SplitBN", input, groups)
        means, variances = self._rows(self.running_mean, groups), self._rows(self.running_var, groups)
        # split, not chunk or slices: its backward is one concatenation.
        parts = input.split(input.shape[0] // groups)
        out = torch.cat(
            [
                F.batch_norm(part, means[g], variances[g], self.weight, self.bias, True, self.momentum or 0.0, self.eps)
                for g, part in enumerate(parts)
            ]
        )
        self._track(means, variances)
        return out

    @staticmethod
    def _rows(running: Tensor | None, groups: int) -> list[Tensor] | list[None]:
        return [None] * groups if running is None else [running.clone() for _ in range(groups)]

    @torch.no_grad()
    def _track(self, means: list[Tensor] | list[None], variances: list[Tensor] | list[None]) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.copy_(torch.stack([m for m in means if m is not None]).mean(0))
        self.running_var.copy_(torch.stack([v for v in variances if v is not None]).mean(0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


@torch.no_grad()
def average_split_statistics(module: nn.Module) -> None:
    """Make the running statistics of every SplitBN in ``module`` those of all processes, in one collective."""
    if not is_distributed():
        return
    buffers = [
        buffer
        for layer in module.modules()
        if isinstance(layer, SplitBN) and layer.training  # frozen ones stay as they are, to the last bit
        for buffer in (layer.running_mean, layer.running_var)
        if buffer is not None
    ]
    if not buffers:
        return
    flat = all_reduce_mean(torch.cat(buffers))
    for buffer, value in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(value)
