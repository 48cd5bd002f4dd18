"""BYOL (Grill et al., "Bootstrap your own latent", NeurIPS 2020)."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import average_split_statistics, ema_update, frozen_statistics, make_norm
from ssl_loc.modeling.backbone import Backbone, build_backbone
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.build import METHOD_REGISTRY
from ssl_loc.modeling.method.method import PIXEL_MEAN, PIXEL_STD, Method, unit
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.errors import ConfigError


@register_config("MODEL.BYOL")
def byol_config() -> CfgNode:
    node = CfgNode()
    # Length of projection and prediction.
    node.DIM = 256
    # Hidden units of projector and predictor (Linear - BN - ReLU - Linear each, BN of kind MODEL.NORM).
    node.HIDDEN = 4096
    # tau_base: share of itself that the target keeps at the first step; it grows to 1 by a cosine over the run. BYOL
    # paper: .996 for 1000 epochs, .99 for 300 and 100.
    node.TAU = 0.996
    # Average the running statistics of the norm layers as well, instead of leaving the target those of its own forwards
    # (BYOL code).
    node.BUFFERS_EMA = False
    return node


@METHOD_REGISTRY.register()
class BYOL(Method):
    """The online network predicts, from one view, the target network's projection of the other; no negatives.

    Symbols of the paper: online network = trunk f, projector g, predictor p with q = p(g(f(v))); target network = trunk
    and projector with averaged weights, k = g'(f'(v')). Both directions, hence two pairs; each network sees each view
    once, one view at a time (as in the BYOL code, so norm statistics are those of one view).

    Args:
        trunk: online trunk; the target's starts as a copy.
        projector: (N, trunk.out_channels) -> (N, D); likewise.
        predictor: (N, D) -> (N, D), online only.
        tau: momentum of the target at the first step, in [0, 1].
        buffers_ema: average buffers too.
        pixel_mean, pixel_std: RGB, 0..255.
    """

    gives = frozenset({"target_map", "both_directions", "map_gradient", "predictor"})

    def __init__(
        self,
        trunk: Backbone,
        projector: nn.Module,
        predictor: nn.Module,
        tau: float = 0.996,
        buffers_ema: bool = False,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        _check(tau=tau)
        self.online_trunk = trunk
        self.online_head = nn.Sequential(OrderedDict(projector=projector, predictor=predictor))
        self.target_trunk = copy.deepcopy(trunk).requires_grad_(False)
        self.target_projector = copy.deepcopy(projector).requires_grad_(False)
        self.tau, self.buffers_ema = tau, buffers_ema
        # Length of the run in optimiser steps; 0 = not known, then tau stays at its base.
        self.total_steps = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.BYOL
        _check(node.TAU, node.DIM, node.HIDDEN)  # before anything is built with them
        trunk = build_backbone(cfg)
        norm = make_norm(cfg.MODEL.NORM, cfg.MODEL.NORM_GROUPS)
        options = {"hidden_channels": node.HIDDEN, "norm": norm}
        return {
            "trunk": trunk,
            "projector": build_head("bn_mlp", trunk.out_channels, node.DIM, **options),
            "predictor": build_head("bn_mlp", node.DIM, node.DIM, **options),
            "tau": node.TAU,
            "buffers_ema": node.BUFFERS_EMA,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, views: Views) -> MethodOutput:
        """Two pairs: predictions of each view against the target's projection of the other."""
        self.check_views(views.num_views)
        images = [self.normalize(x) for x in views.images]
        masks = [self.pool_mask(views, v) for v in (0, 1)]
        online = [self._online(x, mask) for x, mask in zip(images, masks, strict=True)]
        target = [self._target(x, mask) for x, mask in zip(images, masks, strict=True)]
        pairs = [
            Pair(a, b, online[a][0], target[b][0], 1.0, *online[a][1:], target_maps=target[b][1])
            for a, b in ((0, 1), (1, 0))
        ]
        return MethodOutput(pairs)

    def target_momentum(self, iteration: int) -> float:
        return momentum_at(iteration, self.total_steps, self.tau)

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        """target <- tau target + (1 - tau) online."""
        tau = self.target_momentum(iteration)
        ema_update(self.target_trunk, self.online_trunk, tau, self.buffers_ema)
        ema_update(self.target_projector, self.online_head[0], tau, self.buffers_ema)
        average_split_statistics(self)

    def encode_target(self, images: Tensor, normalized: bool = False, freeze_norm: bool = False) -> Tensor:
        x = images.contiguous(memory_format=self.memory_format) if normalized else self.normalize(images)
        if not freeze_norm:
            return self._target(x)[0]
        with frozen_statistics(self.target_trunk, self.target_projector):
            return self._target(x)[0]

    def trunk(self) -> Backbone:
        return self.online_trunk

    def head(self) -> nn.Module:
        """Projector and predictor."""
        return self.online_head

    def prepare(self, dataset_size: int, total_steps: int = 0) -> None:
        self.total_steps = total_steps

    def _online(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Normalised images -> prediction (N, D), pooled vector, maps."""
        maps = self.online_trunk(x)
        pooled = self.pool(self.online_trunk, maps, mask)
        return self.embed(pooled), pooled, maps

    @torch.no_grad()
    def _target(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Normalised images -> projection (N, D), requested maps."""
        maps = self.target_trunk(x)
        k = unit(self.target_projector, self.pool(self.target_trunk, maps, mask))
        return k, {level: maps[level] for level in self.target_levels}


def momentum_at(iteration: int, total: int, base: float) -> float:
    """tau = 1 - (1 - base) (cos(pi k / K) + 1) / 2 after step k of K, 0-based (BYOL paper, section 3.3)."""
    if total <= 0:
        return base
    return 1 - (1 - base) * (math.cos(math.pi * min(iteration, total) / total) + 1) / 2


def _check(tau: float, dim: int = 1, hidden: int = 1) -> None:
    wrong = {
        "TAU": not 0 <= tau <= 1 and (tau, "a number in [0, 1]"),
        "DIM": dim < 1 and (dim, "a number >= 1"),
        "HIDDEN": hidden < 1 and (hidden, "a number >= 1"),
    }
    for key, problem in wrong.items():
        if problem:
            raise ConfigError(f"MODEL.BYOL.{key} is {problem[0]}; expected {problem[1]}")
