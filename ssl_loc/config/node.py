"""Strict CfgNode: safe yaml, ``_BASE_`` and ``IMPORTS``, and errors that name the nearest key and its owner."""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from ssl_loc.config.fragments import attach, owner_of
from ssl_loc.utils.errors import ConfigError, did_you_mean

_LOGGER = logging.getLogger(__name__)
BASE_KEY = "_BASE_"
# A chain longer than this cannot be read any more (design: "_BASE_ one or two deep").
MAX_BASE_DEPTH = 2
_NUMBERS = (int, float)
# Names of added keys in one line of the log.
_SHOWN_KEYS = 8


class CfgNode(_YacsNode):
    """A nested, strict mapping of configuration keys with attribute access.

    Unknown keys and wrong types raise :class:`ConfigError`. Freeze it after set-up.
    """

    def merge_from_file(self, cfg_filename: str) -> None:
        """Merge a yaml file, its ``_BASE_`` files first; read its ``IMPORTS`` before its keys."""
        for path, values in load_chain(cfg_filename):
            if "IMPORTS" in values:
                values = {**values, "IMPORTS": import_parts(values["IMPORTS"], Path(path).parent, path)}
            _attach(self)
            merge(values, self, [], str(path))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``; values given as text are read as Python literals where they are."""
        if len(cfg_list) % 2:
            raise ConfigError(
                f"the command line has {len(cfg_list)} override words, an odd number ({' '.join(map(str, cfg_list))}); "
                "expected KEY VALUE pairs, for example SOLVER.BASE_LR 0.06"
            )
        pairs = [(str(key), parse_literal(text)) for key, text in zip(cfg_list[0::2], cfg_list[1::2], strict=True)]
        # Parts bring their own keys, so they are read before any key; paths are relative to the current folder.
        pairs = [
            (key, import_parts(value, Path.cwd(), "the command line") if key == "IMPORTS" else value)
            for key, value in pairs
        ]
        _attach(self)
        for key, value in pairs:
            parts = key.split(".")
            for part in reversed(parts):
                value = {part: value}
            merge(value, self, [], "the command line")

    def merge_from_dict(self, values: dict[str, Any], source: str = "a dict") -> None:
        """Merge a plain nested dict strictly."""
        _attach(self)
        merge(values, self, [], source)

    @classmethod
    def restore(cls, values: dict[str, Any]) -> CfgNode:
        """Rebuild a complete config from :meth:`to_dict` (as stored in checkpoints), re-reading its ``IMPORTS``.

        A key that is younger than the checkpoint gets its default, which is how the run was made; the log names them.
        """
        from ssl_loc.config.defaults import base_cfg

        for name in values.get("IMPORTS", []):
            import_part(name, Path.cwd(), "the stored config")
        cfg = cls(values)
        if added := _add_missing(cfg, base_cfg(), ""):
            shown = ", ".join(added[:_SHOWN_KEYS]) + (" ..." if len(added) > _SHOWN_KEYS else "")
            _LOGGER.info("the stored config is older than %d keys, which get their defaults: %s", len(added), shown)
        return cfg

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict of plain values (tuples become lists)."""
        return plain_values(self)

    def dump_yaml(self) -> str:
        """The config as yaml text that :meth:`merge_from_file` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=110)

    def keys_flat(self) -> list[str]:
        """Every full leaf key, e.g. "SOLVER.BASE_LR"."""
        found: list[str] = []
        for key, value in self.items():
            found += [f"{key}.{k}" for k in value.keys_flat()] if isinstance(value, CfgNode) else [key]
        return found


def _add_missing(cfg: CfgNode, defaults: CfgNode, above: str) -> list[str]:
    """Give ``cfg`` what only ``defaults`` has; the full names of what was added."""
    added: list[str] = []
    for key, value in defaults.items():
        if key not in cfg:
            cfg[key] = copy.deepcopy(value)
            added.append(above + key)
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            added += _add_missing(cfg[key], value, f"{above}{key}.")
    return added


def _attach(cfg: CfgNode) -> None:
    if not cfg.is_frozen():
        attach(cfg)


def load_chain(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Read a yaml and its ``_BASE_`` chain, outermost base first."""
    chain: list[tuple[str, dict[str, Any]]] = []
    current: Path | None = Path(path)
    while current is not None:
        if len(chain) > MAX_BASE_DEPTH:
            names = " -> ".join(name for name, _ in chain)
            raise ConfigError(f"{BASE_KEY} chain is more than {MAX_BASE_DEPTH} deep: {names} -> {current}; flatten it")
        values = load_yaml(current)
        base = values.pop(BASE_KEY, None)
        if base is not None and not isinstance(base, str):
            raise ConfigError(
                f"{BASE_KEY} in {current} is {base!r}; expected the path of a yaml, relative to this file"
            )
        chain.append((str(current), values))
        current = None if base is None else current.parent / base
    return chain[::-1]


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Safe-load one yaml mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        folder = Path(path).parent
        near = did_you_mean(Path(path).name, [p.name for p in folder.glob("*.yaml")]) if folder.is_dir() else ""
        raise ConfigError(f"no config file {path}{near or '; give the path of a yaml file'}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; expected a yaml file") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not plain yaml: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected a mapping of config keys")
    return values


