"""Trunks that are one chain of layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ssl_loc.modeling.backbone.backbone import Backbone
from ssl_loc.utils.errors import ConfigError

LEVELS = ("res2", "res3", "res4", "res5")


class SequentialBackbone(Backbone):
    """``self.features``, a chain whose maps are taken after four of its layers.

    Args:
        features: the layers; the last convolution before each level tells its channels.
        ends: index behind the last layer of each level, ascending.
        smallest: least image side in px that leaves a cell on the last map.
        kwargs: plain values that rebuild it.
    """

    def __init__(self, features: list[nn.Module], ends: tuple[int, ...], smallest: int, kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self._ends, self._smallest, self._kwargs = dict(zip(LEVELS, ends, strict=True)), smallest, kwargs
        self.channels = {
            level: next(m.out_channels for m in reversed(features[:end]) if isinstance(m, nn.Conv2d))
            for level, end in self._ends.items()
        }
        # Nominal: half the resolution from level to level, as in a ResNet.
        self.strides = {level: 4 * 2**i for i, level in enumerate(LEVELS)}
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                # As torchvision initialises its VGGs; norm layers start at weight 1, bias 0 by themselves.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, h, w) -> {"res2": (N, C2, ~h/4, ~w/4), ..., "res5": (N, C5, ~h/32, ~w/32)}."""
        if min(x.shape[2:]) < self._smallest:
            raise ConfigError(
                f"{type(self).__name__} got images of {x.shape[2]} x {x.shape[3]} px, of which its last map would keep "
                f"nothing; expected at least {self._smallest} px (AUGMENT.SIZE)"
            )
        maps, start = {}, 0
        for level, end in self._ends.items():
            x = self.features[start:end](x)
            maps[level], start = x, end
        return maps

    def stages(self) -> list[list[nn.Module]]:
        starts = (0, *self._ends.values())
        return [list(self.features[a:b]) for a, b in zip(starts, self._ends.values(), strict=False)]

    def describe(self) -> dict[str, Any]:
        return {"name": type(self).__name__, "kwargs": dict(self._kwargs)}
