"""Where a network looks: maps from a similarity or a logit. Used by losses, evaluation and pictures."""

from ssl_loc.attention.grad_cam import (
    activation_weights,
    grad_cam,
    normalize_cam,
    pooled_weights,
    similarity_grad_cam,
)

__all__ = ["activation_weights", "grad_cam", "normalize_cam", "pooled_weights", "similarity_grad_cam"]
