"""Self-supervised methods, one file each."""

from ssl_loc.modeling.method.build import METHOD_REGISTRY, build_method
from ssl_loc.modeling.method.byol import BYOL  # registers
from ssl_loc.modeling.method.instdisc import InstDisc  # registers
from ssl_loc.modeling.method.method import Method
from ssl_loc.modeling.method.moco import MoCo  # registers
from ssl_loc.modeling.method.simclr import SimCLR  # registers

__all__ = ["BYOL", "InstDisc", "METHOD_REGISTRY", "Method", "MoCo", "SimCLR", "build_method"]
