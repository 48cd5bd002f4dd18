"""MoCo: one step against the paper's pseudo-code, queue, EMA, accumulation, processes, state."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views

from ssl_loc import modeling
from ssl_loc.components import get_cfg
from ssl_loc.layers import make_norm
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.modeling import build_method
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.moco import MoCo
from ssl_loc.utils.errors import ConfigError


def _moco(norm: str = "BN", head: str = "linear", groups: int = 2, **kwargs) -> MoCo:
    torch.manual_seed(0)
    trunk = ResNet(norm=make_norm(norm, groups), depth=18, width=8, stem="small")
    options = {"dim": 16, "queue_size": 20, "momentum": 0.9, "temperature": 0.2, **kwargs}
    return MoCo(trunk, build_head(head, trunk.out_channels, 16), **options)


def _cast(reduction: str = "per_sample") -> LossSum:
    return LossSum([("InfoNCE", InfoNCE(), 1.0), ("GradCAMAttention", GradCAMAttention(reduction=reduction), 3.0)])


def test_three_steps_of_the_papers_pseudo_code() -> None:
    """Algorithm 1 of the MoCo paper written out, with plain BatchNorm: losses, both encoders and queue agree."""
    ours = _moco()
    f_q, h_q = copy.deepcopy(ours.query_trunk), copy.deepcopy(ours.query_head)
    f_k, h_k = copy.deepcopy(ours.key_trunk), copy.deepcopy(ours.key_head)
    queue, at = ours.queue.features.clone(), 0
    parameters = [*f_q.parameters(), *h_q.parameters()]
    optimizers = [torch.optim.SGD(p, 0.1, momentum=0.9) for p in (list(ours.pretrain_parameters()), parameters)]
    loss_of = InfoNCE()
    for step in range(3):
        views = random_views(6, 32, seed=step)
        x_q, x_k = ((x.float() - ours.pixel_mean) / ours.pixel_std for x in views.images)
        q = F.normalize(h_q(f_q(x_q)["res5"].mean((2, 3))), dim=1)
        with torch.no_grad():
            k = F.normalize(h_k(f_k(x_k)["res5"].mean((2, 3))), dim=1)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], torch.einsum("nc,ck->nk", q, queue)], 1) / 0.2
        expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
        value, log = loss_of(views, output := ours(views), ours)
        torch.testing.assert_close(value, expected)
        assert float(log["pretext_accuracy"]) == float((logits.argmax(1) == 0).float().mean())
        assert float(output.log["queue_real_share"]) == pytest.approx(min(1, 6 * step / 20))
        for optimizer, loss in zip(optimizers, (value, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.after_step(step)
        for a, b in zip([*f_k.parameters(), *h_k.parameters()], parameters, strict=True):
            a.data = 0.9 * a.data + 0.1 * b.data
        for key in k:
            queue[:, at] = key
            at = (at + 1) % 20
    torch.testing.assert_close(ours.queue.features, queue, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours.key_trunk.parameters(), f_k.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_two_momentum_updates_are_two() -> None:
    once, twice = _moco(momentum_updates=2), _moco()
    for method in (once, twice):
        torch.manual_seed(5)
        for parameter in method.query_trunk.parameters():
            parameter.data += torch.randn_like(parameter)
        method.after_step(0)
    twice.after_step(1)
    for a, b in zip(once.key_trunk.parameters(), twice.key_trunk.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_is_enqueued_before_the_step_or_in_evaluation() -> None:
    method = _moco()
    before = method.queue.features.clone()
    method.eval()(random_views(4))
    method.after_step(0)
    assert torch.equal(method.queue.features, before)
    output = method.train()(random_views(4))
    assert output.pairs[0].negatives.data_ptr() == method.queue.features.data_ptr(), "no copy in the loss path"
    assert torch.equal(method.queue.features, before)
    method.after_step(1)
    assert torch.equal(method.queue.features[:, :4].T, output.pairs[0].k)


def test_accumulated_parts_reach_the_queue_in_order() -> None:
    method = _moco().requires_grad_(False)
    views = random_views(8, 32)
    keys = [method(views.rows(i, i + 2)).pairs[0].k for i in (0, 2, 4, 6)]
    method.after_step(0)
    assert torch.equal(method.queue.features[:, :8].T, torch.cat(keys)) and int(method.queue.filled) == 8


def test_gradient_reaches_only_the_query_encoder() -> None:
    method = _moco()
    views = random_views(4)
    InfoNCE()(views, method(views), method)[0].backward()
    assert all(p.grad is not None for p in [*method.query_trunk.parameters(), *method.query_head.parameters()])
    assert all(p.grad is None for p in [*method.key_trunk.parameters(), *method.key_head.parameters()])
    trained = {id(p) for p in method.pretrain_parameters()}
    assert trained == {id(p) for p in [*method.query_trunk.parameters(), *method.query_head.parameters()]}


@pytest.mark.parametrize("norm", ["BN", "SplitBN"])
def test_state_dict_continues_bit_for_bit(norm: str) -> None:
    """3 steps + reload + 3 steps = 6 steps: queue, pointer and the step that rules the shuffling are in the state."""

    def run(method: MoCo, seeds: range) -> None:
        for seed in seeds:
            views = random_views(4, 32, seed)
            terms, _ = _cast()(views, method(views), method)
            method.zero_grad()
            sum(terms.values()).backward()
            for parameter in method.pretrain_parameters():
                parameter.data -= 0.1 * parameter.grad
            method.after_step(seed)

    whole = _moco(norm)
    run(whole, range(6))
    first, second = _moco(norm), _moco(norm)
    run(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, range(3, 6))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert int(second.step) == 6


def test_shuffling_changes_keys_only_where_it_can() -> None:
    views = random_views(8, 32)
    for norm, differs in (("SplitBN", True), ("BN", False), ("SyncBN", False)):
        on, off = (_moco(norm, shuffle_bn=s)(views).pairs[0].k for s in (True, False))
        assert torch.equal(on, off) != differs, norm
    frozen = (_moco("SplitBN", shuffle_bn=s).encode_target(views.images[0], freeze_norm=True) for s in (True, False))
    assert torch.equal(*frozen)


def test_chance_and_queue_are_visible() -> None:
    method = _moco()
    views = random_views(4)
    _, log = InfoNCE()(views, method(views), method)
    assert log["chance_loss"] == pytest.approx(3.0445, abs=1e-4)  # ln 21
    assert float(method(views).log["queue_real_share"]) == 0


def test_encode_and_channels_last_agree() -> None:
    method = _moco().eval()
    images = random_views(3).images[0]
    q = method.encode(images)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(method.encode(images.float()), q)
    torch.testing.assert_close(method.similarity(q, q), torch.ones(3))
    method.use_channels_last()
    assert method.normalize(images).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(method.encode(images), q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_two_views_are_asked_for(count: int) -> None:
    with pytest.raises(ConfigError, match=f"AUGMENT.VIEWS makes {count}"):
        _moco()(random_views(4, num_views=count))


def test_long_queue_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    method = _moco(queue_size=20)
    with caplog.at_level(logging.WARNING):
        method.prepare(dataset_size=40)
        assert caplog.text == ""
        method.prepare(dataset_size=30)
    assert "MODEL.MOCO.K is 20" in caplog.text and "MODEL.MOCO.K 15 or less" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("DIM", -1), ("K", 0), ("M", 1.5), ("T", 0.0), ("MOMENTUM_UPDATES_PER_STEP", 0)]
)
def test_wrong_values_name_their_key(key: str, value: float) -> None:
    cfg = get_cfg()
    cfg.MODEL.RESNET.DEPTH, cfg.MODEL.MOCO.K = 18, 8
    cfg.MODEL.MOCO[key] = value
    with pytest.raises(ConfigError, match=f"MODEL.MOCO.{key} is {value}; expected"):
        build_method(cfg)


def test_config_reaches_the_method() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.RESNET.DEPTH", "18", "MODEL.MOCO.HEAD", "mlp", "MODEL.MOCO.K", "48", "MODEL.NORM", "BN"]
    )
    cfg.MODEL.CHANNELS_LAST = True
    method = build_method(cfg)
    assert isinstance(method, MoCo) and method.queue.features.shape == (128, 48)
    assert [type(m).__name__ for m in method.head()] == ["Linear", "ReLU", "Linear"]
    assert method.memory_format == torch.channels_last


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MEAN", [1.0, 2.0], "three numbers "),
        ("MEAN", ["a", "b", "c"], "three numbers "),
        ("MEAN", [1.0, 2.0, float("nan")], "three numbers "),
        ("STD", [58.0, 57.0], "three numbers above 0 "),
        ("STD", ["58", "57", "57"], "three numbers above 0 "),
        ("STD", [58.0, 0.0, 57.0], "three numbers above 0 "),
    ],
)
def test_wrong_pixel_statistics_name_their_key(key: str, value: list, expected: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.RESNET.DEPTH, cfg.MODEL.MOCO.K = 18, 8
    cfg.MODEL[f"PIXEL_{key}"] = value
    with pytest.raises(ConfigError, match=rf"^MODEL.PIXEL_{key} is {re.escape(str(value))}; expected {expected}\("):
        build_method(cfg)


def test_projects_find_moco_where_the_methods_are() -> None:
    assert modeling.MoCo is MoCo and modeling.METHOD_REGISTRY.get("MoCo") is MoCo
