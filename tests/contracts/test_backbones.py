"""Every registered trunk keeps its promises."""

from __future__ import annotations

import inspect

import pytest
import torch

from ssl_loc.components import get_cfg
from ssl_loc.layers import make_norm
from ssl_loc.modeling import BACKBONE_REGISTRY, Backbone, build_backbone, build_backbone_from_description
from ssl_loc.utils.errors import ConfigError

NAMES = BACKBONE_REGISTRY.names()


def _build(name: str, norm: str = "BN") -> Backbone:
    """The backbone, narrow where it has a width."""
    if name == "TimmBackbone":
        pytest.importorskip("timm", reason="timm is an optional extra")
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.NORM, cfg.MODEL.RESNET.DEPTH = name, norm, 18
    cfg.MODEL.VGG16_BN.WIDTH = cfg.MODEL.ALEXNET_BN.WIDTH = 8
    cfg.MODEL.TIMM.NAME = "resnet10t"
    return build_backbone(cfg)


@pytest.mark.parametrize("name", NAMES)
def test_levels_channels_strides(name: str) -> None:
    trunk = _build(name)
    size = 4 * max(trunk.strides.values())
    maps = trunk(torch.randn(2, 3, size, size))
    assert list(maps) == list(trunk.channels) == list(trunk.strides) and "res5" in maps
    for level, value in maps.items():
        side = size // trunk.strides[level]
        assert value.shape[:2] == (2, trunk.channels[level]) and value.shape[2] == value.shape[3], level
        # A network without padding may lose a cell.
        assert side - 1 <= value.shape[2] <= side, level
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_frozen_stages_do_not_move(name: str, count: int) -> None:
    """Bit by bit, weights and statistics; everything behind them does."""
    trunk = _build(name)
    if name == "TimmBackbone":
        with pytest.raises(ConfigError, match="MODEL.FREEZE_AT 0"):
            trunk.freeze(count)
        return
    trunk.freeze(count)
    stages = trunk.stages()
    assert all(not module.training for stage in stages[:count] for module in stage)
    trunk.train()
    assert len(stages) == len(trunk.channels) and trunk.frozen_levels == tuple(trunk.channels)[:count]
    in_stages = [p for stage in stages for module in stage for p in module.parameters()]
    assert {id(p) for p in in_stages} == {id(p) for p in trunk.parameters()}
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    trained = [p for p in trunk.parameters() if p.requires_grad]
    head = torch.nn.Linear(trunk.out_channels, 3)
    optimizer = torch.optim.SGD([*trained, *head.parameters()], lr=0.1)
    # Through the maps of every level, so that each stage that is trained gets a gradient.
    maps = trunk(torch.randn(4, 3, 128, 128) + 1)
    torch.stack([m.square().mean() for m in maps.values()]).sum().add(head(trunk.pooled(maps)).sum()).backward()
    optimizer.step()
    still = {key for key, value in trunk.state_dict().items() if torch.equal(value, before[key])}
    frozen = {id(t) for stage in stages[:count] for m in stage for t in m.state_dict(keep_vars=True).values()}
    assert still == {key for key, value in trunk.state_dict(keep_vars=True).items() if id(value) in frozen}
    trunk.eval().train()
    assert all(not module.training for stage in stages[:count] for module in stage)


def test_freezing_more_stages_than_there_are() -> None:
    with pytest.raises(ConfigError, match="MODEL.FREEZE_AT is 5; expected 0 .off. to 4"):
        _build("ResNet").freeze(5)
