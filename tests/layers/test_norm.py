"""Norm layers in one process: against torch's own, group by group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_loc.layers import NORMS, FrozenBN, SplitBN, SyncBN, frozen_statistics, make_norm, needs_shuffle
from ssl_loc.utils.errors import ConfigError


def _pair(layer: nn.Module, channels: int) -> nn.BatchNorm2d:
    """Give ``layer`` random parameters and return a torch BatchNorm with the same."""
    peer = nn.BatchNorm2d(channels)
    for value in (peer.weight.data, peer.bias.data, peer.running_mean):
        value.normal_()
    peer.running_var.uniform_(0.5, 2)
    layer.load_state_dict(peer.state_dict())
    return peer


@pytest.mark.parametrize("kind", NORMS)
def test_names_are_those_of_batchnorm(kind: str) -> None:
    assert list(make_norm(kind)(3).state_dict()) == list(nn.BatchNorm2d(3).state_dict())


@pytest.mark.parametrize("make", [make_norm("BN"), SyncBN, lambda c: SplitBN(c, groups=1)])
def test_one_process_one_group_is_batchnorm_bit_for_bit(make) -> None:
    layer = make(5)
    peer = _pair(layer, 5)
    x, y = (torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    a, b = layer(x), peer(y)
    a.square().sum().backward()
    b.square().sum().backward()
    assert torch.equal(a, b) and torch.equal(x.grad, y.grad) and torch.equal(layer.weight.grad, peer.weight.grad)
    assert all(torch.equal(u, v) for u, v in zip(layer.state_dict().values(), peer.state_dict().values(), strict=True))


def test_split_bn_is_batchnorm_on_each_contiguous_part() -> None:
    layer = SplitBN(5, groups=3)
    peer = _pair(layer, 5)
    start = {k: v.clone() for k, v in peer.state_dict().items()}
    x = torch.randn(12, 5, 4, 4) * torch.arange(1, 13).view(-1, 1, 1, 1)
    out = layer(x)
    means, variances = [], []
    for g in range(3):
        peer.load_state_dict(start)
        assert torch.equal(out[4 * g : 4 * g + 4], peer(x[4 * g : 4 * g + 4]))
        means.append(peer.running_mean.clone())
        variances.append(peer.running_var.clone())
    # What 3 devices would have tracked, averaged.
    assert torch.allclose(layer.running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert torch.allclose(layer.running_var, torch.stack(variances).mean(0), rtol=1e-6)
    assert int(layer.num_batches_tracked) == 1
    layer.eval(), peer.load_state_dict(layer.state_dict()), peer.eval()
    assert torch.equal(layer(x), peer(x))


def test_split_bn_gradient_by_finite_differences() -> None:
    layer = SplitBN(2, groups=2).double()
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)


def test_split_bn_says_which_number_does_not_divide() -> None:
    with pytest.raises(ConfigError, match="6 images in this process for 4 groups.*NORM_GROUPS"):
        SplitBN(2, groups=4)(torch.randn(6, 2, 2, 2))


@pytest.mark.parametrize(
    ("kind", "groups", "images", "cure"),
    [
        ("BN", 1, 1, "set MODEL.NORM SyncBN or FrozenBN"),
        ("SyncBN", 1, 1, "set MODEL.NORM FrozenBN"),
        ("SplitBN", 1, 1, "set MODEL.NORM SyncBN or FrozenBN"),
        ("SplitBN", 4, 4, "lower MODEL.NORM_GROUPS"),
    ],
)
def test_one_value_per_channel_is_a_sentence(kind: str, groups: int, images: int, cure: str) -> None:
    layer = make_norm(kind, groups)(2)
    with pytest.raises(ConfigError) as error:
        layer(torch.randn(images, 2, 1, 1))
    text = str(error.value)
    assert text.startswith(f"MODEL.NORM {kind} got one value per channel")
    assert "raise SOLVER.IMS_PER_BATCH" in text and text.endswith(cure)
    assert layer(torch.randn(2 * images, 2, 1, 1)).shape == (2 * images, 2, 1, 1)
    assert layer.eval()(torch.randn(1, 2, 1, 1)).shape == (1, 2, 1, 1)


def test_frozen_bn_never_changes() -> None:
    layer = FrozenBN(5)
    peer = _pair(layer, 5).eval()
    x = torch.randn(4, 5, 3, 3)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    assert torch.equal(layer.train()(x), peer(x))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert not any(p.requires_grad for p in layer.parameters())


def test_frozen_statistics_restores_the_modes() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2).eval(), nn.Dropout())
    with frozen_statistics(module):
        assert [m.training for m in module] == [False, False, True]
    assert [m.training for m in module] == [True, False, True]


def test_who_needs_shuffling_in_one_process() -> None:
    wants = {kind: needs_shuffle(make_norm(kind, 4)(2)) for kind in NORMS}
    assert wants == {"BN": False, "SyncBN": False, "SplitBN": True, "FrozenBN": False}


def test_unknown_norm_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="MODEL.NORM is 'SplitBn'; did you mean SplitBN"):
        make_norm("SplitBn")
