"""What a checkpoint says about itself, as plain values."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssl_loc.config import CfgNode
from ssl_loc.modeling import Method
from ssl_loc.utils.env import versions


def run_metadata(cfg: CfgNode, model: nn.Module, method: Method, dataset_size: int) -> dict[str, Any]:
    """Meta of a run's checkpoints; export hands most of it on.

    Args:
        model: what the checkpoint stores; contains ``method``.
        dataset_size: images the run trains on.
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
        **mask_origin(cfg),
        "init_from": cfg.MODEL.INIT_FROM,
        "versions": versions(),
    }


def mask_origin(cfg: CfgNode) -> dict[str, Any]:
    """{"mask_source", "uses_labels"}: where the saliency of a run came from, and whether labels went into it."""
    source = cfg.DATA.MASKS.SOURCE
    if source == "folder":
        # Late, so that runs without masks do not depend on the saliency room.
        from ssl_loc.saliency.manifest import read_manifest

        manifest = read_manifest(cfg.DATA.MASKS.ROOT)
        name = f"{manifest.estimator} ({manifest.preset}, version {manifest.version})"
        return {"mask_source": name, "uses_labels": bool(manifest.uses_labels)}
    return {"mask_source": source, "uses_labels": source == "ground_truth"}


def _prefix_of(part: nn.Module, whole: nn.Module) -> str:
    """Prefix of ``part``'s tensors in the state dict of ``whole``."""
    for name, module in whole.named_modules():
        if module is part:
            return f"{name}."
    raise ValueError(
        f"{type(part).__name__} is not inside {type(whole).__name__}; trunk() must return a registered module"
    )
