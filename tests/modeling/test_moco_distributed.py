"""CAST on MoCo in two processes against one: losses, averaged gradients, queue, both encoders.

Kept apart from the other tests of MoCo and light in its imports, since every process pays for them.
"""

from __future__ import annotations

import torch
from helpers.batches import random_views
from helpers.ddp import run_in_processes

from ssl_loc.layers import make_norm
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.moco import MoCo
from ssl_loc.utils.comm import all_reduce_mean, get_rank, get_world_size


def _share(reduction: str) -> dict[str, torch.Tensor]:
    """Two CAST steps on this process's half of a batch; gradients averaged as DistributedDataParallel does."""
    torch.manual_seed(0)
    trunk = ResNet(norm=make_norm("SplitBN", 2), depth=18, width=8, stem="small")
    method = MoCo(trunk, build_head("linear", trunk.out_channels, 16), dim=16, queue_size=20, momentum=0.9)
    losses = LossSum([("InfoNCE", InfoNCE(), 1.0), ("GradCAMAttention", GradCAMAttention(reduction=reduction), 3.0)])
    optimizer = torch.optim.SGD(method.pretrain_parameters(), 0.1)
    result = {}
    for step in range(2):
        views = random_views(8, 32, seed=step)
        views.has_mask[:3] = False  # unequal numbers of masks in the two halves
        n = 8 // get_world_size()
        views = views.rows(get_rank() * n, (get_rank() + 1) * n)
        terms, _ = losses(views, method(views), method)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        for parameter in method.pretrain_parameters():
            parameter.grad = all_reduce_mean(parameter.grad)
        optimizer.step()
        method.after_step(step)
        result |= {f"{name}{step}": all_reduce_mean(value.detach()) for name, value in terms.items()}
    state = {k: v for k, v in method.state_dict().items() if v.is_floating_point()}
    return {**result, **{k: v.clone() for k, v in state.items()}}


def _both(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    return {reduction: _share(reduction) for reduction in ("per_sample", "batch_flat")}


def test_two_processes_equal_one() -> None:
    """Shuffled keys, SplitBN groups, global masks count, queue order and running statistics."""
    one, two = _both(0), run_in_processes(_both, 2)
    for reduction, expected in one.items():
        for rank in range(2):
            for name, value in expected.items():
                got = two[rank][reduction][name]
                torch.testing.assert_close(got, value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
