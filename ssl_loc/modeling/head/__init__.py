"""Heads: pooled vector -> embedding."""

from ssl_loc.modeling.head import bn_mlp, projector  # registers
from ssl_loc.modeling.head.build import HEAD_REGISTRY, build_head

__all__ = ["HEAD_REGISTRY", "bn_mlp", "build_head", "projector"]
