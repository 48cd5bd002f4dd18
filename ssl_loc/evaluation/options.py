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
from ssl_loc.utils.errors import ConfigError, did_you_mean


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
    for name, evaluator in EVALUATOR_REGISTRY:
        node[name.upper()] = evaluator.options()
    return node


def load_options(config_file: str | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Defaults <- yaml (configs/eval) <- ``KEY VALUE`` pairs; frozen."""
    node = default_options()
    if config_file:
        for path, values in load_chain(config_file):
            _check(_flat(values), node, path)
            merge(values, node, [], path)
    if len(overrides) % 2:
        raise ConfigError(f"--set got {len(overrides)} words ({' '.join(overrides)}); expected KEY VALUE pairs")
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        _check([key], node, "--set")
        value: Any = parse_literal(text)
        for part in reversed(key.split(".")):
            value = {part: value}
        merge(value, node, [], "--set")
    node.freeze()
    return node


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
