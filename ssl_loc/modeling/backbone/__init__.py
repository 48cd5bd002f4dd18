"""Trunks: networks without heads that give maps at several levels."""

from ssl_loc.modeling.backbone import alexnet, resnet, timm_backbone, vgg  # registers
from ssl_loc.modeling.backbone.backbone import Backbone
from ssl_loc.modeling.backbone.build import BACKBONE_REGISTRY, build_backbone, build_backbone_from_description

__all__ = [
    "BACKBONE_REGISTRY",
    "Backbone",
    "alexnet",
    "build_backbone",
    "build_backbone_from_description",
    "resnet",
    "timm_backbone",
    "vgg",
]
