"""Normalisation layers by name, injected into backbones and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.layers.batch_values import check_values
from ssl_loc.layers.split_bn import SplitBN
from ssl_loc.layers.sync_bn import SyncBN
from ssl_loc.utils.comm import is_distributed
from ssl_loc.utils.errors import check_choice

# All are BatchNorms with torch's state-dict names, so weights travel between them.
NORMS = ("BN", "SyncBN", "SplitBN", "FrozenBN")


class BN(nn.BatchNorm2d):
    """nn.BatchNorm2d for maps (N, C, h, w) and vectors (N, C) that says which keys to change where a batch is too small
    for statistics."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"BN expects (N, C, ...), got shape {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            check_values("BN", input)
        return super().forward(input)


class FrozenBN(nn.BatchNorm2d):
    """BatchNorm that always uses its stored statistics and whose weight and bias are not trained."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def make_norm(kind: str, groups: int = 8) -> Callable[[int], nn.Module]:
    """Return ``channels -> norm layer`` for maps (N, C, h, w) and vectors (N, C) (``MODEL.NORM``, ``NORM_GROUPS``).

    Raises:
        ConfigError: ``kind`` is none of "BN", "SyncBN", "SplitBN", "FrozenBN".
    """
    check_choice("MODEL.NORM", kind, NORMS)
    if kind == "SplitBN":
        return partial(SplitBN, groups=groups)
    return {"BN": BN, "SyncBN": SyncBN, "FrozenBN": FrozenBN}[kind]


def needs_shuffle(module: nn.Module) -> bool:
    """True if ``module`` normalises with statistics of less than the global batch: SplitBN, or BN in several processes.

    Through such statistics a query can recognise its key without looking (MoCo paper, section 3.3).
    """
    split = any(isinstance(m, SplitBN) and m.groups > 1 for m in module.modules())
    local = any(
        isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) and not isinstance(m, FrozenBN) for m in module.modules()
    )
    return split or (local and is_distributed())


@contextmanager
def frozen_statistics(*modules: nn.Module) -> Iterator[None]:
    """Run the norm layers of ``modules`` in evaluation mode inside the block: stored statistics, none updated."""
    layers = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True
