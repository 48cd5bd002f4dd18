"""Alignment of CVSA: a position of one view has a counterpart in the other if, and only if, it is foreground."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.layers import make_norm
from ssl_loc.layers.conv_neck import conv_neck
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.correspondence import LOGITS, REDUCTIONS, alignment_error, correspondence
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.structures.views import resize_mask
from ssl_loc.utils.errors import ConfigError, check_choice
from ssl_loc.utils.precision import full_precision

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method

# Stage of the paper -> level of the trunk.
LEVELS = {3: "res4", 4: "res5"}
RESIZES = ("area", "bilinear")


@register_config("LOSS.CROSS_VIEW_ALIGNMENT")
def cross_view_alignment_config() -> CfgNode:
    node = CfgNode()
    # Weight of L_align beside the contrastive loss; the paper adds them 1 : 1. 0 = not built.
    node.WEIGHT = 1.0
    # Stages of the trunk whose maps are aligned: [4], [3] or [3, 4] (summed); 4 is the last one.
    node.STAGES = [4]
    # A of equation 3: "raw" dot products (paper; saturates easily), "scaled" by 1 / sqrt(DIM), or "cosine" / LOGIT_T.
    node.LOGIT = "raw"
    # Temperature of LOGIT "cosine".
    node.LOGIT_T = 0.2
    # Over the cells of an image: "mean" or "sum" (49 times larger on 7 x 7 maps); the paper does not say.
    node.REDUCTION = "mean"
    # Mask to map size: "area" averages, "bilinear" samples (paper; can miss thin objects).
    node.MASK_RESIZE = "area"
    # Channels of neck and predictor output.
    node.DIM = 256
    # Channels between the two convolutions; 0 = as many as the trunk's last stage (2048 for ResNet-50).
    node.HIDDEN = 0
    return node


@LOSS_REGISTRY.register()
class CrossViewAlignment(Loss):
    """L_align = sum over directed pairs of || d(M_q) - C_qk ||^2 (CVSA paper, equations 3 to 5).

    C_qk (h, w) says how well each position of the query view is found in the key view: the maximum over key positions
    of sigmoid(p_conv(g_conv(z_q)) . g'_conv(z'_k)), where z' and g' belong to the target, which carries no gradient;
    g' follows g with the method's momentum. M_q is the query view's mask, d brings it to the size of the map. Images
    without a mask, or whose query or key mask is empty, have weight 0. A method that compares both ways gives the two
    terms of equation 5, one with a single pair gives the first.

    Works on every method with a target network. Arguments: see the comments of LOSS.CROSS_VIEW_ALIGNMENT. Logs
    "alignment_correspondence" (mean C; near 1 everywhere means saturated logits: take LOGIT scaled),
    "alignment_inside" and "alignment_outside" (mean C on and off the mask) and "alignment_skipped_rate".
    """

    node = "CROSS_VIEW_ALIGNMENT"
    needs = frozenset({"mask", "target_map", "res5"})
    keeps_apart = None
    settings = (("LOSS.CROSS_VIEW_ALIGNMENT.STAGES", [3]), ("LOSS.CROSS_VIEW_ALIGNMENT.STAGES", [3, 4]))

    def __init__(
        self,
        stages: Sequence[int] = (4,),
        logit: str = "raw",
        logit_t: float = 0.2,
        reduction: str = "mean",
        mask_resize: str = "area",
        dim: int = 256,
        hidden: int = 0,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        _check(stages, logit, logit_t, reduction, mask_resize, dim, hidden)
        self.levels = [LEVELS[stage] for stage in stages]
        self.needs = frozenset({"mask", "target_map", *self.levels})
        self.logit, self.logit_t, self.reduction, self.mask_resize = logit, logit_t, reduction, mask_resize
        self.dim, self.hidden, self.norm = dim, hidden, norm
        # Filled by connect(): they depend on the trunk.
        self.necks, self.predictors, self.target_necks = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.LOSS.CROSS_VIEW_ALIGNMENT
        keys = ("STAGES", "LOGIT", "LOGIT_T", "REDUCTION", "MASK_RESIZE", "DIM", "HIDDEN")
        return {**{key.lower(): node[key] for key in keys}, "norm": make_norm(cfg.MODEL.NORM, cfg.MODEL.NORM_GROUPS)}

    def connect(self, method: Method) -> None:
        """Make necks and predictors for the channels of the method's trunk; ask the method for its target's maps."""
        super().connect(method)
        method.request_target_maps(self.levels)
        trunk = method.trunk()
        hidden = self.hidden or trunk.out_channels
        for level in self.levels:
            self.necks[level] = conv_neck(trunk.channels[level], hidden, self.dim, self.norm)
            self.predictors[level] = conv_neck(self.dim, hidden, self.dim, self.norm)
            self.target_necks[level] = copy.deepcopy(self.necks[level]).requires_grad_(False)

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.target_necks[level], self.necks[level]) for level in self.levels]

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        if not self.necks:
            raise RuntimeError("CrossViewAlignment has not met its method; call connect(method) first")
        parts = [self._term(views, pair, level) for pair in output.pairs for level in self.levels]
        values, logs = zip(*parts, strict=True)
        log: dict[str, Tensor | float] = {name: torch.stack([one[name] for one in logs]).mean() for name in logs[0]}
        return (torch.stack(values).sum() if len(values) > 1 else values[0]), log

    def _term(self, views: Views, pair: Pair, level: str) -> tuple[Tensor, dict[str, Tensor]]:
        c = self._correspondence(pair, level)  # (N, h, w)
        sizes = (c.shape[1:], pair.target_maps[level].shape[2:])
        target, key_target = (
            self._mask(views, view, (int(size[0]), int(size[1])))
            for view, size in zip((pair.query_view, pair.key_view), sizes, strict=True)
        )
        valid = views.has_mask[:, pair.query_view] & views.has_mask[:, pair.key_view]
        for mask in (target, key_target):
            valid = valid & (mask.flatten(1).amax(1) > 0)
        loss = alignment_error(c, target, valid, self.reduction)
        return loss, _numbers(c.detach(), target, valid.float())

    def _correspondence(self, pair: Pair, level: str) -> Tensor:
        """C (N, h, w), in float32 also under autocast."""
        with torch.autocast(pair.q.device.type, enabled=False):
            p = self.predictors[level](self.necks[level](full_precision(pair.maps[level])))
            with torch.no_grad():
                t = self.target_necks[level](full_precision(pair.target_maps[level]))
            return correspondence(p, t, self.logit, self.logit_t)

    def _mask(self, views: Views, view: int, size: tuple[int, int]) -> Tensor:
        """Mask of a view at the size of its map: (N, h, w) in [0, 1]."""
        if views.masks is None:
            # Every image of this batch was read without a mask; the loss is 0 but the graph and its collectives stay.
            return views.images[view].new_zeros((views.batch_size, *size), dtype=torch.float32)
        return resize_mask(views.masks[view].float() / 255, size, self.mask_resize)[:, 0]


def _numbers(c: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """For the log: mean correspondence of the images with a mask, on it and off it, and how many have none."""

    def mean(weight: Tensor) -> Tensor:
        weight = weight * valid[:, None, None]
        return (c * weight).sum() / weight.sum().clamp_min(1e-6)

    return {
        "alignment_correspondence": mean(torch.ones_like(target)),
        "alignment_inside": mean(target),
        "alignment_outside": mean(1 - target),
        "alignment_skipped_rate": 1 - valid.mean(),
    }


def _check(
    stages: Sequence[int], logit: str, logit_t: float, reduction: str, mask_resize: str, dim: int, hidden: int
) -> None:
    node = "LOSS.CROSS_VIEW_ALIGNMENT"
    # Compared, neither sorted nor hashed: a yaml may hold words and lists beside numbers.
    if not stages or not all(stage in tuple(LEVELS) for stage in stages) or len(set(stages)) != len(stages):
        raise ConfigError(f"{node}.STAGES is {list(stages)}; choices: [4], [3], [3, 4]")
    check_choice(f"{node}.LOGIT", logit, LOGITS)
    check_choice(f"{node}.REDUCTION", reduction, REDUCTIONS)
    check_choice(f"{node}.MASK_RESIZE", mask_resize, RESIZES)
    wrong = {
        "LOGIT_T": (logit_t, logit_t <= 0, "> 0"),
        "DIM": (dim, dim < 1, ">= 1"),
        "HIDDEN": (hidden, hidden < 0, ">= 0"),
    }
    for key, (value, bad, expected) in wrong.items():
        if bad:
            raise ConfigError(f"{node}.{key} is {value}; expected a number {expected}")
