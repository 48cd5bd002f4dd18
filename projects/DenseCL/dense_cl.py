"""DenseCL (Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", CVPR 2021)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import FeatureQueue, ema_update
from ssl_loc.losses import LOSS_REGISTRY, Loss
from ssl_loc.losses.build import METHOD_NEEDS
from ssl_loc.losses.functional import info_nce
from ssl_loc.modeling import METHOD_REGISTRY, MoCo
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.comm import all_gather

# What DenseContrast needs and DenseCL gives, in the words of the sentence that refuses other mixtures.
METHOD_NEEDS["dense"] = "embeddings of every position and a queue of them"


@register_config("MODEL.DENSE_CL")
def dense_cl_config() -> CfgNode:
    node = CfgNode()
    # Channels between the two 1x1 convolutions of the dense head (official code: 2048, the trunk's width).
    node.HIDDEN = 2048
    # Keys in the dense queue, one pooled key per image (paper, section 3.4); length and momentum are MODEL.MOCO's.
    node.K = 65536
    return node


@register_config("LOSS.DENSE_CONTRAST")
def dense_contrast_config() -> CfgNode:
    node = CfgNode()
    # lambda of equation 3; give LOSS.INFO_NCE.WEIGHT 1 - lambda.
    node.WEIGHT = 0.5
    return node


@dataclass(kw_only=True)
class DensePair(Pair):
    """With r and t, the unit embeddings (N, D, h, w) of the positions of both views, and the dense queue (D, K)."""

    r: Tensor
    t: Tensor
    dense_negatives: Tensor


@METHOD_REGISTRY.register()
class DenseCL(MoCo):
    """MoCo with a second head that keeps positions, and a second queue.

    Args:
        trunk, head, moco: those of :class:`MoCo`.
        dense_hidden: channels inside the dense head.
        dense_queue_size: K of the dense queue.
    """

    gives = MoCo.gives | {"dense"}

    def __init__(
        self, trunk: Any, head: nn.Module, dense_hidden: int = 2048, dense_queue_size: int = 65536, **moco: Any
    ) -> None:
        super().__init__(trunk, head, **moco)
        dim = len(self.queue.features)
        self.dense_head = nn.Sequential(
            nn.Conv2d(trunk.out_channels, dense_hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(dense_hidden, dim, 1)
        )
        self.key_dense_head = copy.deepcopy(self.dense_head).requires_grad_(False)
        self.dense_queue = FeatureQueue(dim, dense_queue_size)
        self._new_keys: list[Tensor] = []
        self.request_target_maps(["res5"])  # from now on every pair carries the key trunk's last map

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.DENSE_CL
        return {**super().from_config(cfg), "dense_hidden": node.HIDDEN, "dense_queue_size": node.K}

    def forward(self, views: Views) -> MethodOutput:
        output = super().forward(views)
        (pair,) = output.pairs
        r = F.normalize(self.dense_head(pair.maps["res5"]), dim=1)
        with torch.no_grad():
            grid = self.key_dense_head(pair.target_maps["res5"])
            if self.training:
                self._new_keys.append(F.normalize(grid.mean((2, 3)), dim=1))
        dense = DensePair(**vars(pair), r=r, t=F.normalize(grid, dim=1), dense_negatives=self.dense_queue.features)
        return MethodOutput([dense], output.log)

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        super().after_step(iteration)
        ema_update(self.key_dense_head, self.dense_head, self.target_momentum(iteration))
        if self._new_keys:
            self.dense_queue.enqueue(all_gather(torch.cat(self._new_keys)))
            self._new_keys.clear()


@LOSS_REGISTRY.register()
class DenseContrast(Loss):
    """InfoNCE of every position with its counterpart in the other view (paper, equation 2).

    The counterpart is the position of the most similar trunk feature (equation 4). Views know where they come from, so
    the log says how often that is right: "dense_match_rate" is the share of positions shown by both views whose
    counterpart is within one cell of the truth.
    """

    node = "DENSE_CONTRAST"
    needs = frozenset({"dense", "res5"})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {}

    def forward(self, views: Views, output: MethodOutput, method: Any) -> tuple[Tensor, dict[str, Tensor | float]]:
        (pair,) = output.pairs
        assert isinstance(pair, DensePair)  # only DenseCL gives "dense"
        with torch.no_grad():
            f, g = (F.normalize(x["res5"].flatten(2), dim=1) for x in (pair.maps, pair.target_maps))
            match = (f.transpose(1, 2) @ g).argmax(2)  # (N, hw): position in the key view
            t = pair.t.flatten(2).gather(2, match[:, None].expand(-1, pair.t.shape[1], -1))
            here, there = (centres(x.shape[2], x.shape[3]).to(match.device) for x in (pair.r, pair.t))
            truth = views.geometry.to_other(pair.query_view, pair.key_view, here.expand(len(match), -1, -1))
            off = (there[match] - truth).abs() * match.new_tensor(pair.t.shape[:1:-1])  # in cells; nan: not shown there
            rate = (off.amax(2) <= 1).sum() / off[..., 0].isfinite().sum().clamp_min(1)
        rows, keys = (x.flatten(2).transpose(1, 2).flatten(0, 1) for x in (pair.r, t))  # (N hw, D)
        result = info_nce(rows, keys, pair.dense_negatives, pair.temperature)
        return result.loss, {"dense_pos_similarity": result.positive.mean(), "dense_match_rate": rate}


def centres(h: int, w: int) -> Tensor:
    """(h w, 2) centres of the cells of a map as (x, y) in [0, 1], row by row."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)
