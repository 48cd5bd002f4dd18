"""SimCLR, BYOL and InstDisc in two processes against one: losses, averaged gradients, both networks.

Light in its imports, since every process pays for them. In float64, where the two may differ by rounding only; in
float32 batch normalisation of a few values amplifies rounding, so there only the first loss and gradient are compared.
"""

from __future__ import annotations

import torch
from helpers.batches import random_views
from helpers.ddp import run_in_processes

from ssl_loc.layers import SyncBN
from ssl_loc.losses.build import Loss, LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.nce import NCE
from ssl_loc.losses.negative_cosine import NegativeCosine
from ssl_loc.losses.nt_xent import NTXent
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.byol import BYOL
from ssl_loc.modeling.method.instdisc import InstDisc
from ssl_loc.modeling.method.method import Method
from ssl_loc.modeling.method.simclr import SimCLR
from ssl_loc.utils.comm import all_reduce_mean, get_rank, get_world_size

METHODS = ("SimCLR", "BYOL", "InstDisc")


def _build(name: str) -> tuple[Method, Loss]:
    torch.manual_seed(0)
    trunk = ResNet(norm=SyncBN, depth=18, width=4, layers=[1, 1, 1, 1], stem="small")
    heads = [build_head("bn_mlp", inside, 8, hidden_channels=12) for inside in (trunk.out_channels, 8)]
    if name == "SimCLR":
        return SimCLR(trunk, heads[0], temperature=0.5), NTXent()
    if name == "InstDisc":
        discriminator = InstDisc(trunk, heads[0], dim=8, negatives=5, temperature=0.5)
        discriminator.prepare(11)
        return discriminator, NCE()
    method = BYOL(trunk, *heads, tau=0.9)
    method.prepare(100, total_steps=4)
    return method, NegativeCosine()


def _share(name: str, dtype: torch.dtype, steps: int, lr: float) -> dict[str, torch.Tensor]:
    """Steps on this process's half of a batch; gradients averaged as DistributedDataParallel does."""
    method, base = _build(name)
    method.to(dtype)
    base.to(dtype)
    losses = LossSum([("base", base, 1.0), ("attention", GradCAMAttention(), 0.3)])
    optimizer = torch.optim.SGD(method.pretrain_parameters(), lr)
    result = {}
    for step in range(steps):
        views = random_views(8, 32, seed=step)
        views.index[5] = 1  # an image twice, in different halves
        n = 8 // get_world_size()
        views = views.rows(get_rank() * n, (get_rank() + 1) * n)
        terms, _ = losses(views, method(views), method)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        for parameter in method.pretrain_parameters():
            parameter.grad = all_reduce_mean(parameter.grad)
        optimizer.step()
        method.after_step(step)
        result |= {f"{key}{step}": all_reduce_mean(value.detach()) for key, value in terms.items()}
    gradients = {f"{key}.grad": p.grad for key, p in method.named_parameters() if p.grad is not None}
    modules = {**method.state_dict(), **base.state_dict()}
    state = {key: v.clone() for key, v in modules.items() if v.is_floating_point()}
    return {**result, **gradients, **state}


def _all(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    double = {name: _share(name, torch.float64, steps=2, lr=0.05) for name in METHODS}
    return double | {f"{name} float32": _share(name, torch.float32, steps=1, lr=0.0) for name in METHODS}


def test_two_processes_equal_one() -> None:
    """Negatives of the other process, gradients that travel back to it, statistics of the global batch."""
    one, two = _all(0), run_in_processes(_all, 2)
    for name, expected in one.items():
        for rank in range(2):
            for key, value in expected.items():
                got = two[rank][name][key]
                # Of the largest element: single ones may be sums that cancel.
                tolerance = (1e-4 if key.endswith(".grad") else 1e-5) if "float32" in name else 1e-9
                atol = tolerance * max(float(value.abs().max()), 1e-3)
                torch.testing.assert_close(got, value, rtol=0, atol=atol, msg=lambda m, k=f"{name} {key}": f"{k}: {m}")
