"""Grad-CAM of a similarity (CAST paper, section 3.2; Selvaraju et al., "Grad-CAM", ICCV 2017).

Symbols of the CAST paper: A (N, C, h, w) activations, alpha (N, C) their importance summed over positions, G (N, h, w)
the map. Two forms of alpha:

- *activation form*, any layer: alpha_n = sum over i, j of d score_n / dA_{n,:,i,j};
- *pooled form*, the last layer before global average pooling z = mean over i, j of A: there d score / dA_{n,:,i,j} is
  (1 / hw) d score / dz_n at every position, so the sum over positions is exactly d score / dz_n. It differentiates
  through the head only and costs next to nothing.

For a linear head z -> Wz + b, q its L2-normalised output and score s = q . k, alpha = W^T (k - s q) / ||Wz + b||.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_loc.utils.precision import full_precision

# Added to the range in min-max scaling (official CAST code).
MINMAX_EPS = 1e-7
CAM_NORMS = ("relu", "relu_minmax", "minmax_only")


def pooled_weights(scores: Tensor, pooled: Tensor, create_graph: bool = True) -> Tensor:
    """alpha in the pooled form.

    Args:
        scores: (N,), each depending on its own row of ``pooled`` (no batch statistics in the head:
            ``Method.embed_alone``).
        pooled: (N, C), the tensor the head was applied to.
        create_graph: True if a loss on the map is to be trained (second order).

    Returns:
        (N, C) float32.
    """
    gradient = torch.autograd.grad(scores.sum(), pooled, create_graph=create_graph, retain_graph=True)[0]
    return full_precision(gradient)


def activation_weights(scores: Tensor, activations: Tensor, create_graph: bool = True) -> Tensor:
    """alpha in the activation form: scores (N,), activations (N, C, h, w) -> (N, C) float32.

    Between ``activations`` and ``scores`` BatchNorm layers in training mode mix the samples of a batch a little.
    """
    gradient = torch.autograd.grad(scores.sum(), activations, create_graph=create_graph, retain_graph=True)[0]
    return full_precision(gradient).sum((2, 3))


def grad_cam(activations: Tensor, weights: Tensor) -> Tensor:
    """sum over channels of alpha * A, *before* any rectification: (N, C, h, w), (N, C) -> (N, h, w) float32."""
    with torch.autocast(activations.device.type, enabled=False):
        return torch.einsum("nc,nchw->nhw", full_precision(weights), full_precision(activations))


def normalize_cam(cam: Tensor, kind: str = "relu") -> Tensor:
    """Rectify and scale maps (N, h, w).

    ``kind``: "relu" (CAST paper; a cosine needs no scaling), "relu_minmax" (rectified, then scaled to [0, 1] per map)
    or "minmax_only" (what the official CAST code computes: its in-place scaling reaches the map before the ReLU, so
    nothing is rectified; the scaling is applied twice).
    """
    if kind == "relu":
        return cam.relu()
    if kind == "relu_minmax":
        return _minmax(cam.relu())
    if kind == "minmax_only":
        return _minmax(_minmax(cam))
    raise ValueError(f"Grad-CAM normalisation '{kind}' is unknown; expected one of {', '.join(CAM_NORMS)}")


def _minmax(cam: Tensor) -> Tensor:
    flat = cam.flatten(1)
    shifted = flat - flat.amin(1, keepdim=True)
    return (shifted / (shifted.amax(1, keepdim=True) + MINMAX_EPS)).view_as(cam)


class Pooled(Protocol):
    """The part of a trunk that :func:`score_grad_cam` uses."""

    def __call__(self, x: Tensor) -> dict[str, Tensor]: ...

    def pooled(self, maps: dict[str, Tensor]) -> Tensor: ...


class Embedder(Protocol):
    """The part of a method that :func:`similarity_grad_cam` uses."""

    def trunk(self) -> nn.Module: ...

    def normalize(self, images: Tensor) -> Tensor: ...

    def embed(self, pooled: Tensor) -> Tensor: ...

    def similarity(self, q: Tensor, k: Tensor) -> Tensor: ...


def score_grad_cam(
    trunk: Pooled, x: Tensor, score: Callable[[Tensor], Tensor], layer: str = "res5"
) -> tuple[Tensor, Tensor]:
    """Rectified Grad-CAM of any score of the pooled vector, for evaluation and pictures: a similarity or a logit.

    For a linear classifier z -> Wz + b and the logit of class c, alpha is the row W_c, so G is the class activation
    map of Zhou et al. (CVPR 2016), rectified.

    Args:
        trunk: in evaluation mode; its parameters need no gradients.
        x: (N, 3, H, W) normalised images.
        score: pooled vectors (N, C) -> (N,), each depending on its own row.
        layer: "res5" (pooled form) or another level of the trunk (activation form).

    Returns:
        Map (N, h, w) float32 at the resolution of ``layer`` and pooled vectors (N, C), both detached.
    """
    deep = layer != "res5"
    # Parameters may be frozen: the graph down to an earlier level then hangs on the pixels.
    x = x.detach().requires_grad_() if deep else x
    with torch.set_grad_enabled(deep):
        maps = trunk(x)
        pooled = trunk.pooled(maps)
    with torch.enable_grad():
        if deep:
            weights = activation_weights(score(pooled), maps[layer], create_graph=False)
        else:
            pooled = pooled.detach().requires_grad_()
            weights = pooled_weights(score(pooled), pooled, create_graph=False)
    return F.relu(grad_cam(maps[layer].detach(), weights.detach())), pooled.detach()


def similarity_grad_cam(method: Embedder, images: Tensor, key: Tensor, layer: str = "res5") -> Tensor:
    """Rectified Grad-CAM of similarity(query of ``images``, ``key``) for evaluation and pictures.

    Args:
        method: a method in evaluation mode (its norm layers then use stored statistics).
        images: (N, 3, H, W) uint8 or float, 0..255.
        key: (N, D) L2-normalised embeddings to be matched.
        layer: "res5" (pooled form) or another level of the trunk (activation form).

    Returns:
        (N, h, w) float32, detached, at the resolution of ``layer``.
    """

    def score(pooled: Tensor) -> Tensor:
        return method.similarity(method.embed(pooled), key)

    trunk = cast("Pooled", method.trunk())
    return score_grad_cam(trunk, method.normalize(images), score, layer)[0]
