"""From configuration to arguments, in one place per class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssl_loc.config.node import CfgNode


def construct(target: Callable, cfg: CfgNode, *args: Any, **kwargs: Any) -> Any:
    """Make a registered class or call a registered function from a config.

    A class has an explicit ``__init__`` (usable without any config) and a classmethod ``from_config(cfg, *args,
    **kwargs) -> dict`` that translates keys into the arguments of ``__init__``. A plain function is called with the
    config itself.
    """
    from_config = getattr(target, "from_config", None)
    if from_config is None:
        return target(cfg, *args, **kwargs)
    return target(**from_config(cfg, *args, **kwargs))
