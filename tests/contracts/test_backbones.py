"""Every registered trunk keeps its promises."""

from __future__ import annotations

import inspect

import pytest
import torch

from ssl_loc.components import get_cfg
from ssl_loc.layers import make_norm
from ssl_loc.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_backbone_from_description

NAMES = BACKBONE_REGISTRY.names()


def _build(name: str, norm: str = "BN") -> Backbone:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.NORM, cfg.MODEL.RESNET.DEPTH = name, norm, 18
    return build_backbone(cfg)


@pytest.mark.parametrize("name", NAMES)
def test_levels_channels_strides(name: str) -> None:
    trunk = _build(name)
    size = 4 * max(trunk.strides.values())
    maps = trunk(torch.randn(2, 3, size, size))
    assert list(maps) == list(trunk.channels) == list(trunk.strides) and "res5" in maps
    for level, value in maps.items():
        side = size // trunk.strides[level]
        assert value.shape == (2, trunk.channels[level], side, side), level
    assert trunk.pooled(maps).shape == (2, trunk.out_channels) and trunk.pooled(maps).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_description_is_plain_and_rebuilds(name: str) -> None:
    trunk = _build(name)
    description = trunk.describe()
    assert description["name"] == name and eval(repr(description)) == description  # plain values only
    other = build_backbone_from_description(description, norm="FrozenBN")
    other.load_state_dict(trunk.state_dict())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["SplitBN", "SyncBN", "FrozenBN"])
def test_norm_is_injected_everywhere(name: str, norm: str) -> None:
    layer = make_norm(norm)
    wanted = getattr(layer, "func", layer)
    norms = [m for m in _build(name, norm).modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(type(m) is wanted for m in norms)


@pytest.mark.parametrize("name", NAMES)
def test_documented(name: str) -> None:
    assert inspect.getdoc(BACKBONE_REGISTRY.get(name))
