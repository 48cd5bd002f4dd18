"""Unit rows: F.normalize to the bit in value and derivatives, and finite where F.normalize's second one is NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.layers.unit_rows import unit_rows


def derivatives(function: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient of a similarity, and gradient of that gradient's square."""
    x = rows.clone().requires_grad_()
    key = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    value = function(x)
    (first,) = torch.autograd.grad((value * key).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first / first.detach().norm()).square().sum(), x, allow_unused=True)
    return value.detach(), first.detach(), torch.zeros_like(x) if second is None else second


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_ordinary_rows_are_normalized_to_the_bit(dtype: torch.dtype, scale: float) -> None:
    rows = torch.randn(33, 128, generator=torch.Generator().manual_seed(0), dtype=dtype) * scale
    for ours, torchs in zip(
        derivatives(unit_rows, rows), derivatives(lambda x: F.normalize(x, dim=1), rows), strict=True
    ):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-20, 1e-13])
def test_short_rows_have_a_finite_second_derivative(length: float) -> None:
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    rows[2] = 0
    rows[2, 3] = length
    value, first, second = derivatives(unit_rows, rows)
    peer_value, peer_first, peer_second = derivatives(lambda x: F.normalize(x, dim=1), rows)
    # The first derivative of the row is the key / 1e-12, as it has always been.
    assert torch.equal(value, peer_value) and torch.equal(first, peer_first)
    assert torch.isfinite(second).all() and (second[2] == 0).all()
    others = [0, 1, 3, 4]
    assert torch.equal(second[others], peer_second[others])
