"""The whole house in one call: import every room that registers something, then read a config.

Kept apart from ``ssl_loc.config`` because that room lies below the ones imported here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ssl_loc.config import CfgNode, base_cfg

# Rooms whose import registers components (augmenters, backbones, heads, methods, losses, optimisers, datasets).
_ROOMS = ("ssl_loc.data", "ssl_loc.data.augmenters", "ssl_loc.modeling", "ssl_loc.losses", "ssl_loc.solver")


def load_components() -> None:
    """Import the built-in components so that their registries and config nodes are filled."""
    for room in _ROOMS:
        importlib.import_module(room)


def get_cfg() -> CfgNode:
    """A fresh, unfrozen config with every built-in key at its default."""
    load_components()
    return base_cfg()


def setup_cfg(config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults <- yaml (with its bases and imports) <- command line; frozen."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(overrides))
    cfg.freeze()
    return cfg
