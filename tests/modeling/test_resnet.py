"""ResNet trunks against torchvision's networks."""

from __future__ import annotations

import pytest
import torch
import torchvision

from ssl_loc.modeling import build_backbone_from_description
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.utils.errors import ConfigError, WeightsError


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_names_and_shapes_are_torchvisions(depth: int) -> None:
    peer = {k: v.shape for k, v in getattr(torchvision.models, f"resnet{depth}")().state_dict().items()}
    ours = {k: v.shape for k, v in ResNet(depth=depth).state_dict().items()}
    assert ours == {k: v for k, v in peer.items() if not k.startswith("fc.")}


@pytest.mark.parametrize("depth", [18, 50])
def test_features_are_torchvisions_to_the_bit(depth: int) -> None:
    torch.manual_seed(0)
    peer = getattr(torchvision.models, f"resnet{depth}")()
    trunk = ResNet(depth=depth)
    left = trunk.load_state_dict(peer.state_dict(), strict=False)
    assert left.missing_keys == [] and left.unexpected_keys == ["fc.weight", "fc.bias"]
    x = torch.randn(2, 3, 64, 64)
    peer.fc = torch.nn.Identity()
    for mode in (True, False):
        peer.train(mode), trunk.train(mode)
        maps = trunk(x)
        assert torch.equal(trunk.pooled(maps), peer(x))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (trunk.channels[level], 64 // trunk.strides[level], 64 // trunk.strides[level]) for level in maps
    ]


def test_initialisation_is_torchvisions() -> None:
    """Same distributions: convolutions N(0, 2 / fan_out), norms 1 and 0."""
    torch.manual_seed(0)
    trunk = ResNet(depth=18)
    for name, parameter in trunk.named_parameters():
        if parameter.dim() == 4:
            out, _, h, w = parameter.shape
            assert float(parameter.detach().std()) == pytest.approx((2 / (out * h * w)) ** 0.5, rel=0.05), name
        else:
            assert bool((parameter == (1 if name.endswith("weight") else 0)).all()), name


def test_small_narrow_short() -> None:
    trunk = ResNet(depth=18, width=16, layers=[1, 1, 2, 2], stem="small")
    maps = trunk(torch.randn(2, 3, 96, 96))
    assert {k: v.shape[1:] for k, v in maps.items()} == {
        "res2": (16, 48, 48),
        "res3": (32, 24, 24),
        "res4": (64, 12, 12),
        "res5": (128, 6, 6),
    }
    assert trunk.strides == {"res2": 2, "res3": 4, "res4": 8, "res5": 16} and trunk.out_channels == 128
    assert len(trunk.layer4) == 2
    assert ResNet(depth=18, width=8, block="bottleneck").out_channels == 256


def test_description_rebuilds_it() -> None:
    trunk = ResNet(depth=18, width=16, layers=[1, 1, 2, 2], block="bottleneck", stem="small").eval()
    again = build_backbone_from_description(trunk.describe()).eval()
    again.load_state_dict(trunk.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(trunk(x)["res5"], again(x)["res5"])
    assert again.describe() == trunk.describe()


def test_wrong_descriptions() -> None:
    with pytest.raises(WeightsError, match="expected {'name'"):
        build_backbone_from_description({"depth": 18})
    with pytest.raises(WeightsError, match="cannot be rebuilt.*colour"):
        build_backbone_from_description({"name": "ResNet", "kwargs": {"colour": 3}})
    with pytest.raises(ConfigError, match="did you mean ResNet"):
        build_backbone_from_description({"name": "Resnet", "kwargs": {}})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 19}, "MODEL.RESNET.DEPTH is 19; choices: 18, 34, 50"),
        ({"block": "wide"}, "MODEL.RESNET.BLOCK is 'wide'"),
        ({"stem": "smal"}, "MODEL.RESNET.STEM is 'smal'; did you mean small"),
        ({"layers": [2, 2]}, "expected four numbers"),
        ({"width": 0}, "MODEL.RESNET.WIDTH is 0"),
    ],
)
def test_wrong_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNet(**kwargs)
