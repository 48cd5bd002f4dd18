"""Attention supervision of CAST: the query must be recognised by its salient object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_loc.attention import activation_weights, grad_cam, normalize_cam, pooled_weights
from ssl_loc.attention.grad_cam import CAM_NORMS
from ssl_loc.config import CfgNode, register_config
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.losses.functional import REDUCTIONS, cosine, cosine_attention
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.structures.views import resize_mask
from ssl_loc.utils.errors import check_choice

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method

CHOICES = {
    "SUPERVISION": ("query", "intersection"),
    "LAYER": ("res5", "res4", "res3"),
    "NORM": CAM_NORMS,
    "REDUCTION": REDUCTIONS,
    "MASK_RESIZE": ("area", "point"),
    "MASK_FILL": ("mean", "black"),
    "MASKED_KEY_BN": ("train", "eval"),
}


@register_config("LOSS.GRAD_CAM_ATTENTION")
def grad_cam_attention_config() -> CfgNode:
    node = CfgNode()
    # lambda of the CAST paper: L = L_contrastive + lambda * L_attention. 0 = not built, no masked key is encoded.
    node.WEIGHT = 3.0
    # Target: "query" = saliency inside the query crop (CAST paper), "intersection" = only what the key crop sees too
    # (ablation, CAST paper, table 2d); masks of query and key are then both emptied outside the common region.
    node.SUPERVISION = "query"
    # Trunk level of the map: "res5" (pooled form, nearly free), or "res4", "res3" (gradient through the levels above).
    node.LAYER = "res5"
    # "relu" (paper), "relu_minmax", or "minmax_only" (what the official code computes).
    node.NORM = "relu"
    # "per_sample" (mean of 1 - cos over samples with a mask) or "batch_flat" (one cosine over the batch; the official
    # code does so per GPU).
    node.REDUCTION = "per_sample"
    # Mask to map size: "area" averages, "point" samples (official code; objects under 37 of 224 px can vanish).
    node.MASK_RESIZE = "area"
    # Non-salient pixels of the masked key: "mean" = 0 after normalisation (official code), "black" = 0 before it.
    node.MASK_FILL = "mean"
    # BatchNorm of the key encoder on masked keys: "train" (batch statistics, which also enter its running ones;
    # official code) or "eval" (stored statistics, unchanged).
    node.MASKED_KEY_BN = "train"
    return node


@LOSS_REGISTRY.register()
class GradCAMAttention(Loss):
    """L_att = sum v (1 - cos(G, M_q)) / max(1, sum v) (CAST paper, section 3.2).

    G is the Grad-CAM of the query trunk for q . k_m, where k_m is the target embedding of the key view with everything
    but the salient object masked out. Gradient reaches the query encoder through the activations and through their
    importance alpha (second order). v is 0 for an image without a mask, or whose query or key mask is empty at the
    size of the map (the official code replaces such an image by another).

    Works on every method whose pairs carry ``pooled`` and ``maps`` and that has ``encode_target``. Arguments: see the
    comments of LOSS.GRAD_CAM_ATTENTION. Logs "attention_cosine", "attention_skipped_rate" (v = 0) and
    "zero_cam_rate" (maps without a positive value, of those with v = 1).
    """

    node = "GRAD_CAM_ATTENTION"
    double_backward = True
    keeps_apart = None
    settings = (("LOSS.GRAD_CAM_ATTENTION.LAYER", "res4"), ("LOSS.GRAD_CAM_ATTENTION.LAYER", "res3"))

    def __init__(
        self,
        supervision: str = "query",
        layer: str = "res5",
        norm: str = "relu",
        reduction: str = "per_sample",
        mask_resize: str = "area",
        mask_fill: str = "mean",
        masked_key_bn: str = "train",
    ) -> None:
        super().__init__()
        given = (supervision, layer, norm, reduction, mask_resize, mask_fill, masked_key_bn)
        for (key, choices), value in zip(CHOICES.items(), given, strict=True):
            check_choice(f"LOSS.GRAD_CAM_ATTENTION.{key}", value, choices)
        self.supervision, self.layer, self.norm, self.reduction = supervision, layer, norm, reduction
        self.mask_resize, self.mask_fill, self.masked_key_bn = mask_resize, mask_fill, masked_key_bn
        self.needs = frozenset({"mask", layer} if layer == "res5" else {"mask", layer, "map_gradient"})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        node = cfg.LOSS.GRAD_CAM_ATTENTION
        return {key.lower(): node[key] for key in CHOICES}

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        values, logs = zip(*(self._pair(views, pair, method) for pair in output.pairs), strict=True)
        log: dict[str, Tensor | float] = {name: torch.stack([one[name] for one in logs]).mean() for name in logs[0]}
        return (torch.stack(values).mean() if len(values) > 1 else values[0]), log

    def _pair(self, views: Views, pair: Pair, method: Method) -> tuple[Tensor, dict[str, Tensor]]:
        mask_q, mask_k = self._masks(views, pair)
        k_m = method.encode_target(
            self._masked(method, views.images[pair.key_view], mask_k, views.has_mask[:, pair.key_view]),
            normalized=True,
            freeze_norm=self.masked_key_bn == "eval",
        )
        cam = self._map(pair, method, k_m)  # (N, h, w)
        target, key_target = (
            resize_mask(mask, (cam.shape[1], cam.shape[2]), self.mask_resize)[:, 0] for mask in (mask_q, mask_k)
        )
        seen = [mask.flatten(1).amax(1) > 0 for mask in (target, key_target)]
        has_mask = views.has_mask[:, pair.query_view] & views.has_mask[:, pair.key_view]
        valid = (has_mask & seen[0] & seen[1]).float()  # v: (N,)
        g = normalize_cam(cam, self.norm)
        loss = cosine_attention(g, target, valid, self.reduction)
        with torch.no_grad():
            count = valid.sum().clamp_min(1)
            log = {
                "attention_cosine": (cosine(g.flatten(1), target.flatten(1)) * valid).sum() / count,
                "attention_skipped_rate": 1 - valid.mean(),
                "zero_cam_rate": ((cam.flatten(1).amax(1) <= 0) * valid).sum() / count,
            }
        return loss, log

    def _masks(self, views: Views, pair: Pair) -> tuple[Tensor, Tensor]:
        """Masks of query and key (N, 1, h, w) in [0, 1]."""
        a, b = pair.query_view, pair.key_view
        if views.masks is None:
            # Every image of this batch was read without a mask; the loss is 0 but the graph and its collectives stay.
            mask_q, mask_k = (torch.zeros_like(views.images[v][:, :1], dtype=torch.float32) for v in (a, b))
        else:
            mask_q, mask_k = (views.masks[v].float() / 255 for v in (a, b))
        if self.supervision == "intersection":
            mask_q = mask_q * views.overlap(a, b, (mask_q.shape[2], mask_q.shape[3]))
            mask_k = mask_k * views.overlap(b, a, (mask_k.shape[2], mask_k.shape[3]))
        return mask_q, mask_k

    def _masked(self, method: Method, images: Tensor, mask: Tensor, has_mask: Tensor) -> Tensor:
        """Normalised key images with everything outside ``mask`` filled; images without a mask stay whole."""
        mask = torch.where(has_mask[:, None, None, None], mask, torch.ones_like(mask))
        if self.mask_fill == "black":
            return method.normalize(images.float() * mask)
        return method.normalize(images) * mask

    def _map(self, pair: Pair, method: Method, k_m: Tensor) -> Tensor:
        """Unrectified Grad-CAM (N, h, w) of similarity(q, k_m)."""
        with torch.autocast(pair.q.device.type, enabled=False):
            scores = method.similarity(method.embed_alone(pair), k_m)
            activations = pair.maps[self.layer]
            create_graph = torch.is_grad_enabled()
            if self.layer == "res5":
                weights = pooled_weights(scores, pair.pooled, create_graph)
            else:
                weights = activation_weights(scores, activations, create_graph)
            return grad_cam(activations, weights)
