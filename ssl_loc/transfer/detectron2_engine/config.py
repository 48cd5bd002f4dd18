"""From a recipe to detectron2's config: keys copied, the trunk's shape filled in, adapted to this machine."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from ssl_loc.config.node import plain_values
from ssl_loc.transfer.recipe import Recipe, detectron2_values
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)

# Parts of detectron2 that this engine does not set up; a recipe that asks for them must not be run as something else.
_REFUSED = (
    *("MODEL.WEIGHTS", "MODEL.LOAD_PROPOSALS", "MODEL.KEYPOINT_ON", "MODEL.META_ARCHITECTURE", "MODEL.RETINANET."),
    *("MODEL.SEM_SEG_HEAD.", "MODEL.PANOPTIC_FPN.", "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.ROI_BOX_HEAD.USE_FED_LOSS"),
    *(
        "DATASETS.PROPOSAL_FILES_",
        "DATALOADER.SAMPLER_TRAIN",
        "DATALOADER.REPEAT_",
        "TEST.AUG.",
        "TEST.EXPECTED_RESULTS",
    ),
    *("TEST.KEYPOINT_OKS_SIGMAS", "GLOBAL."),
)
# Every key that names a kind of norm layer in the detectors of this engine.
NORM_KEYS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
# torch's SyncBN refuses CPU tensors under DDP; detectron2's own version is an all-reduce and does not.
_SYNCHRONISED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


def to_detectron2(recipe: Recipe) -> CfgNode:
    """All of a recipe's keys but our own in a fresh detectron2 config (unfrozen).

    Raises:
        ConfigError: the recipe asks for a part of detectron2 that this engine does not run, or for a key that the
            installed detectron2 does not have.
    """
    cfg = get_cfg()
    for key, value in detectron2_values(recipe).items():
        changed = plain_values(value) != plain_values(DETECTRON2_DEFAULTS[key])
        if changed and key.startswith(_REFUSED):
            raise ConfigError(
                f"the detectron2 engine of this project does not run {key} {value!r}; leave its default "
                f"({DETECTRON2_DEFAULTS[key]!r})"
            )
        if not _set(cfg, key, value) and changed:
            raise ConfigError(
                f"the installed detectron2 has no key {key} (recipe: {value!r}); update detectron2 or leave the default"
            )
    # They never come; detectron2's schedule raises on one that equals MAX_ITER.
    cfg.SOLVER.STEPS = tuple(step for step in cfg.SOLVER.STEPS if step < cfg.SOLVER.MAX_ITER)
    return cfg


def adapt_cfg_to_host(cfg: CfgNode, processes: int, cuda: bool | None = None) -> list[str]:
    """Change what cannot run on this machine, in place; returns (and logs, once each) what was changed.

    Args:
        processes: number of training processes.
        cuda: whether there is a GPU; None asks torch.
    """
    cuda = torch.cuda.is_available() if cuda is None else cuda
    if cuda and cfg.MODEL.DEVICE != "cpu":
        return []
    changes: dict[str, Any] = {}
    if cfg.MODEL.DEVICE != "cpu":
        changes["MODEL.DEVICE"] = "cpu"
    if cfg.SOLVER.AMP.ENABLED:
        changes["SOLVER.AMP.ENABLED"] = False
    kind = "naiveSyncBN" if processes > 1 else "BN"
    for key in NORM_KEYS:
        if _get(cfg, key) in _SYNCHRONISED and _get(cfg, key) != kind:
            changes[key] = kind
    lines = [f"{key}: {_get(cfg, key)!r} -> {value!r}" for key, value in changes.items()]
    for key, value in changes.items():
        _set(cfg, key, value)
    for line in lines:
        logger.info("on the CPU, so %s", line)
    return lines


def _set(cfg: CfgNode, key: str, value: Any) -> bool:
    """Set a full key, keeping detectron2's container type; False if the config has no such key."""
    *parents, last = key.split(".")
    node = cfg
    for name in parents:
        if name not in node:
            return False
        node = node[name]
    if last not in node:
        return False
    if isinstance(node[last], (list, tuple)) and isinstance(value, (list, tuple)):
        value = type(node[last])(value)
    node[last] = value
    return True


def _get(cfg: CfgNode, key: str) -> Any:
    for name in key.split("."):
        cfg = cfg[name]
    return cfg
