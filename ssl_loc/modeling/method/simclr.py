"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import average_split_statistics, make_norm
from ssl_loc.modeling.backbone import Backbone, build_backbone
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.build import METHOD_REGISTRY
from ssl_loc.modeling.method.method import PIXEL_MEAN, PIXEL_STD, Method
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.errors import ConfigError, check_choice

HEAD_BN = ("none", "hidden", "all")


@register_config("MODEL.SIMCLR")
def simclr_config() -> CfgNode:
    node = CfgNode()
    # Length of the embedding.
    node.DIM = 128
    # Hidden units of the projector; 0 = as many as the trunk puts out (SimCLR paper: 2048 with ResNet-50).
    node.HIDDEN = 0
    # Batch normalisation (of kind MODEL.NORM) in the projector: "none" (as the paper's text and OpenMixup have it),
    # after its "hidden" layer, or after "all" layers (the authors' code).
    node.HEAD_BN = "hidden"
    # Temperature.
    node.T = 0.1
    return node


@METHOD_REGISTRY.register()
class SimCLR(Method):
    """Both views through one network; every other view of the global batch is a negative (loss NTXent).

    Symbols of the paper: encoder f = trunk, projector g = head, z = g(f(x)) normalised. Both views make one batch of 2N
    images, so norm statistics are those of both. There is no target network: its place is taken by the network itself
    without gradient.

    Args:
        trunk: (2N, 3, h, w) -> maps.
        head: (2N, trunk.out_channels) -> (2N, D).
        temperature: tau > 0.
        pixel_mean, pixel_std: RGB, 0..255.
    """

    gives = frozenset({"both_directions"})

    def __init__(
        self,
        trunk: Backbone,
        head: nn.Module,
        temperature: float = 0.1,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        _check(temperature)
        self.online_trunk, self.online_head, self.temperature = trunk, head, temperature

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SIMCLR
        _check(node.T, node.DIM, node.HIDDEN)  # before anything is built with them
        kind = check_choice("MODEL.SIMCLR.HEAD_BN", node.HEAD_BN, HEAD_BN)
        trunk = build_backbone(cfg)
        norm = None if kind == "none" else make_norm(cfg.MODEL.NORM, cfg.MODEL.NORM_GROUPS)
        options = {"hidden_channels": node.HIDDEN, "norm": norm, "norm_out": kind == "all"}
        return {
            "trunk": trunk,
            "head": build_head("bn_mlp", trunk.out_channels, node.DIM, **options),
            "temperature": node.T,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, views: Views) -> MethodOutput:
        """Two pairs: each view against the other."""
        self.check_views(views.num_views)
        n = views.batch_size
        maps = self.online_trunk(self.normalize(torch.cat(views.images)))
        masks = [mask for v in (0, 1) if (mask := self.pool_mask(views, v)) is not None]
        # Cut before the head and joined again, so that Grad-CAM can differentiate with respect to one view's vectors.
        pooled = self.pool(self.online_trunk, maps, torch.cat(masks) if masks else None).split(n)
        z = self.embed(torch.cat(pooled)).split(n)
        halves = [{level: value[view * n : (view + 1) * n] for level, value in maps.items()} for view in (0, 1)]
        pairs = [Pair(a, b, z[a], z[b].detach(), self.temperature, pooled[a], halves[a]) for a, b in ((0, 1), (1, 0))]
        return MethodOutput(pairs)

    def after_step(self, iteration: int) -> None:
        average_split_statistics(self)

    def trunk(self) -> Backbone:
        return self.online_trunk

    def head(self) -> nn.Module:
        return self.online_head


def _check(temperature: float, dim: int = 1, hidden: int = 0) -> None:
    wrong = {
        "T": temperature <= 0 and (temperature, "a number > 0"),
        "DIM": dim < 1 and (dim, "a number >= 1"),
        "HIDDEN": hidden < 0 and (hidden, "a number >= 0"),
    }
    for key, problem in wrong.items():
        if problem:
            raise ConfigError(f"MODEL.SIMCLR.{key} is {problem[0]}; expected {problem[1]}")
