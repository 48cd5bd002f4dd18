"""Networks of timm as trunks; what is said where timm or the network is missing."""

from __future__ import annotations

import sys

import pytest
import torch

from ssl_loc.components import get_cfg
from ssl_loc.modeling import build_backbone, build_backbone_from_description
from ssl_loc.modeling.backbone.timm_backbone import TimmBackbone
from ssl_loc.utils.errors import ConfigError


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "TimmBackbone"
    with pytest.raises(ConfigError, match="needs the package timm: pip install timm"):
        build_backbone(cfg)


def test_levels_and_values() -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    torch.manual_seed(0)
    trunk = TimmBackbone(name="resnet18").eval()
    assert trunk.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    assert trunk.channels == {"res2": 64, "res3": 128, "res4": 256, "res5": 512}
    peer = timm.create_model("resnet18", num_classes=0).eval()
    peer.load_state_dict({key.removeprefix("net."): value for key, value in trunk.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(trunk.pooled(trunk(x)), peer(x))
    again = build_backbone_from_description(trunk.describe(), norm="SplitBN")
    again.load_state_dict(trunk.state_dict())


@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050"])
def test_other_norms_stay(name: str) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    trunk = TimmBackbone(name=name)
    maps = trunk(torch.randn(2, 3, 64, 64))
    assert list(maps)[-1] == "res5" and trunk.strides["res5"] == 32
    assert all(
        m.shape[1:] == (trunk.channels[k], 64 // trunk.strides[k], 64 // trunk.strides[k]) for k, m in maps.items()
    )


def test_wrong_names() -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(ConfigError, match="MODEL.TIMM.NAME is 'resnet_18', which timm .* does not have.*e.g. .*resnet"):
        TimmBackbone(name="resnet_18")
