"""BYOL: steps against the paper's algorithm written out, momentum schedule, what never trains, state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views
from torch import nn

from ssl_loc.components import get_cfg
from ssl_loc.layers import SyncBN, make_norm
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.negative_cosine import NegativeCosine
from ssl_loc.modeling import build_method
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.byol import BYOL, momentum_at
from ssl_loc.utils.errors import ConfigError


def _byol(norm: str = "BN", **kwargs) -> BYOL:
    torch.manual_seed(0)
    layer = make_norm(norm, 2)
    trunk = ResNet(norm=layer, depth=18, width=8, stem="small")
    options = {"hidden_channels": 24, "norm": layer}
    heads = (build_head("bn_mlp", trunk.out_channels, 16, **options), build_head("bn_mlp", 16, 16, **options))
    return BYOL(trunk, *heads, **{"tau": 0.9, **kwargs})


def test_three_steps_of_the_papers_algorithm() -> None:
    """Algorithm 1 of the BYOL paper written out: losses, online and target network agree."""
    ours = _byol().double()
    ours.prepare(100, total_steps=3)
    f, g, p = (copy.deepcopy(m) for m in (ours.online_trunk, ours.online_head.projector, ours.online_head.predictor))
    f_t, g_t = copy.deepcopy(f), copy.deepcopy(g)
    online = [*f.parameters(), *g.parameters(), *p.parameters()]
    optimizers = [torch.optim.SGD(q, 0.1, momentum=0.9) for q in (list(ours.pretrain_parameters()), online)]
    for step, tau in enumerate((0.9, 1 - 0.1 * 0.75, 1 - 0.1 * 0.25)):  # cos 0, cos 60 and cos 120 degrees
        views = random_views(6, 32, seed=step)
        x = [(image.double() - ours.pixel_mean) / ours.pixel_std for image in views.images]
        q = [F.normalize(p(g(f(image)["res5"].mean((2, 3)))), dim=1) for image in x]
        with torch.no_grad():
            k = [F.normalize(g_t(f_t(image)["res5"].mean((2, 3))), dim=1) for image in x]
        expected = (q[0] - k[1]).square().sum(1).mean() + (q[1] - k[0]).square().sum(1).mean()
        value, _ = NegativeCosine()(views, ours(views), ours)
        torch.testing.assert_close(value, expected)
        for optimizer, loss in zip(optimizers, (value, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.after_step(step)
        for a, b in zip([*f_t.parameters(), *g_t.parameters()], online, strict=False):
            a.data = tau * a.data + (1 - tau) * b.data
    target = [*ours.target_trunk.parameters(), *ours.target_projector.parameters()]
    for a, b in zip(target, [*f_t.parameters(), *g_t.parameters()], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    # The target's norm layers keep the statistics of their own forwards.
    for a, b in zip(ours.target_trunk.buffers(), f_t.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_momentum_grows_by_a_cosine() -> None:
    """tau_base at the start, half-way between it and 1 in the middle, 1 at the end; constant where K is unknown."""
    assert momentum_at(0, 1000, 0.996) == pytest.approx(0.996, abs=1e-12)
    assert momentum_at(500, 1000, 0.996) == pytest.approx(0.998, abs=1e-12)
    assert momentum_at(1000, 1000, 0.996) == 1.0
    assert momentum_at(250, 1000, 0.99) == pytest.approx(1 - 0.01 * (math.sqrt(0.5) + 1) / 2)
    assert momentum_at(7, 0, 0.99) == 0.99


def test_schedule_counts_steps_of_the_run() -> None:
    method = _byol(tau=0.5)
    method.prepare(100, total_steps=10)
    with torch.no_grad():
        for parameter in method.online_trunk.parameters():
            parameter += 1
    before, online = method.target_trunk.conv1.weight.clone(), method.online_trunk.conv1.weight.detach()
    method.after_step(5)  # tau = .75
    torch.testing.assert_close(method.target_trunk.conv1.weight, 0.75 * before + 0.25 * online)
    before = method.target_trunk.conv1.weight.clone()
    method.after_step(10)
    assert torch.equal(method.target_trunk.conv1.weight, before)


@pytest.mark.parametrize("buffers", [False, True])
def test_statistics_are_averaged_on_request(buffers: bool) -> None:
    method = _byol(tau=0.75, buffers_ema=buffers)
    for module, value in ((method.online_trunk, 4.0), (method.target_trunk, 0.0)):
        module.bn1.running_mean.fill_(value)
        module.bn1.num_batches_tracked.fill_(int(value))
    method.after_step(0)
    assert method.target_trunk.bn1.running_mean.tolist() == [1.0 if buffers else 0.0] * 8
    assert int(method.target_trunk.bn1.num_batches_tracked) == 0


def test_target_is_not_trained() -> None:
    method, views = _byol(), random_views(4)
    NegativeCosine()(views, method(views), method)[0].backward()
    trained = {id(p) for p in method.pretrain_parameters()}
    online = [*method.online_trunk.parameters(), *method.online_head.parameters()]
    target = [*method.target_trunk.parameters(), *method.target_projector.parameters()]
    assert trained == {id(p) for p in online} and not trained & {id(p) for p in target}
    assert all(p.grad is not None for p in online) and all(p.grad is None for p in target)
    # Both start equal.
    for a, b in zip(target, online, strict=False):
        assert torch.equal(a, b)


def test_one_forward_per_view_and_network() -> None:
    method, calls = _byol(), []
    for name in ("online_trunk", "target_trunk"):
        getattr(method, name).register_forward_hook(lambda m, x, y, n=name: calls.append((n, len(x[0]))))
    method.request_target_maps(["res5"])
    pairs = method(random_views(4)).pairs
    assert sorted(calls) == [("online_trunk", 4)] * 2 + [("target_trunk", 4)] * 2
    assert [(p.query_view, p.key_view) for p in pairs] == [(0, 1), (1, 0)]
    assert all(p.target_maps["res5"].shape == p.maps["res5"].shape for p in pairs)


def test_maps_and_keys_belong_to_the_right_view() -> None:
    method = _byol().eval()
    method.request_target_maps(["res4"])
    views = random_views(4)
    with torch.no_grad():
        for pair in method(views).pairs:
            torch.testing.assert_close(pair.q, method.encode(views.images[pair.query_view]))
            torch.testing.assert_close(pair.k, method.encode_target(views.images[pair.key_view]))
            maps = method.target_trunk(method.normalize(views.images[pair.key_view]))
            torch.testing.assert_close(pair.target_maps["res4"], maps["res4"])


def test_freezing_the_norms_of_the_target() -> None:
    method, images = _byol(), random_views(4).images[0]
    before = method.target_trunk.bn1.running_mean.clone()
    frozen = method.encode_target(images, freeze_norm=True)
    assert torch.equal(method.target_trunk.bn1.running_mean, before)
    torch.testing.assert_close(frozen, method.eval().encode_target(images))
    method.train().encode_target(images)
    assert not torch.equal(method.target_trunk.bn1.running_mean, before)


def test_grad_cam_of_a_sample_is_its_own() -> None:
    """A batch-normalised head mixes the samples; the attention loss takes stored statistics instead."""
    method, views = _byol(), random_views(4)
    pair = method(views).pairs[0]
    one = method.embed_alone(pair)[1].sum()
    (gradient,) = torch.autograd.grad(one, pair.pooled, retain_graph=True)
    assert gradient[1].abs().max() > 0 and gradient[[0, 2, 3]].abs().max() == 0
    (mixed,) = torch.autograd.grad(pair.q[1].sum(), pair.pooled, retain_graph=True)
    assert mixed[[0, 2, 3]].abs().max() > 0
    before = [b.clone() for b in method.online_head.buffers()]
    value, log = GradCAMAttention(masked_key_bn="eval")(views, method(views), method)
    value.backward()
    assert method.online_trunk.conv1.weight.grad.abs().max() > 0 and float(log["zero_cam_rate"]) < 1
    # One update of the statistics per view, none for the maps.
    assert int(method.online_head.projector[1].num_batches_tracked) == int(before[2]) + 2


def test_state_continues_bit_for_bit() -> None:
    def run(method: BYOL, seeds: range) -> None:
        for seed in seeds:
            views = random_views(4, 32, seed)
            value, _ = NegativeCosine()(views, method(views), method)
            method.zero_grad()
            value.backward()
            for parameter in method.pretrain_parameters():
                parameter.data -= 0.1 * parameter.grad
            method.after_step(seed)

    methods = [_byol(), _byol(), _byol()]
    for method in methods:
        method.prepare(100, total_steps=4)
    whole, first, second = methods
    run(whole, range(4))
    run(first, range(2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, range(2, 4))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_config_reaches_the_method() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.METHOD", "BYOL", "MODEL.RESNET.DEPTH", 18, "MODEL.NORM", "SyncBN"])
    cfg.merge_from_list(["MODEL.BYOL.HIDDEN", 40, "MODEL.BYOL.DIM", 12, "MODEL.BYOL.TAU", 0.99])
    method = build_method(cfg)
    assert isinstance(method, BYOL) and method.tau == 0.99
    for part, inside in (("projector", 512), ("predictor", 12)):
        layers = list(getattr(method.online_head, part))
        assert [type(m) for m in layers] == [nn.Linear, SyncBN, nn.ReLU, nn.Linear]
        assert (layers[0].in_features, layers[0].out_features, layers[3].out_features) == (inside, 40, 12)
        assert layers[0].bias is None and layers[3].bias is not None


@pytest.mark.parametrize(("key", "value"), [("TAU", 1.5), ("DIM", 0), ("HIDDEN", -1)])
def test_wrong_values_name_their_key(key: str, value: float) -> None:
    cfg = get_cfg()
    cfg.MODEL.METHOD, cfg.MODEL.BYOL[key] = "BYOL", value
    with pytest.raises(ConfigError, match=rf"MODEL.BYOL.{key} is {value}; expected"):
        build_method(cfg)


def test_two_views_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="BYOL takes 2 views of an image, but AUGMENT.VIEWS makes 3"):
        _byol()(random_views(4, num_views=3))
