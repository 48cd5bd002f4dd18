"""Detection recipes: one yaml in detectron2's own key names drives every engine."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from ssl_loc.config.node import coerce, load_chain, parse_literal, plain_values
from ssl_loc.transfer.combinations import ARCHITECTURES
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS, OPEN_KEYS, OWN_DEFAULTS, OWN_NODE
from ssl_loc.transfer.values import check_values
from ssl_loc.utils.errors import ConfigError, did_you_mean

ALL_DEFAULTS: dict[str, Any] = {**DETECTRON2_DEFAULTS, **OWN_DEFAULTS}
RECIPE_VERSION = 2


class Recipe(_YacsNode):
    """A detection recipe with attribute access (``recipe.SOLVER.BASE_LR``)."""

    def flat(self) -> dict[str, Any]:
        """Every full key with its value, e.g. {"SOLVER.BASE_LR": 0.02, ...}."""
        return dict(_flatten(self))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict of plain values (tuples become lists), as written to result.json and checkpoints."""
        nested: dict[str, Any] = {}
        for key, value in self.flat().items():
            *parents, last = key.split(".")
            node = nested
            for name in parents:
                node = node.setdefault(name, {})
            node[last] = plain_values(value)
        return nested

    def dump_yaml(self) -> str:
        """Yaml text that :func:`load_recipe` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=110)


def default_recipe() -> Recipe:
    """All keys at their defaults, unfrozen."""
    return _build(ALL_DEFAULTS)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe: defaults <- ``_BASE_`` files <- ``path`` <- ``overrides`` (KEY VALUE KEY VALUE ...); frozen.

    Raises:
        ConfigError: unknown key (with the nearest one), wrong type, missing file, or a file without ``VERSION: 2``.
    """
    values = copy.deepcopy(ALL_DEFAULTS)
    version = None
    for name, content in load_chain(path):
        version = content.get("VERSION", version)
        for key, value in _leaves(content):
            _set(values, key, value, name)
    if version != RECIPE_VERSION:
        raise ConfigError(
            f"VERSION in {path} is {version!r}; expected {RECIPE_VERSION}: a recipe names its version, because "
            "detectron2 rewrites the keys of files that do not"
        )
    if len(overrides) % 2:
        raise ConfigError(
            f"the command line has {len(overrides)} override words, an odd number ({' '.join(map(str, overrides))}); "
            "expected KEY VALUE pairs, for example SOLVER.BASE_LR 0.01"
        )
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        _set(values, key, parse_literal(text), "the command line")
    # The shell leaves a ~ inside of a word, and a yaml file has no shell.
    values["OUTPUT_DIR"] = os.path.expanduser(values["OUTPUT_DIR"])
    recipe = _build(values)
    check_values(recipe.flat())
    recipe.freeze()
    return recipe


def edited(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A frozen copy of ``recipe`` with some full keys changed."""
    values = recipe.flat()
    for key, value in changes.items():
        _set(values, key, value, "an adaptation")
    copied = _build(values)
    copied.freeze()
    return copied


def detectron2_values(recipe: Recipe) -> dict[str, Any]:
    """Flat {full key: value} without our own node: what detectron2 may see."""
    return {key: value for key, value in recipe.flat().items() if not key.startswith(OWN_NODE + ".")}


def non_default_keys(recipe: Recipe) -> dict[str, Any]:
    """Full keys whose value differs from the default (lists and tuples compare by content)."""
    return {k: v for k, v in recipe.flat().items() if plain_values(v) != plain_values(ALL_DEFAULTS[k])}


def require_honoured(recipe: Recipe, honoured: Collection[str], engine: str) -> None:
    """Refuse every non-default key that an engine does not honour, so that a recipe never changes meaning silently."""
    ignored = {k: v for k, v in non_default_keys(recipe).items() if k not in honoured}
    if ignored:
        listed = ", ".join(f"{key} {value!r}" for key, value in ignored.items())
        raise ConfigError(
            f"the {engine} engine does not support {listed}; leave the default "
            f"({', '.join(repr(ALL_DEFAULTS[k]) for k in ignored)}) or use --engine detectron2"
        )


def architecture(recipe: Recipe) -> str:
    """ "C4" or "FPN", from MODEL.BACKBONE.NAME."""
    name = recipe.MODEL.BACKBONE.NAME
    if name not in ARCHITECTURES:
        raise ConfigError(f"MODEL.BACKBONE.NAME is {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def dataset_names(value: Any) -> list[str]:
    """DATASETS.TRAIN or .TEST as a list (one name may be given without brackets)."""
    return [value] if isinstance(value, str) else list(value)


def _build(values: Mapping[str, Any]) -> Recipe:
    root = Recipe()
    for key, value in values.items():
        *parents, last = key.split(".")
        node = root
        for name in parents:
            if name not in node:
                node[name] = Recipe()
            node = node[name]
        # yacs would turn a free mapping into a node with fixed keys; dict.__setitem__ keeps it a mapping.
        dict.__setitem__(node, last, copy.deepcopy(value))
    return root


def _flatten(node: _YacsNode, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, _YacsNode):
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield above + key, value


def _leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        full = f"{above}{key}"
        if isinstance(value, dict) and full not in OPEN_KEYS:
            if full in ALL_DEFAULTS or not any(known.startswith(full + ".") for known in ALL_DEFAULTS):
                yield full, value
            else:
                yield from _leaves(value, full + ".")
        else:
            yield full, value


def _set(values: dict[str, Any], key: str, value: Any, source: str) -> None:
    for open_key in OPEN_KEYS:
        if key == open_key and isinstance(value, dict):
            values[open_key] = {**values[open_key], **value}
            return
        if key.startswith(open_key + "."):
            values[open_key] = {**values[open_key], key[len(open_key) + 1 :]: value}
            return
    if key not in ALL_DEFAULTS:
        raise ConfigError(_unknown(key, source))
    default = ALL_DEFAULTS[key]
    if isinstance(value, str) and not isinstance(default, str):
        value = parse_literal(value)  # detectron2's own files write tuples as "(480, 512)" and numbers as 1e-4
    if key in ("DATASETS.TRAIN", "DATASETS.TEST") and isinstance(value, str):
        value = (value,)
    values[key] = coerce(default, value, key, source)


def _unknown(key: str, source: str) -> str:
    below = [known for known in ALL_DEFAULTS if known.startswith(key + ".")]
    if below:
        return f"{key} in {source} is a group of keys; expected a mapping or one of {', '.join(below[:8])}"
    near = did_you_mean(key, ALL_DEFAULTS)
    parent = key.rsplit(".", 1)[0]
    known = [name for name in ALL_DEFAULTS if name.rsplit(".", 1)[0] == parent]
    rest = f"; known there: {', '.join(known)}" if known and not near else ""
    return (
        f"unknown recipe key {key} in {source}{near or rest} (recipes use detectron2's key names; our own keys are "
        f"in the node {OWN_NODE})"
    )
