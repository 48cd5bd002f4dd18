"""Registry of trunks."""

from __future__ import annotations

from typing import Any

from ssl_loc.config import CfgNode, construct
from ssl_loc.layers import make_norm
from ssl_loc.modeling.backbone.backbone import Backbone
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
BACKBONE_REGISTRY.__doc__ = """
Trunks by name: a :class:`Backbone` subclass; ``trunk(normalised images (N, 3, h, w)) -> {"res2": ..., "res5": ...}``.
Its constructor takes ``norm: channels -> layer`` and plain values; ``describe()`` returns those plain values.
"""


def build_backbone(cfg: CfgNode) -> Backbone:
    """The trunk MODEL.BACKBONE.NAME with the norm layers MODEL.NORM."""
    cls = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)
    return construct(cls, cfg, norm=make_norm(cfg.MODEL.NORM, cfg.MODEL.NORM_GROUPS))


def build_backbone_from_description(description: dict[str, Any], norm: str = "BN") -> Backbone:
    """Rebuild a trunk from :meth:`Backbone.describe` (as stored in exported weights), with norm layers of one's choice.

    Raises:
        WeightsError: the description does not fit the registered trunk (made by another version?).
    """
    name, kwargs = description.get("name"), description.get("kwargs")
    if not isinstance(name, str) or not isinstance(kwargs, dict):
        raise WeightsError(f"backbone description is {description!r}; expected {{'name': ..., 'kwargs': {{...}}}}")
    cls = BACKBONE_REGISTRY.get(name)
    try:
        return cls(**kwargs, norm=make_norm(norm))
    except TypeError as error:
        raise WeightsError(
            f"backbone {name} cannot be rebuilt from {kwargs}: {error}; export the weights again"
        ) from None
