"""EMA by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_loc.layers import ema_update


def test_parameters_move_and_buffers_stay() -> None:
    target, source = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    source.weight.data[:] = torch.tensor([3.0, 5.0])
    source.running_mean.fill_(7)
    ema_update(target, source, 0.9)
    # 0.9 * 1 + 0.1 * 3, 0.9 * 1 + 0.1 * 5
    torch.testing.assert_close(target.weight.data, torch.tensor([1.2, 1.4]))
    assert float(target.running_mean.abs().sum()) == 0
    assert source.weight.tolist() == [3, 5]


def test_momentum_zero_copies_and_one_keeps() -> None:
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    before = target.weight.clone()
    ema_update(target, source, 1.0)
    assert torch.equal(target.weight, before)
    ema_update(target, source, 0.0)
    torch.testing.assert_close(target.weight, source.weight)


def test_refuses_different_modules() -> None:
    with pytest.raises(ValueError, match="2 parameters, its source 4"):
        ema_update(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 0.5)
