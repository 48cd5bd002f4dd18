"""Projection heads of MoCo. Neither holds a BatchNorm, so each sample's Grad-CAM depends on that sample alone."""

from __future__ import annotations

from torch import nn

from ssl_loc.modeling.head.build import HEAD_REGISTRY


@HEAD_REGISTRY.register(name="linear")
def linear_head(in_channels: int, out_channels: int) -> nn.Module:
    """One linear layer (MoCo v1; CAST's default)."""
    return nn.Linear(in_channels, out_channels)


@HEAD_REGISTRY.register(name="mlp")
def mlp_head(in_channels: int, out_channels: int) -> nn.Module:
    """Linear - ReLU - Linear with ``in_channels`` hidden units (MoCo v2)."""
    return nn.Sequential(nn.Linear(in_channels, in_channels), nn.ReLU(), nn.Linear(in_channels, out_channels))
