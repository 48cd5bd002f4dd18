"""Losses: pure functions in :mod:`functional`, one file per registered loss, and their weighted sum."""

from ssl_loc.losses import (  # registers
    cross_view_alignment,
    grad_cam_attention,
    info_nce,
    nce,
    negative_cosine,
    nt_xent,
)
from ssl_loc.losses.build import LOSS_REGISTRY, Loss, LossSum, build_losses

__all__ = [
    "LOSS_REGISTRY",
    "Loss",
    "LossSum",
    "build_losses",
    "cross_view_alignment",
    "grad_cam_attention",
    "info_nce",
    "nce",
    "negative_cosine",
    "nt_xent",
]
