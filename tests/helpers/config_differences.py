"""What one config says otherwise than another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_loc.components import setup_cfg
from ssl_loc.config import CfgNode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def flat(cfg: CfgNode) -> dict[str, Any]:
    """{"A.B": value} of every key."""
    found: dict[str, Any] = {}
    for key in cfg.keys_flat():
        node: Any = cfg
        for part in key.split("."):
            node = node[part]
        found[key] = node
    return found


def differences(base: str, other: str) -> dict[str, Any]:
    """Keys whose values differ -> the value of ``other``; both are files under configs/."""
    a, b = (flat(setup_cfg(str(CONFIGS / name))) for name in (base, other))
    return {key: b[key] for key in b if a[key] != b[key]}


def family(name: str) -> list[Path]:
    """The files of a folder under configs/."""
    return sorted((CONFIGS / name).glob("*.yaml"))
