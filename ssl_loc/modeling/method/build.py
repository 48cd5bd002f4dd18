"""Registry of methods."""

from __future__ import annotations

from ssl_loc.config import CfgNode, construct
from ssl_loc.modeling.freeze import check_freezing, freeze_trunks
from ssl_loc.modeling.method.method import Method
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.registry import Registry

METHOD_REGISTRY = Registry("METHOD")
METHOD_REGISTRY.__doc__ = """
Methods by name: a :class:`Method` subclass; ``method(views) -> MethodOutput`` with one forward per view and step, EMA
and queue updated in ``after_step``, ``trunk()`` giving what is exported.
"""


def build_method(cfg: CfgNode) -> Method:
    """The method MODEL.METHOD with freshly initialised weights (drawn from torch's global generator), on the CPU."""
    check_freezing(cfg)
    method: Method = construct(METHOD_REGISTRY.get(cfg.MODEL.METHOD), cfg)
    if cfg.AUGMENT.VIEWS:  # an empty list is the pipelines' to refuse
        method.check_views(len(cfg.AUGMENT.VIEWS))
    freeze_trunks(method, cfg.MODEL.FREEZE_AT)
    method.feature_mask_pool = cfg.MODEL.FEATURE_MASK_POOL
    if cfg.MODEL.FEATURE_MASK_POOL and cfg.DATA.MASKS.SOURCE == "none":
        raise ConfigError(
            "MODEL.FEATURE_MASK_POOL needs saliency masks but DATA.MASKS.SOURCE is 'none'; set it to 'folder' with "
            "DATA.MASKS.ROOT (maps made by tools/make_saliency.py), or set MODEL.FEATURE_MASK_POOL False"
        )
    if cfg.MODEL.CHANNELS_LAST:
        method.use_channels_last()
    if cfg.MODEL.COMPILE:
        method.compile_trunks()
    return method
