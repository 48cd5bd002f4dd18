"""VGG16-BN and AlexNet-BN against torchvision's networks."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from ssl_loc.modeling.backbone.alexnet import AlexNetBN
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.backbone.vgg import VGG16BN
from ssl_loc.utils.errors import ConfigError


def test_vgg_is_torchvisions_to_the_bit() -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        names = torchvision.models.vgg16_bn().state_dict().keys()
    peer = torchvision.models.vgg16_bn(num_classes=1).features
    trunk = VGG16BN()
    assert list(trunk.state_dict()) == [name for name in names if name.startswith("features.")]
    trunk.features.load_state_dict(peer.state_dict())
    x = torch.randn(2, 3, 64, 64)
    maps = trunk(x)
    assert torch.equal(maps["res5"], peer(x))
    assert torch.equal(nn.functional.max_pool2d(maps["res4"], 2), maps["res5"])
    assert {level: tuple(m.shape[1:]) for level, m in maps.items()} == {
        "res2": (256, 16, 16),
        "res3": (512, 8, 8),
        "res4": (512, 4, 4),
        "res5": (512, 2, 2),
    }


def test_alexnet_is_torchvisions_where_norms_do_nothing() -> None:
    """torchvision's alexnet has no norms: with norms that are identities the features must be its own."""
    torch.manual_seed(0)
    peer = torchvision.models.alexnet(num_classes=1).features
    trunk = AlexNetBN(norm=lambda channels: nn.Identity())
    theirs, ours = ([m for m in net if isinstance(m, nn.Conv2d)] for net in (peer, trunk.features))
    for a, b in zip(ours, theirs, strict=True):
        a.load_state_dict(b.state_dict())
    x = torch.randn(2, 3, 224, 224)
    maps = trunk(x)
    assert torch.equal(maps["res5"], peer(x))
    # The last map before the last pooling, and the first before the first.
    assert torch.equal(nn.functional.max_pool2d(maps["res4"], 3, 2), maps["res5"])
    assert torch.equal(peer[:2](x), maps["res2"]) and torch.equal(peer[:5](x), maps["res3"])
    assert {level: tuple(m.shape[1:]) for level, m in maps.items()} == {
        "res2": (64, 55, 55),
        "res3": (192, 27, 27),
        "res4": (256, 13, 13),
        "res5": (256, 6, 6),
    }


def test_alexnet_has_a_norm_after_each_convolution() -> None:
    layers = list(AlexNetBN(width=4).features)
    after = [layers[i + 1] for i, m in enumerate(layers) if isinstance(m, nn.Conv2d)]
    assert len(after) == 5 and all(isinstance(m, nn.BatchNorm2d) for m in after)


@pytest.mark.parametrize(("kind", "smallest"), [(AlexNetBN, 63), (VGG16BN, 32)])
def test_too_small_images(kind: type, smallest: int) -> None:
    trunk = kind(width=2).eval()
    assert trunk(torch.randn(1, 3, smallest, smallest))["res5"].shape[2:] == (1, 1)
    with pytest.raises(ConfigError, match=f"expected at least {smallest} px .AUGMENT.SIZE"):
        trunk(torch.randn(1, 3, smallest, smallest - 1))


@pytest.mark.parametrize("kind", [AlexNetBN, VGG16BN])
def test_wrong_width(kind: type) -> None:
    with pytest.raises(ConfigError, match="WIDTH is 0; expected a number >= 1"):
        kind(width=0)


def test_resnet50_w2_is_the_published_one() -> None:
    """94 M parameters without the classifier, where the plain one has 24 M (SimCLR paper, table 6)."""
    with torch.device("meta"):
        trunk = ResNet(depth=50, width=128)
    count = sum(p.numel() for p in trunk.parameters())
    assert trunk.out_channels == 4096 and trunk.conv1.out_channels == 128
    assert round(count / 1e6) == 94
