"""Keys owned by components: a component registers its node beside its own code.

Example::

    @register_config("MODEL.MOCO")
    def moco_config() -> CfgNode:
        node = CfgNode()
        node.T = 0.07  # temperature (MoCo paper, section 4)
        return node
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_loc.utils.errors import ConfigError

if TYPE_CHECKING:
    from ssl_loc.config.node import CfgNode


@dataclass(frozen=True)
class Fragment:
    """A component's node: where it goes, who makes it, which file owns it."""

    path: str
    make: Callable[[], CfgNode]
    file: str


_FRAGMENTS: dict[str, Fragment] = {}


def register_config(path: str) -> Callable[[Callable[[], CfgNode]], Callable[[], CfgNode]]:
    """Decorate a function without arguments that returns the default node of ``path`` (e.g. "MODEL.MOCO")."""

    def decorator(make: Callable[[], CfgNode]) -> Callable[[], CfgNode]:
        file = inspect.getsourcefile(make) or "?"
        if path in _FRAGMENTS and os.path.realpath(_FRAGMENTS[path].file) != os.path.realpath(file):
            raise ConfigError(f"config node {path} is registered twice: by {_FRAGMENTS[path].file} and by {file}")
        _FRAGMENTS[path] = Fragment(path, make, file)
        return make

    return decorator


def fragments() -> list[Fragment]:
    """All registered fragments, sorted by path."""
    return [_FRAGMENTS[path] for path in sorted(_FRAGMENTS)]


def owner_of(key: str) -> str:
    """File that owns a full key: the fragment with the longest matching path, else the shared defaults."""
    matches = [f for f in _FRAGMENTS.values() if key == f.path or key.startswith(f.path + ".")]
    if not matches:
        return "ssl_loc/config/defaults.py"
    file = max(matches, key=lambda f: len(f.path)).file
    marker = f"{os.sep}ssl_loc{os.sep}"
    return "ssl_loc/" + file.rsplit(marker, 1)[1] if marker in file else file


def attach(cfg: CfgNode) -> None:
    """Put every registered fragment that ``cfg`` does not have yet into it."""
    for fragment in fragments():
        node = cfg
        *parents, last = fragment.path.split(".")
        for name in parents:
            if name not in node:
                node[name] = type(cfg)()
            node = node[name]
        if last not in node:
            node[last] = fragment.make()


@contextmanager
def isolated() -> Iterator[None]:
    """Forget, on exit, every fragment registered inside the block (for tests)."""
    saved = dict(_FRAGMENTS)
    try:
        yield
    finally:
        _FRAGMENTS.clear()
        _FRAGMENTS.update(saved)
