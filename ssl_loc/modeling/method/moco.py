"""MoCo v1 and v2 (He et al., CVPR 2020; Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import (
    FeatureQueue,
    ShuffleBN,
    average_split_statistics,
    ema_update,
    frozen_statistics,
    needs_shuffle,
)
from ssl_loc.modeling.backbone import Backbone, build_backbone
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.build import METHOD_REGISTRY
from ssl_loc.modeling.method.method import PIXEL_MEAN, PIXEL_STD, Method, unit
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.comm import all_gather
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.precision import full_precision

logger = logging.getLogger(__name__)
# A queue longer than this share of the data set holds many keys of the query's own image from the previous epoch.
QUEUE_SHARE = 0.5


@register_config("MODEL.MOCO")
def moco_config() -> CfgNode:
    node = CfgNode()
    # Projection head: "linear" (v1) or "mlp" (v2).
    node.HEAD = "linear"
    # Length of the embedding.
    node.DIM = 128
    # Keys in the queue; any number works with any batch.
    node.K = 65536
    # Momentum m of the key encoder per update.
    node.M = 0.999
    # Temperature: 0.07 (v1), 0.2 (v2).
    node.T = 0.07
    # Shuffle the global batch before the key encoder, where its norm layers see less than the global batch.
    node.SHUFFLE_BN = True
    # Momentum updates per optimiser step; the official CAST code makes 2 (an effective m squared).
    node.MOMENTUM_UPDATES_PER_STEP = 1
    return node


@METHOD_REGISTRY.register()
class MoCo(Method):
    """Momentum contrast.

    Symbols of the paper: f_q, f_k query and key encoders (trunk + head), q (N, D) queries, k (N, D) keys, queue (D, K),
    tau temperature, m momentum.

    Args:
        trunk: query trunk; the key trunk starts as a copy.
        head: query head, (N, trunk.out_channels) -> (N, dim); likewise.
        dim: D.
        queue_size: K.
        momentum: m in [0, 1].
        temperature: tau > 0.
        shuffle_bn: shuffle-BN where it has an effect (:func:`ssl_loc.layers.needs_shuffle`).
        momentum_updates: EMA updates per step, at least 1.
        seed: of the shuffling.
        pixel_mean, pixel_std: RGB, 0..255.
    """

    gives = frozenset({"negatives", "target_map", "map_gradient"})
    step: Tensor

    def __init__(
        self,
        trunk: Backbone,
        head: nn.Module,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        shuffle_bn: bool = True,
        momentum_updates: int = 1,
        seed: int = 0,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        _check(dim, queue_size, momentum, temperature, momentum_updates)
        self.query_trunk, self.query_head = trunk, head
        self.key_trunk = copy.deepcopy(trunk).requires_grad_(False)
        self.key_head = copy.deepcopy(head).requires_grad_(False)
        self.queue = FeatureQueue(dim, queue_size)
        self.momentum, self.temperature, self.momentum_updates = momentum, temperature, momentum_updates
        self.shuffle = ShuffleBN(seed) if shuffle_bn else None
        # Counts optimiser steps; the shuffling is a function of it, so it is part of the state.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # The same number for the CPU; None = read it from the buffer (which stalls a GPU) after weights were loaded.
        self._step_number: int | None = 0
        self.register_load_state_dict_post_hook(_forget_step_number)
        self._pending: list[Tensor] = []

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.MOCO
        _check(node.DIM, node.K, node.M, node.T, node.MOMENTUM_UPDATES_PER_STEP)  # before anything is built with them
        trunk = build_backbone(cfg)
        return {
            "trunk": trunk,
            "head": build_head(node.HEAD, trunk.out_channels, node.DIM),
            "dim": node.DIM,
            "queue_size": node.K,
            "momentum": node.M,
            "temperature": node.T,
            "shuffle_bn": node.SHUFFLE_BN,
            "momentum_updates": node.MOMENTUM_UPDATES_PER_STEP,
            "seed": cfg.SEED,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, views: Views) -> MethodOutput:
        """Queries from view 0, keys from view 1."""
        self.check_views(views.num_views)
        maps = self.query_trunk(self.normalize(views.images[0]))
        z = self.pool(self.query_trunk, maps, self.pool_mask(views, 0))  # (N, C)
        q = self.embed(z)  # (N, D)
        images, mask = views.images[1], self.pool_mask(views, 1)
        if mask is not None:
            # Shuffling moves images, so the mask travels as their fourth channel.
            images = torch.cat([images.float(), mask], 1)
        k, target_maps = self._key_and_maps(images)  # (N, D) and maps, no gradient
        if self.training:
            # Enqueued in after_step: the losses read the queue itself, not a copy.
            self._pending.append(k)
        pair = Pair(0, 1, q, k, self.temperature, z, maps, negatives=self.queue.features, target_maps=target_maps)
        return MethodOutput([pair], {"queue_real_share": self.queue.real_share()})

    def target_momentum(self, iteration: int) -> float:
        # n updates towards the same weights are one with m^n.
        return self.momentum**self.momentum_updates

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        """f_k <- m f_k + (1 - m) f_q, then the keys of the step replace the oldest ones.

        The MoCo code updates f_k before the key forward of the next step, with the same weights: the same trajectory.
        """
        momentum = self.target_momentum(iteration)
        ema_update(self.key_trunk, self.query_trunk, momentum)
        ema_update(self.key_head, self.query_head, momentum)
        if self._pending:
            self.queue.enqueue(all_gather(torch.cat(self._pending)))
            self._pending.clear()
        average_split_statistics(self)
        self._step_number = self._current_step() + 1
        self.step.fill_(self._step_number)

    def encode_target(self, images: Tensor, normalized: bool = False, freeze_norm: bool = False) -> Tensor:
        return self._encode_key(images, salt=1, normalized=normalized, freeze_norm=freeze_norm)

    def trunk(self) -> Backbone:
        return self.query_trunk

    def head(self) -> nn.Module:
        return self.query_head

    def prepare(self, dataset_size: int, total_steps: int = 0) -> None:
        limit = int(dataset_size * QUEUE_SHARE)
        if self.queue.size > limit:
            logger.warning(
                "MODEL.MOCO.K is %d, more than half of the %d training images: the queue then holds keys of a query's "
                "own image as negatives. Suggested: MODEL.MOCO.K %d or less.",
                self.queue.size,
                dataset_size,
                max(1, limit),
            )

    @torch.no_grad()
    def _key_and_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Keys and the requested maps of the key trunk, from one forward."""
        if not self.target_levels:
            return self._encode_key(images, salt=0), {}
        shapes: dict[str, torch.Size] = {}
        # Shuffling gives rows back in their order, so the maps travel as more columns of the keys.
        rows = self._encode_key(images, salt=0, map_shapes=shapes)
        sizes = [shape.numel() for shape in shapes.values()]
        k, *columns = rows.split([rows.shape[1] - sum(sizes), *sizes], 1)
        maps = {level: part.reshape(len(part), *shapes[level]) for level, part in zip(shapes, columns, strict=True)}
        return k.contiguous(), maps

    @torch.no_grad()
    def _encode_key(
        self,
        images: Tensor,
        salt: int,
        normalized: bool = False,
        freeze_norm: bool = False,
        map_shapes: dict[str, torch.Size] | None = None,
    ) -> Tensor:
        """f_k with shuffle-BN. ``salt`` tells the key batches of one step apart.

        With ``map_shapes`` the flattened maps of ``target_levels`` follow each key, and their (C, h, w) is put there.
        """

        def encoder(x: Tensor) -> Tensor:
            x, mask = x[:, :3], x[:, 3:] if x.shape[1] > 3 else None
            x = x.contiguous(memory_format=self.memory_format) if normalized else self.normalize(x)
            maps = self.key_trunk(x)
            keys = unit(self.key_head, self.pool(self.key_trunk, maps, mask))
            if map_shapes is None:
                return keys
            map_shapes.update({level: maps[level].shape[1:] for level in self.target_levels})
            return torch.cat([keys, *(full_precision(maps[level]).flatten(1) for level in self.target_levels)], 1)

        if not self.training or freeze_norm:
            with frozen_statistics(self.key_trunk, self.key_head):
                return encoder(images)
        if self.shuffle is None or not needs_shuffle(self.key_trunk):
            return encoder(images)
        # Pixels are shuffled before they are normalised: bytes are cheaper to gather than floats.
        return self.shuffle(encoder, images, self._current_step(), salt)

    def _current_step(self) -> int:
        if self._step_number is None:
            self._step_number = int(self.step)
        return self._step_number


def _forget_step_number(method: MoCo, incompatible_keys: Any) -> None:
    method._step_number = None


def _check(dim: int, queue_size: int, momentum: float, temperature: float, momentum_updates: int) -> None:
    wrong = {
        "DIM": dim < 1 and (dim, "a number >= 1"),
        "K": queue_size < 1 and (queue_size, "a number of keys >= 1"),
        "M": not 0 <= momentum <= 1 and (momentum, "a number in [0, 1]"),
        "T": temperature <= 0 and (temperature, "a number > 0"),
        "MOMENTUM_UPDATES_PER_STEP": momentum_updates < 1 and (momentum_updates, "a number >= 1"),
    }
    for key, problem in wrong.items():
        if problem:
            raise ConfigError(f"MODEL.MOCO.{key} is {problem[0]}; expected {problem[1]}")
