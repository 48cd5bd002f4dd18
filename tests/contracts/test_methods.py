"""Every registered method keeps its promises, alone and with every registered loss."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from helpers.batches import random_views

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.losses import LOSS_REGISTRY, LossSum, build_losses
from ssl_loc.losses.build import METHOD_NEEDS
from ssl_loc.modeling import HEAD_REGISTRY, METHOD_REGISTRY, Method, build_head, build_method
from ssl_loc.utils.errors import ConfigError

# Images of the imagined data set.
IMAGES = 12
METHODS, LOSSES = METHOD_REGISTRY.names(), LOSS_REGISTRY.names()


def _cfg(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.METHOD", name, "MODEL.RESNET.DEPTH", 18, "MODEL.RESNET.WIDTH", 8, "MODEL.RESNET.STEM", "small"]
        + ["MODEL.MOCO.K", 16, "MODEL.MOCO.DIM", 8, "MODEL.NORM_GROUPS", 2, "DATA.MASKS.SOURCE", "folder"]
        + ["MODEL.BYOL.HIDDEN", 16, "MODEL.BYOL.DIM", 8, "MODEL.SIMCLR.DIM", 8]
        + ["MODEL.INSTDISC.K", 6, "MODEL.INSTDISC.DIM", 8]
    )
    return cfg


def _build(name: str) -> Method:
    torch.manual_seed(0)
    method = build_method(_cfg(name))
    method.prepare(IMAGES, total_steps=10)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_output(name: str) -> None:
    method, views = _build(name), random_views(4)
    output = method(views)
    assert output.pairs
    for pair in output.pairs:
        torch.testing.assert_close(pair.q.norm(dim=1), torch.ones(4))
        torch.testing.assert_close(pair.k.norm(dim=1), torch.ones(4))
        assert pair.q.requires_grad and pair.pooled.requires_grad and pair.maps["res5"].requires_grad
        assert not pair.k.requires_grad and pair.q.dtype == pair.k.dtype == torch.float32
        assert pair.negatives is None or not pair.negatives.requires_grad
        assert pair.query_view != pair.key_view
        assert pair.temperature > 0
        # q comes from the pooled vector: Grad-CAM depends on it.
        assert torch.autograd.grad(pair.q.sum(), pair.pooled, retain_graph=True)[0].shape == pair.pooled.shape
    for pair in method.eval()(views).pairs:
        # It is the uncompiled head that makes it. (In training some heads are batch-normalised over all views.)
        torch.testing.assert_close(method.embed(pair.pooled), pair.q)
        torch.testing.assert_close(method.embed_alone(pair), pair.q)
    assert all(not torch.is_tensor(value) or value.numel() == 1 for value in output.log.values())


@pytest.mark.parametrize("name", METHODS)
def test_encoders_trunk_and_similarity(name: str) -> None:
    method = _build(name).eval()
    images = random_views(4).images[0]
    q, k = method.encode(images), method.encode_target(images)
    assert q.shape == k.shape and not k.requires_grad
    torch.testing.assert_close(method.encode_target(method.normalize(images), normalized=True), k)
    assert method.similarity(q, k).shape == (4,)
    trunk = method.trunk()
    assert trunk.pooled(trunk(method.normalize(images))).shape == (4, trunk.out_channels)
    float_images = images.float()
    torch.testing.assert_close(method.encode(float_images), q)


@pytest.mark.parametrize("name", METHODS)
def test_normalisation_happens_once_and_right(name: str) -> None:
    method = _build(name)
    grey = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    expected = [(128 - 123.675) / 58.395, (128 - 116.28) / 57.12, (128 - 103.53) / 57.375]
    torch.testing.assert_close(method.normalize(grey)[0, :, 0, 0], torch.tensor(expected))


def _meet(name: str, loss: str) -> tuple[Method, LossSum]:
    cfg = _cfg(name)
    cfg.LOSS.NAMES = [loss]
    method, losses = _build(name), build_losses(cfg)
    losses.connect(method)
    return method, losses


def _fits(name: str, loss: str) -> bool:
    return LOSS_REGISTRY.get(loss).needs & set(METHOD_NEEDS) <= METHOD_REGISTRY.get(name).gives


PAIRS = [(name, loss) for name in METHODS for loss in LOSSES]


@pytest.mark.parametrize(("name", "loss"), [pair for pair in PAIRS if _fits(*pair)])
def test_gradient_reaches_the_trunk_and_no_target(name: str, loss: str) -> None:
    (method, losses), views = _meet(name, loss), random_views(4)
    terms, log = losses(views, method(views), method)
    assert list(terms) == [loss] and f"loss/{loss}" in log
    assert all(not torch.is_tensor(value) or (value.numel() == 1 and not value.requires_grad) for value in log.values())
    terms[loss].backward()
    trained = list(method.pretrain_parameters())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in method.trunk().parameters())
    others = {id(p) for p in method.parameters()} - {id(p) for p in trained}
    assert all(p.grad is None for p in method.parameters() if id(p) in others)


@pytest.mark.parametrize(("name", "loss"), [pair for pair in PAIRS if not _fits(*pair)])
def test_what_does_not_fit_stops_at_build(name: str, loss: str) -> None:
    with pytest.raises(ConfigError, match=rf"{loss} needs .*, but the method {name} has none; take {loss} out of"):
        _meet(name, loss)


@pytest.mark.parametrize("name", METHODS)
def test_pooling_over_masks(name: str) -> None:
    """MODEL.FEATURE_MASK_POOL by hand: the trunk's last map averaged over the mask; whole where there is none."""
    method, views = _build(name).eval(), random_views(4)
    plain = [pair.pooled for pair in method(views).pairs]
    method.feature_mask_pool = True
    views.has_mask[1] = False
    views.masks[0][2] = views.masks[1][2] = 0
    for pair, whole in zip(method(views).pairs, plain, strict=True):
        maps, mask = pair.maps["res5"].detach(), views.masks[pair.query_view].float() / 255
        cell = mask.shape[2] // maps.shape[2]
        for i in range(4):
            weights = mask[i, 0].reshape(maps.shape[2], cell, maps.shape[3], cell).mean((1, 3))
            if i in (1, 2):
                expected = whole[i]
            else:
                expected = (maps[i] * weights).sum((1, 2)) / weights.sum()
            torch.testing.assert_close(pair.pooled[i], expected)
        assert not torch.equal(pair.pooled[0], whole[0])
        torch.testing.assert_close(method.embed(pair.pooled), pair.q)


