"""What a checkpoint says about itself, as plain values."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_loc.config import CfgNode
from ssl_loc.modeling import Method
from ssl_loc.utils.env import versions


def run_metadata(
    cfg: CfgNode, model: nn.Module, method: Method, dataset_size: int, masks: dict[str, Any]
) -> dict[str, Any]:
    """Meta of a run's checkpoints; export hands most of it on.

    Args:
        model: what the checkpoint stores; contains ``method``.
        dataset_size: images the run trains on.
        masks: where the saliency comes from: "source", "uses_labels" and, for maps made by an estimator, its name.
    """
    trunk = method.trunk()
    return {
        "backbone": trunk.describe(),
        "trunk_prefix": _prefix_of(trunk, model),
        "pixel_mean": [float(v) for v in cfg.MODEL.PIXEL_MEAN],
        "pixel_std": [float(v) for v in cfg.MODEL.PIXEL_STD],
        "channel_order": "RGB",
        # torchvision's ResNets stride in the 3x3 convolution; original MSRA weights stride in the 1x1.
        "stride_in_1x1": False,
        "method": cfg.MODEL.METHOD,
        "losses": list(cfg.LOSS.NAMES),
        "dataset": cfg.DATA.TRAIN,
        "dataset_size": dataset_size,
        "mask_source": masks.get("estimator") or masks["source"],
        "masks": dict(masks),
        # Saliency that saw labels makes the pretraining no longer self-supervised: say so with every number.
        "uses_labels": bool(masks["uses_labels"]),
        "init_from": cfg.MODEL.INIT_FROM,
        "versions": versions(),
    }


def _prefix_of(part: nn.Module, whole: nn.Module) -> str:
    """Prefix of ``part``'s tensors in the state dict of ``whole``."""
    for name, module in whole.named_modules():
        if module is part:
            return f"{name}."
    raise ValueError(
        f"{type(part).__name__} is not inside {type(whole).__name__}; trunk() must return a registered module"
    )
