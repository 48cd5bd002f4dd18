"""Registry of heads."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_loc.utils.registry import Registry

HEAD_REGISTRY = Registry("HEAD")
HEAD_REGISTRY.__doc__ = """
Heads by name: ``head(in_channels, out_channels, **options) -> nn.Module`` that maps (N, in_channels) -> (N,
out_channels); every option has a default. They run in float32 and are never compiled, since Grad-CAM differentiates
through them twice.
"""


def build_head(name: str, in_channels: int, out_channels: int, **options: Any) -> nn.Module:
    """The registered head ``name``."""
    return HEAD_REGISTRY.get(name)(in_channels, out_channels, **options)
