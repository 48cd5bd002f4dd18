"""Any network of timm that gives maps, as a trunk. timm is optional and imported when one is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.modeling.backbone.backbone import Backbone
from ssl_loc.modeling.backbone.build import BACKBONE_REGISTRY
from ssl_loc.utils.errors import ConfigError

LEVELS = ("res2", "res3", "res4", "res5")


@register_config("MODEL.TIMM")
def timm_config() -> CfgNode:
    node = CfgNode()
    # Name in timm (`timm.list_models()`), e.g. convnext_tiny, regnety_004, swin_tiny_patch4_window7_224; always with
    # random weights. Its transformers want AUGMENT.SIZE to be the size they were made for.
    node.NAME = "convnext_tiny"
    return node


@BACKBONE_REGISTRY.register()
class TimmBackbone(Backbone):
    """A network of the package timm by name, randomly initialised.

    Levels: the last four maps that timm gives with ``features_only`` (fewer where it gives fewer), the last one being
    "res5". Plain batch norms are replaced by MODEL.NORM's; other norms stay. The state dict is in timm's names behind
    "net.". Detectors take ResNets only.

    Args:
        norm: channels -> norm layer.
        name: timm's name.

    Raises:
        ConfigError: timm is not installed, or has no such network with maps.
    """

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, name: str = "convnext_tiny") -> None:
        super().__init__()
        self._name = name
        self.net = _create(name)
        _replace_norms(self.net, norm, name)
        info = self.net.feature_info
        channels, strides = info.channels()[-len(LEVELS) :], info.reduction()[-len(LEVELS) :]
        levels = LEVELS[-len(channels) :]
        self.channels = dict(zip(levels, (int(c) for c in channels), strict=True))
        self.strides = dict(zip(levels, (int(s) for s in strides), strict=True))
        # Some transformers put channels last.
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    @classmethod
    def from_config(cls, cfg: CfgNode, norm: Callable[[int], nn.Module]) -> dict[str, Any]:
        return {"norm": norm, "name": cfg.MODEL.TIMM.NAME}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, h, w) -> {"res2": (N, C2, h/s2, w/s2), ..., "res5": ...}."""
        maps = self.net(x)[-len(self.channels) :]
        if self._channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        return dict(zip(self.channels, maps, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"name": "TimmBackbone", "kwargs": {"name": self._name}}


def _create(name: str) -> Any:
    """timm's feature network of that name."""
    try:
        import timm
    except ImportError:
        raise ConfigError(
            "MODEL.BACKBONE.NAME is TimmBackbone, which needs the package timm: pip install timm (or choose another "
            "backbone; tools/list_components.py prints them)"
        ) from None
    if name not in timm.list_models():
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5] if name else []
        raise ConfigError(
            f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} does not have; expected a name of "
            f"timm.list_models(), e.g. {', '.join(near or ['convnext_tiny', 'regnety_004'])}"
        )
    try:
        return timm.create_model(name, pretrained=False, features_only=True)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"MODEL.TIMM.NAME is '{name}', which timm {timm.__version__} cannot give as a network with maps ({error}); "
            "choose another one"
        ) from None


def _replace_norms(net: nn.Module, norm: Callable[[int], nn.Module], name: str) -> None:
    """Put ``norm``'s layers where ``net`` has plain batch norms."""
    for parent in list(net.modules()):
        for key, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                layer: Any = norm(child.num_features)
                layer.load_state_dict(child.state_dict())
                layer.eps, layer.momentum = child.eps, child.momentum
                setattr(parent, key, layer)
            elif isinstance(child, nn.BatchNorm2d) and norm(1).__class__.__name__ not in ("BN", "BatchNorm2d"):
                raise ConfigError(
                    f"MODEL.TIMM.NAME {name} joins norm and activation in one layer ({type(child).__name__}), which "
                    f"{norm(1).__class__.__name__} cannot replace; set MODEL.NORM BN"
                )
