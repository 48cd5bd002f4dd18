"""Batch normalisation over the global batch, on CPU and GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.layers.batch_values import check_values
from ssl_loc.utils.comm import all_reduce_sum, is_distributed
from ssl_loc.utils.precision import full_precision


class SyncBN(_BatchNorm):
    """BatchNorm whose training statistics are those of the batch of all processes.

    In one process it is exactly nn.BatchNorm. With several, count, mean and variance come from differentiable sums
    over processes, so one process and N processes agree in output, gradient and running statistics, second order
    included (torch's own SyncBatchNorm refuses CPU tensors). Inputs (N, C, ...), any number of samples per process.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBN expects (N, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            if self.training:
                check_values("SyncBN", input)
            return super().forward(input)
        self._check_input_dim(input)
        # Statistics in fp32 also under autocast, as torch's batch_norm kernels do.
        x = full_precision(input)
        axes = [0, *range(2, x.dim())]
        shape = (1, -1, *(1,) * (x.dim() - 2))
        local = torch.cat([x.sum(axes), x.new_full((1,), x.numel() / x.shape[1])])
        total = all_reduce_sum(local)
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean.view(shape)
        # Two passes: E[x^2] - E[x]^2 cancels badly where the mean is large.
        variance = all_reduce_sum(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps)
        out = centred * (scale * self.weight if self.affine else scale).view(shape)
        if self.affine:
            out = out + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Running statistics as in nn.BatchNorm: the variance unbiased, by the global count."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance * (count / (count - 1).clamp_min(1)), factor)
