"""The fast normalisation equals its formula, in every layout and dtype, and leaves its input alone."""

from __future__ import annotations

import pytest
import torch

from ssl_loc.layers.normalize_pixels import normalize_pixels

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("wanted", [torch.contiguous_format, torch.channels_last])
def test_equals_the_formula(dtype: torch.dtype, given: torch.memory_format, wanted: torch.memory_format) -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7)).to(dtype).contiguous(memory_format=given)
    before = images.clone()
    got = normalize_pixels(images, MEAN, STD, wanted)
    assert torch.equal(got, (before.float() - MEAN) / STD)
    assert torch.equal(images, before) and got.is_contiguous(memory_format=wanted)


def test_gradient_and_float64() -> None:
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    got = normalize_pixels(images, MEAN.double(), STD.double())
    got.sum().backward()
    assert got.dtype == torch.float64 and images.grad is not None
    assert torch.allclose(images.grad, (1 / STD.double()).expand_as(images))
