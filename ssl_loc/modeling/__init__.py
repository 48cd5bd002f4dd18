"""Trunks, heads and methods."""

from ssl_loc.modeling.backbone import BACKBONE_REGISTRY, Backbone, build_backbone, build_backbone_from_description
from ssl_loc.modeling.head import HEAD_REGISTRY, build_head
from ssl_loc.modeling.method import METHOD_REGISTRY, Method, MoCo, build_method

__all__ = [
    "BACKBONE_REGISTRY",
    "HEAD_REGISTRY",
    "METHOD_REGISTRY",
    "Backbone",
    "Method",
    "MoCo",
    "build_backbone",
    "build_backbone_from_description",
    "build_head",
    "build_method",
]
