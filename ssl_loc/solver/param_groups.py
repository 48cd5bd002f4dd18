"""Which parameters get which weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def param_groups(model: nn.Module, weight_decay: float, weight_decay_norm: float = -1.0) -> list[dict[str, Any]]:
    """Groups of the trainable parameters of ``model``, in the order the model lists them.

    One-dimensional parameters are norm layers' scales and shifts and every bias; they get ``weight_decay_norm``, or
    the common ``weight_decay`` where that is negative (MoCo decays everything; the LARS recipes of SimCLR and BYOL
    exclude them). Two groups at most; "names" tells which parameters a group holds.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if weight_decay_norm < 0 or weight_decay_norm == weight_decay:
        split = [(named, weight_decay)]
    else:
        plain = [(name, p) for name, p in named if p.ndim <= 1]
        split = [([(name, p) for name, p in named if p.ndim > 1], weight_decay), (plain, weight_decay_norm)]
    return [
        {"params": [p for _, p in group], "names": [name for name, _ in group], "weight_decay": decay}
        for group, decay in split
        if group
    ]
