"""Which method, augmenters and losses work together, from what each of them declares."""

from ssl_loc.compatibility.matrix import Cell, Limit, Matrix

__all__ = ["Cell", "Limit", "Matrix"]
