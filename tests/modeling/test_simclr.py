"""SimCLR: steps against the algorithm written out, the pairs, the head, what stands for a target."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views
from torch import nn

from ssl_loc.components import get_cfg
from ssl_loc.layers import SyncBN, make_norm
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.nt_xent import NTXent
from ssl_loc.modeling import build_method
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.simclr import SimCLR
from ssl_loc.utils.errors import ConfigError


def _simclr(norm: str = "SyncBN") -> SimCLR:
    torch.manual_seed(0)
    layer = make_norm(norm, 2)
    trunk = ResNet(norm=layer, depth=18, width=8, stem="small")
    return SimCLR(trunk, build_head("bn_mlp", trunk.out_channels, 16, norm=layer), temperature=0.2)


def test_two_steps_of_the_papers_algorithm() -> None:
    """Algorithm 1 of the SimCLR paper written out, 2N views in one batch."""
    ours = _simclr().double()
    f, g = copy.deepcopy(ours.online_trunk), copy.deepcopy(ours.online_head)
    peers = [list(ours.pretrain_parameters()), [*f.parameters(), *g.parameters()]]
    optimizers = [torch.optim.SGD(parameters, 0.1) for parameters in peers]
    for step in range(2):
        views = random_views(5, 32, seed=step)
        x = torch.cat([(image.double() - ours.pixel_mean) / ours.pixel_std for image in views.images])
        z = F.normalize(g(f(x)["res5"].mean((2, 3))), dim=1)
        logits = (z @ z.T / 0.2).masked_fill(torch.eye(10, dtype=torch.bool), -1e30)
        expected = F.cross_entropy(logits, torch.tensor([5, 6, 7, 8, 9, 0, 1, 2, 3, 4]))
        value, log = NTXent()(views, ours(views), ours)
        torch.testing.assert_close(value, expected)
        assert log["chance_loss"] == pytest.approx(2.1972, abs=1e-4)  # ln 9
        for optimizer, loss in zip(optimizers, (value, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.after_step(step)
    for a, b in zip(*peers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_one_forward_of_both_views() -> None:
    method, sizes = _simclr(), []
    method.online_trunk.register_forward_hook(lambda m, x, y: sizes.append(len(x[0])))
    pairs = method(random_views(4)).pairs
    assert sizes == [8] and [(p.query_view, p.key_view) for p in pairs] == [(0, 1), (1, 0)]
    assert torch.equal(pairs[0].k, pairs[1].q) and torch.equal(pairs[1].k, pairs[0].q)
    assert pairs[0].negatives is None and pairs[1].maps["res4"].shape[0] == 4


def test_maps_belong_to_their_view() -> None:
    method, views = _simclr().eval(), random_views(4)
    with torch.no_grad():
        for pair in method(views).pairs:
            maps = method.online_trunk(method.normalize(views.images[pair.query_view]))
            torch.testing.assert_close(pair.maps["res5"], maps["res5"])
            torch.testing.assert_close(pair.q, method.encode(views.images[pair.query_view]))


def test_the_network_itself_is_the_target() -> None:
    """Masked keys neither train the network nor enter the statistics that are exported."""
    method, images = _simclr(), random_views(4).images[0]
    state = copy.deepcopy(method.state_dict())
    k = method.encode_target(images)
    assert not k.requires_grad and method.online_trunk.bn1.training
    assert all(torch.equal(a, b) for a, b in zip(state.values(), method.state_dict().values(), strict=True))
    torch.testing.assert_close(method.eval().encode(images), k)


def test_attention_reaches_the_trunk_through_both_views() -> None:
    method, views = _simclr(), random_views(4)
    losses = LossSum([("NTXent", NTXent(), 1.0), ("GradCAMAttention", GradCAMAttention(), 3.0)])
    losses.connect(method)
    losses(views, method(views), method)[0]["GradCAMAttention"].backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.parameters())
    assert method.online_trunk.conv1.weight.grad.abs().max() > 0


def test_inner_maps_are_shared_by_the_views() -> None:
    with pytest.raises(ConfigError, match="GradCAMAttention needs maps of one view inside of the trunk"):
        GradCAMAttention(layer="res4").connect(_simclr())


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("none", [nn.Linear, nn.ReLU, nn.Linear]),
        ("hidden", [nn.Linear, SyncBN, nn.ReLU, nn.Linear]),
        ("all", [nn.Linear, SyncBN, nn.ReLU, nn.Linear, SyncBN]),
    ],
)
def test_config_reaches_the_head(kind: str, layers: list[type]) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.METHOD", "SimCLR", "MODEL.RESNET.DEPTH", 18, "MODEL.NORM", "SyncBN"])
    cfg.merge_from_list(["MODEL.SIMCLR.HEAD_BN", kind, "MODEL.SIMCLR.T", 0.5, "MODEL.SIMCLR.DIM", 12])
    method = build_method(cfg)
    head = list(method.head())
    assert method.temperature == 0.5 and [type(m) for m in head] == layers
    linear = [m for m in head if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(512, 512), (512, 12)]
    assert [m.bias is None for m in linear] == [kind != "none", kind == "all"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("T", 0.0, "is 0.0; expected"), ("DIM", 0, "is 0; expected"), ("HEAD_BN", "al", "did you mean all")],
)
def test_wrong_values_name_their_key(key: str, value: object, words: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.METHOD, cfg.MODEL.SIMCLR[key] = "SimCLR", value
    with pytest.raises(ConfigError, match=rf"MODEL.SIMCLR.{key} .*{words}"):
        build_method(cfg)
