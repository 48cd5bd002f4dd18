"""Self-supervised methods, one file each."""

from ssl_loc.modeling.method import moco  # registers
from ssl_loc.modeling.method.build import METHOD_REGISTRY, build_method
from ssl_loc.modeling.method.method import Method

__all__ = ["METHOD_REGISTRY", "Method", "build_method", "moco"]
