"""Two processes with half a batch each against one with the whole: norms (output, gradients, statistics), shuffling."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.ddp import run_in_processes

from ssl_loc.layers import ShuffleBN, SplitBN, SyncBN, average_split_statistics
from ssl_loc.utils.comm import get_rank, get_world_size

TOTAL = 8


def _layer(kind: str) -> torch.nn.Module:
    layer = SyncBN(3) if kind == "SyncBN" else SplitBN(3, groups=4)
    g = torch.Generator().manual_seed(3)
    for value in (layer.weight.data, layer.bias.data, layer.running_mean):
        value.copy_(torch.randn(3, generator=g))
    return layer


def _forward_backward(kind: str) -> dict[str, torch.Tensor]:
    """This process's share of a batch with a large mean: output, first and second order gradients, buffers."""
    g = torch.Generator().manual_seed(4)
    batch, probe = 100 + 5 * torch.randn(TOTAL, 3, 2, 2, generator=g), torch.randn(TOTAL, 3, 2, 2, generator=g)
    n = TOTAL // get_world_size()
    mine = slice(get_rank() * n, (get_rank() + 1) * n)
    layer, x = _layer(kind), batch[mine].clone().requires_grad_()
    out = layer(x)
    (first,) = torch.autograd.grad((out * probe[mine]).sum(), x, create_graph=True)
    first.square().sum().backward()
    average_split_statistics(layer)
    weight_grad = layer.weight.grad.clone()
    if get_world_size() > 1:
        # The parameters' gradient is local, as in any layer; their sum is the global one.
        dist.all_reduce(weight_grad)
    return {
        "out": out.detach(),
        "first": first.detach(),
        "second": x.grad,
        "weight": weight_grad,
        "mean": layer.running_mean,
        "var": layer.running_var,
        "seen": layer.num_batches_tracked,
    }


def _neighbour_differences(x: torch.Tensor) -> torch.Tensor:
    """An encoder that sees its neighbours, like a norm layer with groups of two."""
    return (x.view(-1, 2, 1) - x.view(-1, 2, 1).flip(1)).reshape(-1, 1)


def _shuffled_keys() -> torch.Tensor:
    batch = torch.arange(TOTAL, dtype=torch.float32).square()[:, None]
    n = TOTAL // get_world_size()
    return ShuffleBN(seed=1)(_neighbour_differences, batch[get_rank() * n : (get_rank() + 1) * n], step=5)


def _worker(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    norms = {kind: _forward_backward(kind) for kind in ("SyncBN", "SplitBN")}
    return {**norms, "shuffle": {"keys": _shuffled_keys()}}


@pytest.fixture(scope="module")
def two() -> list:
    return run_in_processes(_worker, 2)


@pytest.mark.parametrize("kind", ["SyncBN", "SplitBN"])
def test_norms_of_two_processes_equal_one(two: list, kind: str) -> None:
    one = _forward_backward(kind)
    for name in ("out", "first", "second"):
        both = torch.cat([two[0][kind][name], two[1][kind][name]])
        torch.testing.assert_close(both, one[name], rtol=2e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("weight", "mean", "var", "seen"):
        for rank in range(2):
            torch.testing.assert_close(two[rank][kind][name], one[name], rtol=2e-4, atol=2e-5)


def test_shuffling_of_two_processes_equals_one(two: list) -> None:
    assert torch.equal(torch.cat([result["shuffle"]["keys"] for result in two]), _shuffled_keys())