def import_parts(names: Any, folder: Path, source: str) -> list[str]:
    """Import every part of an ``IMPORTS`` list; return what finds them again."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"IMPORTS in {source} is {names!r}; expected a list of .py files or module names")
    return [import_part(name, folder, source) for name in names]


def import_part(name: str, folder: Path, source: str) -> str:
    """Import a project part (a .py path relative to ``folder``, or a module name); return what finds it again."""
    if not name.endswith(".py"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"IMPORTS in {source} names module '{name}', which does not import: {error}") from None
        return name
    path = (folder / name).resolve()
    module_name = f"ssl_loc_part_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name not in sys.modules:
        if not path.is_file():
            raise ConfigError(f"IMPORTS in {source} names '{name}', but there is no file {path}")
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None  # a .py path always has a loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return str(path)


def merge(values: dict[str, Any], node: CfgNode, above: list[str], source: str) -> None:
    """Merge ``values`` into ``node``; ``above`` is the path of ``node`` for messages."""
    for key, value in values.items():
        full = ".".join([*above, str(key)])
        if key not in node:
            raise ConfigError(unknown_key(full, str(key), node, above, source))
        old = node[key]
        if isinstance(old, CfgNode):
            if not isinstance(value, dict):
                raise ConfigError(f"{full} in {source} is {value!r}; expected a mapping with {', '.join(old)}")
            merge(value, old, [*above, str(key)], source)
        else:
            node[key] = coerce(old, value, full, source)


def unknown_key(full: str, key: str, node: CfgNode, above: list[str], source: str) -> str:
    """Message for a key that nobody owns."""
    prefix = ".".join(above)
    near = did_you_mean(key, node.keys())
    owner = owner_of(prefix) if prefix else "ssl_loc/config/defaults.py"
    known = "" if near else f"; known here: {', '.join(node.keys())}"
    return (
        f"unknown config key {full} in {source}{near or known} (keys of '{prefix or 'the root'}' are owned by {owner}; "
        "a project's own keys need its file in IMPORTS)"
    )


def coerce(old: Any, new: Any, full: str, source: str) -> Any:
    """Check that ``new`` may replace the default ``old``; int -> float and list <-> tuple are converted."""
    if type(old) is type(new) or old is None:
        return new
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if isinstance(old, float) and isinstance(new, str):
        # YAML reads 1e-4 as text (it wants 1.0e-4); everybody writes 1e-4.
        try:
            return float(new)
        except ValueError:
            pass
    if isinstance(old, tuple) and isinstance(new, list):
        return tuple(new)
    if isinstance(old, list) and isinstance(new, tuple):
        return list(new)
    hint = " (quote the names inside the list)" if isinstance(old, list) and isinstance(new, str) else ""
    raise ConfigError(
        f"{full} in {source} is {new!r} ({type(new).__name__}); expected {type(old).__name__}, "
        f"like the default {old!r}{hint}"
    )


def parse_literal(text: Any) -> Any:
    """A Python literal if ``text`` is text that reads as one, else ``text`` itself."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def plain_values(value: Any) -> Any:
    """Nested mappings and sequences as plain dicts and lists, ready for yaml and checkpoints."""
    if isinstance(value, dict):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item) for item in value]
    return value