@pytest.mark.parametrize("name", METHODS)
def test_state_dict_is_everything(name: str) -> None:
    """A second method with the state of the first computes the same, before and after a step."""
    first = _build(name)
    first(random_views(4))
    first.after_step(0)
    second = _build(name)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for method in (first, second):
        method(random_views(4, seed=1))
        method.after_step(1)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert all(torch.is_tensor(value) for value in first.state_dict().values())


@pytest.mark.parametrize("name", METHODS)
def test_compiling_touches_trunks_only(name: str) -> None:
    cfg = _cfg(name)
    names = list(build_method(cfg).state_dict())
    cfg.MODEL.COMPILE = True
    method = build_method(cfg)
    assert list(method.state_dict()) == names
    assert method.trunk()._compiled_call_impl is not None and method.head()._compiled_call_impl is None


@pytest.mark.parametrize("name", HEAD_REGISTRY.names())
def test_heads(name: str) -> None:
    assert build_head(name, 6, 4)(torch.randn(3, 6)).shape == (3, 4)


@pytest.mark.parametrize("registry", [METHOD_REGISTRY, LOSS_REGISTRY, HEAD_REGISTRY])
def test_documented(registry) -> None:
    assert len(registry.__doc__) > 80
    for name, item in registry:
        assert inspect.getdoc(item), name


@pytest.mark.parametrize("name", LOSSES)
def test_losses_own_a_weight(name: str) -> None:
    node = LOSS_REGISTRY.get(name).node
    assert "WEIGHT" in get_cfg().LOSS[node], f"LOSS.{node} needs a WEIGHT"
