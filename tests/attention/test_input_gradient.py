"""Input gradients and Grad-CAM of a logit against closed forms and a slow differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.attention import clip_at_percentile, input_gradient, score_grad_cam
from ssl_loc.modeling.backbone.resnet import ResNet


def test_gradient_of_a_linear_and_a_quadratic_score() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 4, 5, generator=generator)
    weight = torch.randn(3, 4, 5, generator=generator)
    linear = input_gradient(lambda x: (x * weight).flatten(1).sum(1), images)
    torch.testing.assert_close(linear, weight.abs().amax(0).expand(2, 4, 5))
    quadratic = input_gradient(lambda x: x.square().flatten(1).sum(1), images)
    torch.testing.assert_close(quadratic, 2 * images.abs().amax(1))


def test_bytes_are_accepted_and_nothing_is_left_behind() -> None:
    net = nn.Conv2d(3, 2, 3)
    images = torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():  # called from inside of an evaluation
        found = input_gradient(lambda x: net(x).mean((1, 2, 3)), images)
    # Each inner pixel is met once by every tap of both filters; 2 x 6 x 6 outputs are averaged.
    expected = net.weight.detach().sum((0, 2, 3)).abs().max() / 72
    torch.testing.assert_close(found[:, 2:-2, 2:-2], expected.expand(2, 4, 4))
    assert not found.requires_grad and net.weight.grad is None


def test_clipping_is_numpys_percentile_per_map() -> None:
    maps = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(1))
    maps[1] *= 1000
    for percentile in (50.0, 99.0, 100.0):
        found = clip_at_percentile(maps, percentile)
        for one, expected in zip(found.numpy(), maps.numpy(), strict=True):
            np.testing.assert_allclose(one, np.minimum(expected / np.percentile(expected, percentile), 1), rtol=1e-5)


def test_sparse_and_empty_maps_are_no_division_by_zero() -> None:
    maps = torch.zeros(2, 20, 20)
    maps[0, 3, 4], maps[0, 5, 6] = 4.0, 1.0  # the 99th percentile of 400 values of which 2 are not zero is 0
    found = clip_at_percentile(maps)
    assert found[0, 3, 4] == 1 and found[0, 5, 6] == 0.25 and found[0].sum() == 1.25
    assert not found[1].any()
    assert clip_at_percentile(torch.zeros(0, 4, 4)).shape == (0, 4, 4)


def trunk() -> ResNet:
    torch.manual_seed(0)
    return ResNet(depth=18, width=8).eval().requires_grad_(False)


def test_grad_cam_of_a_logit_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: W_c . A, here rectified."""
    net, weight = trunk(), torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 3, 64, 64)
    found, pooled = score_grad_cam(net, x, lambda z: (z @ weight.T)[:, 3])
    maps = net(x)["res5"]
    torch.testing.assert_close(found, F.relu((weight[3, :, None, None] * maps).sum(1)))
    torch.testing.assert_close(pooled, maps.mean((2, 3)))
    assert not found.requires_grad and not pooled.requires_grad


@pytest.mark.parametrize("layer", ["res3", "res4"])
def test_earlier_levels_of_a_frozen_trunk(layer: str) -> None:
    net, weight = trunk(), torch.randn(64, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 3, 64, 64)

    def score(z: Tensor) -> Tensor:
        return z @ weight

    found = score_grad_cam(net, x, score, layer)[0]
    leaf = x.clone().requires_grad_()
    maps = net(leaf)
    slow = []
    for n in range(2):  # image by image
        gradient = torch.autograd.grad(score(net.pooled(maps))[n], maps[layer], retain_graph=True)[0][n]
        slow.append(F.relu((gradient.sum((1, 2))[:, None, None] * maps[layer][n]).sum(0)))
    torch.testing.assert_close(found, torch.stack(slow).detach(), rtol=1e-4, atol=1e-6)
