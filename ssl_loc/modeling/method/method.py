"""What every method promises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.layers.masked_average import masked_average
from ssl_loc.layers.norm import frozen_statistics
from ssl_loc.layers.normalize_pixels import normalize_pixels
from ssl_loc.layers.unit_rows import unit_rows
from ssl_loc.modeling.backbone import Backbone
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.precision import full_precision

# ImageNet, RGB, 0..255 (torchvision).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class Method(nn.Module):
    """Base of registered methods. A subclass implements :meth:`forward`, :meth:`trunk` and :meth:`head`, and with a
    target network :meth:`encode_target` and :meth:`after_step`.

    One optimiser step is: ``forward(views)`` (once, or once per part of an accumulated batch) -> losses -> backward ->
    optimiser -> ``after_step(iteration)``.

    Args:
        pixel_mean, pixel_std: RGB, 0..255.

    Attributes:
        gives: what its pairs carry beyond q, k, pooled and maps: "negatives", "drawn_negatives", "target_map",
            "both_directions", "map_gradient" (see ``METHOD_NEEDS`` of the losses), "predictor" (its queries go through
            one that its keys do not). Compared at build with what the losses need.
        views: how many views of an image it can take, the usual number last; compared at build with AUGMENT.VIEWS.
        settings: (full config key, value) under which it gives something else than by default, so that the matrix of
            mixtures can say so.
        target_levels: levels of the target trunk whose maps the pairs carry (:meth:`request_target_maps`).
        feature_mask_pool: views are pooled over their masks (``MODEL.FEATURE_MASK_POOL``).
    """

    gives: frozenset[str] = frozenset()
    views: ClassVar[tuple[int, ...]] = (2,)
    settings: ClassVar[tuple[tuple[str, Any], ...]] = ()
    feature_mask_pool = False
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, pixel_mean: Sequence[float] = PIXEL_MEAN, pixel_std: Sequence[float] = PIXEL_STD) -> None:
        super().__init__()
        # Not in the state dict: they are settings, and travel in the meta of checkpoints.
        self.register_buffer("pixel_mean", _pixel_constant("MEAN", pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _pixel_constant("STD", pixel_std), persistent=False)
        self.memory_format = torch.contiguous_format
        self.target_levels: tuple[str, ...] = ()

    def forward(self, views: Views) -> MethodOutput:
        """Embed the views; one trunk forward per view."""
        raise NotImplementedError

    def views_problem(self, count: int) -> str:
        """Why the method cannot take ``count`` views of each image, as a sentence; empty where it can."""
        if count in self.views:
            return ""
        takes = f"{' or '.join(str(n) for n in self.views)} view{'s' if self.views[-1] > 1 else ''}"
        return (
            f"{type(self).__name__} takes {takes} of an image, but AUGMENT.VIEWS makes {count}; list as many pipelines "
            "there"
        )

    def check_views(self, count: int) -> None:
        """Raise :class:`ConfigError` unless the method takes ``count`` views of each image."""
        if problem := self.views_problem(count):
            raise ConfigError(problem)

    def trunk(self) -> Backbone:
        """The trained trunk (query or online), the one that is exported."""
        raise NotImplementedError

    def head(self) -> nn.Module:
        """The trained head on top of :meth:`trunk`."""
        raise NotImplementedError

    def encode_target(self, images: Tensor, normalized: bool = False, freeze_norm: bool = False) -> Tensor:
        """Target embedding (N, D) of images (N, 3, h, w), without gradient: what a query is compared with.

        ``normalized``: pixels have been through :meth:`normalize` already. ``freeze_norm``: norm layers use and keep
        their stored statistics.

        Here for methods without a target network, whose target is the trained network itself: its norm layers then
        always use and keep their stored statistics, since these are exported and no other images shall enter them.
        """
        x = images.contiguous(memory_format=self.memory_format) if normalized else self.normalize(images)
        trunk = self.trunk()
        with torch.no_grad(), frozen_statistics(trunk, self.head()):
            return self.embed(trunk.pooled(trunk(x)))

    def after_step(self, iteration: int) -> None:
        """Update what follows the trained network (EMA, queue); once after each optimiser step."""

    def target_momentum(self, iteration: int) -> float:
        """The share of itself that the target keeps in ``after_step(iteration)``; for methods with "target_map".

        Losses with a target of their own (``Loss.ema_pairs``) follow with the same.
        """
        raise NotImplementedError

    def request_target_maps(self, levels: Iterable[str]) -> None:
        """From now on have every pair carry ``target_maps`` at these levels too (losses that compare positions).

        Raises:
            ConfigError: the method keeps no target network.
        """
        if "target_map" not in self.gives:
            raise ConfigError(f"{type(self).__name__} has no target network whose maps a loss could compare with")
        self.target_levels = tuple(sorted({*self.target_levels, *levels}))

    def prepare(self, dataset_size: int, total_steps: int = 0) -> None:
        """Called once before training, on the CPU, with the number of images and the optimiser steps of the whole run.

        What depends on them (a memory bank, a momentum schedule) is made here; warn about settings that do not fit.
        """

    def normalize(self, images: Tensor) -> Tensor:
        """Images (N, 3, h, w), uint8 or float 0..255, -> float32 with mean 0 and std 1 over ImageNet."""
        return normalize_pixels(images, self.pixel_mean, self.pixel_std, self.memory_format)

    def pool_mask(self, views: Views, view: int) -> Tensor | None:
        """What :meth:`pool` takes for a view: its mask (N, 1, h, w) in [0, 1], all ones for images without one; None
        where views are pooled whole."""
        if not self.feature_mask_pool:
            return None
        if views.masks is None:
            return torch.ones_like(views.images[view][:, :1], dtype=torch.float32)
        return (views.masks[view].float() / 255).where(views.has_mask[:, view, None, None, None], 1.0)

    def pool(self, trunk: Backbone, maps: dict[str, Tensor], mask: Tensor | None = None) -> Tensor:
        """Pooled trunk vector (N, C) of a forward's maps, over ``mask`` where there is one."""
        return trunk.pooled(maps) if mask is None else masked_average(maps["res5"], mask)

    def embed(self, pooled: Tensor) -> Tensor:
        """Pooled trunk vector (N, C) -> L2-normalised embedding (N, D), float32 also under autocast."""
        return unit(self.head(), pooled)

    def embed_alone(self, pair: Pair) -> Tensor:
        """Queries (N, D) of ``pair`` of which each depends on its own row of ``pair.pooled`` only, for Grad-CAM.

        They are ``pair.q`` where the head has no batch normalisation. Batch statistics would mix the samples: as they
        take the batch mean out of every hidden unit, the gradients with respect to the pooled vectors would sum to
        nearly 0 over the batch, and half of the maps would come out negative. So such a head is run once more with its
        stored statistics, as it is in evaluation.
        """
        head = self.head()
        if not any(isinstance(m, _BatchNorm) for m in head.modules()):
            return pair.q
        with frozen_statistics(head):
            return self.embed(pair.pooled)

    def encode(self, images: Tensor) -> Tensor:
        """Embedding (N, D) of images (N, 3, h, w), uint8 or float 0..255, by the trained network."""
        trunk = self.trunk()
        return self.embed(trunk.pooled(trunk(self.normalize(images))))

    def similarity(self, q: Tensor, k: Tensor) -> Tensor:
        """Cosine of unit embeddings (N, D), (N, D) -> (N,)."""
        return (q * k).sum(1)

    def pretrain_parameters(self) -> Iterator[nn.Parameter]:
        """What the optimiser trains."""
        return (p for p in self.parameters() if p.requires_grad)

    def use_channels_last(self) -> None:
        """Keep weights and images in NHWC memory from now on; values do not change."""
        self.memory_format = torch.channels_last
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile_trunks(self, backend: str = "inductor") -> None:
        """torch.compile every trunk in place; names in the state dict stay."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.compile(backend=backend)


def unit(head: nn.Module, pooled: Tensor) -> Tensor:
    """L2-normalised output of ``head`` in float32; autocast is off because Grad-CAM differentiates through here."""
    with torch.autocast(pooled.device.type, enabled=False):
        return unit_rows(head(full_precision(pooled)))


def _pixel_constant(name: str, values: Sequence[float]) -> Tensor:
    """MODEL.PIXEL_<name> as (1, 3, 1, 1); nothing is divided by a deviation of 0."""
    numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v) and (v > 0 or name == "MEAN")]
    if len(values) != 3 or len(numbers) != 3:
        kind = "numbers above 0" if name == "STD" else "numbers"
        raise ConfigError(
            f"MODEL.PIXEL_{name} is {list(values)}; expected three {kind} (red, green, blue, in units of 0..255)"
        )
    return torch.tensor([float(v) for v in numbers]).view(1, 3, 1, 1)
