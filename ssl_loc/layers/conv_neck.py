"""A projector that keeps positions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn


def conv_neck(
    in_channels: int, hidden: int, out_channels: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Sequential:
    """1x1 convolution - norm - ReLU - 1x1 convolution: (N, in_channels, h, w) -> (N, out_channels, h, w).

    The MLP of BYOL's projector applied at every position (CVSA paper, section 3.2). The first convolution has no bias,
    which the norm would take away.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, hidden, 1, bias=False),
            bn1=norm(hidden),
            relu=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(hidden, out_channels, 1),
        )
    )
