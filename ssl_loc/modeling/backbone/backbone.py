"""What every trunk promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.precision import full_precision

if TYPE_CHECKING:
    from typing_extensions import Self


class Backbone(nn.Module):
    """A trunk: normalised images (N, 3, h, w) -> maps "res2" .. "res5", each (N, C, h', w').

    A network may have fewer levels, but always "res5", its last map. Where torchvision has the network, the state dict
    is in its names (without classifier), so weights leave the house as they are.

    Attributes:
        channels: channels by level.
        strides: image px per map cell by level; a map can be one cell smaller where a network does not pad.
        frozen_levels: levels that :meth:`freeze` froze.
    """

    channels: dict[str, int]
    strides: dict[str, int]
    frozen_levels: tuple[str, ...] = ()

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        """Global average of the last level: maps -> (N, C) float32, also under autocast."""
        return F.adaptive_avg_pool2d(full_precision(maps["res5"]), 1).flatten(1)

    @property
    def out_channels(self) -> int:
        """Length of the pooled vector."""
        return self.channels["res5"]

    def describe(self) -> dict[str, Any]:
        """``{"name", "kwargs"}``, plain values from which ``build_backbone_from_description`` makes an equal trunk."""
        raise NotImplementedError

    def stages(self) -> list[list[nn.Module]]:
        """The modules that make each level out of the one before, by level; the stem belongs to the first."""
        raise ConfigError(f"{type(self).__name__} does not tell its stages apart; set MODEL.FREEZE_AT 0")

    def freeze(self, count: int) -> None:
        """Keep the first ``count`` stages as they are from now on: no gradient, norm layers use and keep their stored
        statistics, in training mode as well (``MODEL.FREEZE_AT``).

        Raises:
            ConfigError: there are fewer stages.
        """
        stages = self.stages() if count else []
        if not 0 <= count <= len(self.channels):
            raise ConfigError(
                f"MODEL.FREEZE_AT is {count}; expected 0 (off) to {len(self.channels)}, the stages of "
                f"{type(self).__name__} (the stem counts with the first)"
            )
        self.frozen_levels = tuple(self.channels)[:count]
        for module in (module for stage in stages[:count] for module in stage):
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As torch's, but frozen stages stay in evaluation mode."""
        super().train(mode)
        for stage in self.stages()[: len(self.frozen_levels)] if self.frozen_levels else []:
            for module in stage:
                module.eval()
        return self
