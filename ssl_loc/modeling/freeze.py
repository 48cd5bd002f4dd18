"""Dual-stage training: the early stages of trunks that were trained before stay as they are."""

from __future__ import annotations

from torch import nn

from ssl_loc.config import CfgNode
from ssl_loc.modeling.backbone import Backbone
from ssl_loc.utils.errors import ConfigError


def freeze_trunks(method: nn.Module, count: int) -> None:
    """Freeze the first ``count`` stages of every trunk in ``method``, the target's too: weights and statistics.

    The stem counts with the first stage. Second stage of the dual-stage pipeline (CVSA paper, section 3.3).

    To be called before the optimiser and DDP see the parameters.
    """
    for trunk in (module for module in method.modules() if isinstance(module, Backbone)):
        trunk.freeze(count)


def check_freezing(cfg: CfgNode) -> None:
    """Refuse to freeze random weights.

    Raises:
        ConfigError: MODEL.FREEZE_AT without MODEL.INIT_FROM.
    """
    if cfg.MODEL.FREEZE_AT and not cfg.MODEL.INIT_FROM:
        raise ConfigError(
            f"MODEL.FREEZE_AT is {cfg.MODEL.FREEZE_AT} but MODEL.INIT_FROM is empty, so random weights would be "
            "frozen; give the backbone of stage 1 in MODEL.INIT_FROM (a run folder, checkpoint or exported backbone), "
            "or set MODEL.FREEZE_AT 0"
        )
