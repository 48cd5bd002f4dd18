"""Heads of SimCLR and BYOL: two linear layers with batch normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ssl_loc.layers import SyncBN
from ssl_loc.modeling.head.build import HEAD_REGISTRY


@HEAD_REGISTRY.register(name="bn_mlp")
def bn_mlp_head(
    in_channels: int,
    out_channels: int,
    hidden_channels: int = 0,
    norm: Callable[[int], nn.Module] | None = SyncBN,
    norm_out: bool = False,
) -> nn.Module:
    """Linear - BN - ReLU - Linear (projector and predictor of BYOL; projector of SimCLR), optionally with a last BN.

    A linear layer that a BN follows has no bias, which the BN would take away again.

    Args:
        in_channels, out_channels: of the head.
        hidden_channels: hidden units; 0 = ``in_channels``.
        norm: channels -> norm layer; None leaves all of them out.
        norm_out: also normalise the output.
    """
    hidden = hidden_channels or in_channels
    layers: list[nn.Module] = [nn.Linear(in_channels, hidden, bias=norm is None)]
    if norm is not None:
        layers.append(norm(hidden))
    layers += [nn.ReLU(), nn.Linear(hidden, out_channels, bias=norm is None or not norm_out)]
    if norm is not None and norm_out:
        layers.append(norm(out_channels))
    return nn.Sequential(*layers)
