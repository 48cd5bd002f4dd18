"""Population statistics of the norm layers, measured with fixed weights ("PreciseBN")."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.utils.comm import is_main_process
from ssl_loc.utils.progress import progress_bar


class _Population:
    """Mean and variance of everything one layer saw, from per-batch means and unbiased variances."""

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None  # batch norms of detectors track their statistics
        self.mean = torch.zeros_like(layer.running_mean)
        self.square = torch.zeros_like(layer.running_mean)
        self.count = 0

    def add(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.count += count
        share = count / self.count
        self.mean += (mean - self.mean) * share
        self.square += (mean.square() + variance * ((count - 1) / count) - self.square) * share


@torch.no_grad()
def precise_bn(model: nn.Module, step: Callable[[], object], iterations: int) -> int:
    """Replace running statistics by population statistics over ``iterations`` calls of ``step`` (a forward pass).

    As in "Rethinking Batch in BatchNorm", appendix; frozen layers (evaluation mode) are left alone. Returns the number
    of layers measured.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not layers:
        return 0
    momentum = [layer.momentum for layer in layers]
    seen: dict[nn.Module, int] = {}

    def count(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[layer] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    totals = [_Population(layer) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 1.0  # so that the buffers hold this batch's statistics only
        for _ in _progress(iterations):
            seen.clear()
            step()
            for layer, total in zip(layers, totals, strict=True):
                if seen.get(layer):
                    total.add(layer.running_mean, layer.running_var, seen[layer])  # type: ignore[arg-type]
    finally:
        for layer, value in zip(layers, momentum, strict=True):
            layer.momentum = value
        for hook in hooks:
            hook.remove()
    for layer, total in zip(layers, totals, strict=True):
        if total.count:
            layer.running_mean.copy_(total.mean)  # type: ignore[union-attr]
            layer.running_var.copy_(total.square - total.mean.square())  # type: ignore[union-attr]
    return len(layers)


def _progress(iterations: int) -> Iterator[int]:
    return iter(progress_bar(range(iterations), desc="PreciseBN", unit="it", leave=False, show=is_main_process()))
