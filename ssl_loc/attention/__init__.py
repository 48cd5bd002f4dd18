"""Where a network looks: maps from a similarity or a logit. Used by losses, evaluation and pictures."""

from ssl_loc.attention.grad_cam import (
    activation_weights,
    grad_cam,
    normalize_cam,
    pooled_weights,
    score_grad_cam,
    similarity_grad_cam,
)
from ssl_loc.attention.input_gradient import clip_at_percentile, input_gradient

__all__ = [
    "activation_weights",
    "clip_at_percentile",
    "grad_cam",
    "input_gradient",
    "normalize_cam",
    "pooled_weights",
    "score_grad_cam",
    "similarity_grad_cam",
]
