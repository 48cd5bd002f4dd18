"""InstDisc (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import MemoryBank, average_split_statistics, draw
from ssl_loc.modeling.backbone import Backbone, build_backbone
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.build import METHOD_REGISTRY
from ssl_loc.modeling.method.method import PIXEL_MEAN, PIXEL_STD, Method
from ssl_loc.modeling.method.step_count import StepCount
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)


@register_config("MODEL.INSTDISC")
def instdisc_config() -> CfgNode:
    node = CfgNode()
    # Projection head: "linear" (paper) or "mlp".
    node.HEAD = "linear"
    # Length of the embedding.
    node.DIM = 128
    # Negatives per image, drawn from the memory bank with replacement; 0 = the whole bank (full softmax, for small data
    # sets). Paper: 4096; the authors' later model: 65536.
    node.K = 4096
    # Temperature.
    node.T = 0.07
    # Share of itself that a feature of the bank keeps when its image comes again (paper's code: .5).
    node.M = 0.5
    # Never draw an image as its own negative (the code does, with probability K / n).
    node.EXCLUDE_OWN = False
    return node


@METHOD_REGISTRY.register()
class InstDisc(Method):
    """Every image is a class of its own, whose weights are a running average of its embeddings in a memory bank.

    Symbols of the paper: f = q (N, D) embeddings of view 0, V = bank (n, D), tau temperature; the positive of image i
    is V_i, its negatives are K rows of V. With the loss InfoNCE this is softmax-NCE (or, with K = 0, the full softmax),
    with the loss NCE the paper's noise-contrastive estimation. The draws are a function of seed, step and image. There
    is no target network: where a loss needs an embedding of other images, the network itself gives it without gradient.

    One view is enough; a second one is looked at by losses that compare two views.

    Args:
        trunk: images -> maps.
        head: (N, trunk.out_channels) -> (N, dim).
        dim: D.
        negatives: K; 0 = all.
        temperature: tau > 0.
        momentum: of the bank, in [0, 1].
        exclude_own: no image is its own negative.
        seed: of the draws.
        pixel_mean, pixel_std: RGB, 0..255.
    """

    gives = frozenset({"negatives", "drawn_negatives", "map_gradient"})
    views = (1, 2)
    # The whole bank is not drawn from.
    settings = (("MODEL.INSTDISC.K", 0),)

    def __init__(
        self,
        trunk: Backbone,
        head: nn.Module,
        dim: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        exclude_own: bool = False,
        seed: int = 0,
        pixel_mean: Sequence[float] = PIXEL_MEAN,
        pixel_std: Sequence[float] = PIXEL_STD,
    ) -> None:
        super().__init__(pixel_mean, pixel_std)
        _check(dim, negatives, temperature, momentum)
        self.online_trunk, self.online_head = trunk, head
        self.bank = MemoryBank(dim, momentum)
        self.negatives, self.temperature, self.exclude_own, self.seed = negatives, temperature, exclude_own, seed
        if not negatives:
            self.gives = self.gives - {"drawn_negatives"}
        # The draws are a function of the step, so it is part of the state.
        self.counter = StepCount()
        self._pending: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.INSTDISC
        _check(node.DIM, node.K, node.T, node.M)  # before anything is built with them
        trunk = build_backbone(cfg)
        return {
            "trunk": trunk,
            "head": build_head(node.HEAD, trunk.out_channels, node.DIM),
            "dim": node.DIM,
            "negatives": node.K,
            "temperature": node.T,
            "momentum": node.M,
            "exclude_own": node.EXCLUDE_OWN,
            "seed": cfg.SEED,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def prepare(self, dataset_size: int, total_steps: int = 0) -> None:
        """Make the bank, one row per image."""
        if dataset_size < 2:
            raise ConfigError(f"InstDisc tells images apart, but the data set has {dataset_size}; expected 2 or more")
        if self.negatives > dataset_size:
            logger.warning(
                "MODEL.INSTDISC.K draws %d negatives from a bank of %d images; MODEL.INSTDISC.K 0 takes each once",
                self.negatives,
                dataset_size,
            )
        self.bank.allocate(dataset_size)

    def forward(self, views: Views) -> MethodOutput:
        """One pair: view 0 against the image's own row of the bank."""
        self.check_views(views.num_views)
        if self.bank.size == 0:
            raise ValueError("InstDisc has no memory bank yet; call prepare(dataset_size) first")
        maps = self.online_trunk(self.normalize(views.images[0]))
        pooled = self.pool(self.online_trunk, maps, self.pool_mask(views, 0))
        q = self.embed(pooled)
        if self.training:
            # Written in after_step: the losses read the bank itself, not a copy.
            self._pending.append((views.index, q.detach()))
        pair = Pair(
            *(0, views.num_views - 1, q, self.bank.features[views.index], self.temperature, pooled, maps),
            negatives=self.bank.features.t(),
            drawn=self._draw(views.index) if self.negatives else None,
            own=None if self.negatives else views.index,
        )
        return MethodOutput([pair])

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        """The step's embeddings enter the bank."""
        if self._pending:
            index, features = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
            self.bank.update(index, features)
            self._pending.clear()
        average_split_statistics(self)
        self.counter.advance()

    def trunk(self) -> Backbone:
        return self.online_trunk

    def head(self) -> nn.Module:
        return self.online_head

    def _draw(self, index: Tensor) -> Tensor:
        """Rows of the bank (N, K) that are the negatives of the images ``index``."""
        below = self.bank.size - int(self.exclude_own)
        drawn = draw(self.seed, self.counter.value(), index, self.negatives, below)
        return drawn + (drawn >= index[:, None]).long() if self.exclude_own else drawn


def _check(dim: int, negatives: int, temperature: float, momentum: float) -> None:
    wrong = {
        "DIM": dim < 1 and (dim, "a number >= 1"),
        "K": negatives < 0 and (negatives, "a number of negatives >= 1, or 0 for all images"),
        "T": temperature <= 0 and (temperature, "a number > 0"),
        "M": not 0 <= momentum <= 1 and (momentum, "a number in [0, 1]"),
    }
    for key, problem in wrong.items():
        if problem:
            raise ConfigError(f"MODEL.INSTDISC.{key} is {problem[0]}; expected {problem[1]}")
