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

from typing import Protocol

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


class Embedder(Protocol):
    """The part of a method that :func:`similarity_grad_cam` uses."""

    def trunk(self) -> nn.Module: ...

    def normalize(self, images: Tensor) -> Tensor: ...

    def embed(self, pooled: Tensor) -> Tensor: ...

    def similarity(self, q: Tensor, k: Tensor) -> Tensor: ...


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
    trunk = method.trunk()
    with torch.set_grad_enabled(layer != "res5"):
        maps = trunk(method.normalize(images))
        pooled = trunk.pooled(maps)  # type: ignore[operator]
    with torch.enable_grad():
        if layer == "res5":
            pooled = pooled.detach().requires_grad_()
        scores = method.similarity(method.embed(pooled), key)
        if layer == "res5":
            weights = pooled_weights(scores, pooled, create_graph=False)
        else:
            weights = activation_weights(scores, maps[layer], create_graph=False)
    return F.relu(grad_cam(maps[layer].detach(), weights.detach()))
