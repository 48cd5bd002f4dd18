"""Grad-CAM: the two forms of alpha, their gradients, and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views
from torch import Tensor, nn

from ssl_loc.attention import activation_weights, grad_cam, normalize_cam, pooled_weights, similarity_grad_cam
from ssl_loc.layers import make_norm
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.moco import MoCo

HEADS = ("linear", "mlp")


def _setting(kind: str) -> tuple[Tensor, nn.Module, Tensor]:
    torch.manual_seed(0)
    activations = torch.randn(3, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    head = build_head(kind, 6, 4).double()
    key = F.normalize(torch.randn(3, 4, dtype=torch.float64), dim=1)
    return activations, head, key


def _scores(activations: Tensor, head: nn.Module, key: Tensor) -> tuple[Tensor, Tensor]:
    pooled = activations.mean((2, 3))
    return (F.normalize(head(pooled), dim=1) * key).sum(1), pooled


@pytest.mark.parametrize("kind", HEADS)
def test_pooled_form_equals_activation_form_in_both_orders(kind: str) -> None:
    results = []
    for form in ("pooled", "activation"):
        activations, head, key = _setting(kind)
        scores, pooled = _scores(activations, head, key)
        if form == "pooled":
            alpha = pooled_weights(scores, pooled)
        else:
            alpha = activation_weights(scores, activations)
        cam = grad_cam(activations, alpha)
        # Second order: a loss on the map, through the activations and through alpha.
        cam.relu().square().sum().backward()
        results.append([alpha, cam, activations.grad, *(p.grad for p in head.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_alpha_of_a_linear_head_in_closed_form() -> None:
    activations, head, key = _setting("linear")
    scores, pooled = _scores(activations, head, key)
    y = pooled @ head.weight.T + head.bias
    q = y / y.norm(dim=1, keepdim=True)
    # W^T (k - s q) / ||Wz + b||
    expected = ((key - scores[:, None] * q) / y.norm(dim=1, keepdim=True)) @ head.weight
    torch.testing.assert_close(pooled_weights(scores, pooled), expected)


def test_second_order_by_finite_differences() -> None:
    activations, head, key = _setting("mlp")

    def loss(a: Tensor) -> Tensor:
        scores, pooled = _scores(a, head, key)
        return grad_cam(a, pooled_weights(scores, pooled)).tanh().sum()

    assert torch.autograd.gradcheck(loss, activations[:1].detach().requires_grad_())


def test_scores_of_one_sample_do_not_touch_another() -> None:
    activations, head, key = _setting("linear")
    scores, pooled = _scores(activations, head, key)
    alone = _scores(activations[:1], head, key[:1])
    torch.testing.assert_close(pooled_weights(scores, pooled)[:1], pooled_weights(*alone))


def test_grad_cam_by_hand() -> None:
    activations = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # (1, 2, 1, 2)
    cam = grad_cam(activations, torch.tensor([[2.0, -1.0]]))
    assert cam.tolist() == [[[-1.0, 5.0]]]


def test_normalisations_by_hand() -> None:
    cam = torch.tensor([[[-2.0, 0.0], [1.0, 2.0]]])
    assert normalize_cam(cam, "relu").flatten().tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(normalize_cam(cam, "relu_minmax").flatten(), torch.tensor([0, 0, 0.5, 1]))
    torch.testing.assert_close(normalize_cam(cam, "minmax_only").flatten(), torch.tensor([0, 0.5, 0.75, 1]))
    assert cam.flatten().tolist() == [-2, 0, 1, 2], "nothing happens in place"
    with pytest.raises(ValueError, match="'softmax' is unknown"):
        normalize_cam(cam, "softmax")


@pytest.fixture(scope="module")
def method() -> MoCo:
    torch.manual_seed(0)
    trunk = ResNet(norm=make_norm("BN"), depth=18, width=8, stem="small")
    return MoCo(trunk, build_head("linear", trunk.out_channels, 16), dim=16, queue_size=8).eval()


def test_evaluation_form_against_hooks(method: MoCo) -> None:
    """Classical Grad-CAM with a retained gradient, sample by sample."""
    images = random_views(3, 32).images[0]
    key = method.encode_target(random_views(3, 32).images[1])
    ours = similarity_grad_cam(method, images, key)
    assert ours.shape == (3, 2, 2) and not ours.requires_grad
    for i in range(3):
        maps = method.trunk()(method.normalize(images[i : i + 1]))
        maps["res5"].retain_grad()
        q = method.embed(maps["res5"].mean((2, 3)))
        (q @ key[i]).sum().backward()
        alpha = maps["res5"].grad.sum((2, 3))
        expected = (alpha[:, :, None, None] * maps["res5"]).sum(1).relu()
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-4, atol=1e-6)
    method.zero_grad()


def test_evaluation_form_at_a_lower_level(method: MoCo) -> None:
    views = random_views(2, 32)
    cam = similarity_grad_cam(method, views.images[0], method.encode_target(views.images[1]), layer="res4")
    assert cam.shape == (2, 4, 4) and bool((cam >= 0).all())
    assert all(p.grad is None for p in method.parameters()), "a picture must not leave gradients behind"
