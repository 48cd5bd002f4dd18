"""InstDisc: steps against the algorithm written out, its bank, its draws, its losses, state."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views

from ssl_loc.components import get_cfg
from ssl_loc.layers import make_norm
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.losses.nce import NCE
from ssl_loc.modeling import build_method
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.instdisc import InstDisc
from ssl_loc.utils.errors import ConfigError


def _instdisc(images: int = 10, **kwargs) -> InstDisc:
    torch.manual_seed(0)
    trunk = ResNet(norm=make_norm("BN"), depth=18, width=8, stem="small")
    options = {"dim": 16, "negatives": 7, "temperature": 0.2, **kwargs}
    method = InstDisc(trunk, build_head("linear", trunk.out_channels, 16), **options)
    method.prepare(images)
    return method


def _views(n: int, seed: int, num_views: int = 1):
    views = random_views(n, 32, seed, num_views=num_views)
    views.index = torch.randperm(10, generator=torch.Generator().manual_seed(seed))[:n]
    return views


@pytest.mark.parametrize("kind", ["softmax_nce", "full", "nce"])
def test_steps_of_the_algorithm_written_out(kind: str) -> None:
    """Embed, compare with the bank, SGD, then the step's features enter the bank; in float64."""
    ours = _instdisc(negatives=0 if kind == "full" else 7).double()
    loss_of = NCE().double() if kind == "nce" else InfoNCE()
    f, g, bank, z = copy.deepcopy(ours.online_trunk), copy.deepcopy(ours.online_head), ours.bank.features.clone(), None
    peers = [list(ours.pretrain_parameters()), [*f.parameters(), *g.parameters()]]
    optimizers = [torch.optim.SGD(parameters, 0.1) for parameters in peers]
    for step in range(3):
        views = _views(5, step)
        v = F.normalize(g(f((views.images[0].double() - ours.pixel_mean) / ours.pixel_std)["res5"].mean((2, 3))), dim=1)
        output = ours(views)
        drawn = output.pairs[0].drawn
        expected = 0.0
        if kind != "full" and z is None:
            table = torch.cat([torch.cat([views.index[i : i + 1], drawn[i]])[None] for i in range(5)])
            z = 10 * float(torch.stack([(bank[table[i]] @ v[i].detach() / 0.2).exp() for i in range(5)]).mean())
        for i, own in enumerate(views.index.tolist()):
            score = (bank @ v[i] / 0.2).exp()
            if kind == "full":
                expected -= (score[own] / score.sum()).log() / 5
            elif kind == "softmax_nce":
                expected -= (score[own] / (score[own] + sum(score[j] for j in drawn[i]))).log() / 5
            else:
                noise = 7 / 10
                expected -= (score[own] / z / (score[own] / z + noise)).log() / 5
                expected -= sum((noise / (score[j] / z + noise)).log() for j in drawn[i]) / 5
        value, log = loss_of(views, output, ours)
        torch.testing.assert_close(value, expected)
        if kind != "nce":
            assert log["chance_loss"] == pytest.approx(math.log(10 if kind == "full" else 8))
            assert -1 <= float(log["neg_similarity"]) <= 1
        for optimizer, loss in zip(optimizers, (value, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.after_step(step)
        for i, own in enumerate(views.index.tolist()):
            bank[own] = F.normalize(0.5 * bank[own] + 0.5 * v[i].detach(), dim=0)
    torch.testing.assert_close(ours.bank.features, bank)
    for a, b in zip(*peers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_nothing_is_written_before_the_step_or_in_evaluation() -> None:
    method = _instdisc()
    before = method.bank.features.clone()
    method.eval()(_views(4, 0))
    method.after_step(0)
    assert torch.equal(method.bank.features, before)
    views = _views(4, 0)
    output = method.train()(views)
    assert output.pairs[0].negatives.data_ptr() == method.bank.features.data_ptr(), "no copy in the loss path"
    assert torch.equal(method.bank.features, before)
    method.after_step(1)
    moved = (method.bank.features != before).any(1)
    assert sorted(moved.nonzero().flatten().tolist()) == sorted(views.index.tolist())


def test_accumulated_parts_are_one_batch() -> None:
    """The draws belong to the image, not to its place in the batch; all parts reach the bank."""
    whole, parts, views = _instdisc().eval(), _instdisc().eval(), _views(6, 0)
    pairs = [parts(views.rows(i, i + 2)).pairs[0] for i in (0, 2, 4)]
    assert torch.equal(torch.cat([p.drawn for p in pairs]), whole(views).pairs[0].drawn)
    for method in (whole, parts):
        method.train()
    with torch.no_grad():
        for i in (0, 2, 4):
            parts(views.rows(i, i + 2))
    assert len(parts._pending) == 3
    parts.after_step(0)
    assert (parts.bank.features != whole.bank.features).any(1).sum() == 6


def test_draws_follow_step_seed_and_image() -> None:
    method, views = _instdisc(images=1000, negatives=200), _views(5, 0)
    first = method(views).pairs[0].drawn
    assert torch.equal(method(views).pairs[0].drawn, first)
    method.after_step(0)
    assert not torch.equal(method(views).pairs[0].drawn, first)
    assert not torch.equal(_instdisc(images=1000, negatives=200, seed=1)(views).pairs[0].drawn, first)


def test_own_image_is_left_out_on_request() -> None:
    views = _views(5, 0)
    for exclude in (False, True):
        drawn = _instdisc(negatives=400, exclude_own=exclude)(views).pairs[0].drawn
        own = drawn == views.index[:, None]
        assert bool(own.any()) != exclude
        others = [set(row.tolist()) for row in drawn]
        assert all(len(seen | {i}) == 10 for seen, i in zip(others, views.index.tolist(), strict=True))


def test_state_continues_bit_for_bit() -> None:
    """Bank, step of the draws and the constant Z are in the state."""

    def run(method: InstDisc, loss_of: NCE, seeds: range) -> None:
        for seed in seeds:
            views = _views(4, seed)
            value, _ = loss_of(views, method(views), method)
            method.zero_grad()
            value.backward()
            for parameter in method.pretrain_parameters():
                parameter.data -= 0.1 * parameter.grad
            method.after_step(seed)

    methods, losses = [_instdisc() for _ in range(3)], [NCE() for _ in range(3)]
    run(methods[0], losses[0], range(4))
    run(methods[1], losses[1], range(2))
    for parts in (methods, losses):
        parts[2].load_state_dict(copy.deepcopy(parts[1].state_dict()))
    run(methods[2], losses[2], range(2, 4))
    for whole, _, resumed in (methods, losses):
        pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert int(methods[2].counter.step) == 4 and not bool(losses[2].log_z.isnan())


def test_z_is_kept_from_the_first_training_batch() -> None:
    method, loss_of = _instdisc(), NCE()
    loss_of.eval()(_views(4, 0), method(_views(4, 0)), method)
    assert bool(loss_of.log_z.isnan())
    loss_of.train()(_views(4, 0), method(_views(4, 0)), method)
    first = float(loss_of.log_z)
    loss_of(_views(4, 1), method(_views(4, 1)), method)
    assert float(loss_of.log_z) == first


@pytest.mark.parametrize("num_views", [1, 2])
def test_attention_works_with_one_view_or_two(num_views: int) -> None:
    method, views = _instdisc(), _views(4, 0, num_views)
    losses = LossSum([("InfoNCE", InfoNCE(), 1.0), ("GradCAMAttention", GradCAMAttention(), 3.0)])
    losses.connect(method)
    output = method(views)
    assert (output.pairs[0].query_view, output.pairs[0].key_view) == (0, num_views - 1)
    losses(views, output, method)[0]["GradCAMAttention"].backward()
    assert method.online_trunk.conv1.weight.grad.abs().max() > 0


def test_full_softmax_has_nothing_to_draw() -> None:
    with pytest.raises(
        ConfigError, match="NCE needs negatives drawn from a memory bank, but the method InstDisc has none"
    ):
        NCE().connect(_instdisc(negatives=0))
    NCE().connect(_instdisc())


def test_refusals(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="AUGMENT.VIEWS makes 3"):
        _instdisc()(_views(4, 0, num_views=3))
    with pytest.raises(ConfigError, match="the data set has 1"):
        _instdisc(images=1)
    with caplog.at_level(logging.WARNING):
        _instdisc(images=6)
    assert "draws 7 negatives from a bank of 6 images" in caplog.text


@pytest.mark.parametrize(("key", "value"), [("DIM", 0), ("K", -1), ("M", 1.5), ("T", 0.0)])
def test_wrong_values_name_their_key(key: str, value: float) -> None:
    cfg = get_cfg()
    cfg.MODEL.METHOD, cfg.MODEL.INSTDISC[key] = "InstDisc", value
    with pytest.raises(ConfigError, match=rf"MODEL.INSTDISC.{key} is {value}; expected"):
        build_method(cfg)
