"""Options of the evaluation protocols: strict like the training config, but a tree of their own.

An option belongs to its protocol (``GROUNDING.THRESHOLD``), which declares it with a comment in its own file; training
configs never carry evaluation keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.config.node import load_chain, merge, parse_literal
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.published import check_published
from ssl_loc.evaluation.settings import HARMLESS
from ssl_loc.utils.errors import ConfigError, did_you_mean

# Shared option -> its smallest value, and what values mean.
_LEAST = {
    "SEED": (0, "seed of crops, splits and initialisation"),
    "BATCH_SIZE": (1, "images per forward pass"),
    "SIZE": (0, "px; 0 = the size the weights were trained on"),
    "WORKERS": (-1, "processes; 0 = this one, -1 = as many as cores for large sets"),
    "LIMIT": (0, "images; 0 = all"),
}


def default_options() -> CfgNode:
    """Shared options plus one node for each registered protocol."""
    node = CfgNode()
    # Seed of crops, splits and initialisation.
    node.SEED = 0
    # Images per forward pass.
    node.BATCH_SIZE = 64
    # Side of the network's input in px; 0 takes AUGMENT.SIZE of the run that made the weights (224 if unknown).
    node.SIZE = 0
    # Folder that keeps features on disk for the next protocol or run ("" = in memory only). tools/evaluate.py --cache.
    node.CACHE = ""
    # Processes that decode images for feature extraction; 0 = this one, -1 = as many as cores for large sets.
    node.WORKERS = -1
    # Use only N images of each dataset, spread evenly over it, so that every class stays in (0 = all).
    node.LIMIT = 0
    # "auto" takes the GPU where there is one; "cpu" or "cuda" insist.
    node.DEVICE = "auto"
    # Numbers to print beside the measured ones: [label of the weights, protocol, metric, value, source].
    node.PUBLISHED = []
    # What they hold for: ["DATA", pattern of --data], ["MASKS", pattern of --masks] or [option, pattern]; several rows
    # of one name are alternatives. Every other option must be as in the file with the numbers.
    node.PUBLISHED_IF = []
    # Filled in when options are read: what was changed after the file with the numbers.
    node.PUBLISHED_CHANGED = []
    for name, evaluator in EVALUATOR_REGISTRY:
        node[name.upper()] = evaluator.options()
    return node


def load_options(config_file: str | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults <- yaml (configs/eval) <- ``KEY VALUE`` pairs; frozen."""
    node = default_options()
    quoted: dict[str, Any] = {}
    if config_file:
        for path, values in load_chain(config_file):
            _check(_flat(values), node, path)
            merge(values, node, [], path)
            if values.get("PUBLISHED"):
                quoted = flat_values(node)
    if len(overrides) % 2:
        raise ConfigError(f"--set got {len(overrides)} words ({' '.join(overrides)}); expected KEY VALUE pairs")
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        _check([key], node, "--set")
        value: Any = parse_literal(text)
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(value, node, [], "--set")
    check_ranges(node)
    now = flat_values(node)
    node.PUBLISHED_CHANGED = [key for key in quoted if key not in HARMLESS and quoted[key] != now[key]]
    check_published(node)
    node.freeze()
    return node


def check_ranges(node: CfgNode) -> None:
    """Raise a ConfigError for a shared option below its smallest value."""
    for key, (least, meaning) in _LEAST.items():
        if node[key] < least:
            raise ConfigError(f"{key} is {node[key]}; expected {least} or more ({meaning})")


def flat_values(node: CfgNode) -> dict[str, Any]:
    """Full option name -> value."""
    found: dict[str, Any] = {}
    for key, value in node.to_dict().items():
        found |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _check(keys: Sequence[str], node: CfgNode, source: str) -> None:
    known = node.keys_flat()
    for key in keys:
        if key not in known:
            owner = _owner(key.split(".")[0])
            near = did_you_mean(key, known) or f"; known: {', '.join(known)}"
            raise ConfigError(f"unknown evaluation option {key} in {source}{near} (options are declared in {owner})")


def _owner(head: str) -> str:
    for name, evaluator in EVALUATOR_REGISTRY:
        if name.upper() == head:
            return "ssl_loc/" + (inspect.getsourcefile(evaluator) or "?").rsplit("ssl_loc/", 1)[-1]
    return "ssl_loc/evaluation/options.py"


def _flat(values: dict[str, Any], above: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in values.items():
        keys += _flat(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
    return keys
