"""The options that a number depends on, and the words that keep numbers of different options apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.results import data_name, protocol_name

# Options that change where and how fast something is computed, or what is printed; not the numbers.
HARMLESS = (
    *("DEVICE", "BATCH_SIZE", "CACHE", "WORKERS", "SEED"),
    *("PUBLISHED", "PUBLISHED_IF", "PUBLISHED_CHANGED"),
)
# The same of single protocols.
_HARMLESS_OWN = ("SVM.JOBS", "FINETUNE.CHECKPOINT_ITERS", "NEIGHBOURS.EXAMPLES")
# Options that name files: the folder they lie in says nothing.
_FILES = ("BACKGROUNDS.HEAD", "BACKGROUNDS.CLASS_MAP")
# Digits of the digest in a file's name.
_DIGITS = 8
UNKNOWN = "options not recorded"


def settings(protocol: str, data: EvalData, options: CfgNode) -> dict[str, Any]:
    """Full option name -> value, of all that decides this protocol's numbers besides weights, images and seed."""
    chosen: dict[str, Any] = {"SIZE": options.SIZE, "MASKS": data.masks}
    nodes = [protocol.upper()]
    if protocol == "backgrounds" and options.BACKGROUNDS.HEAD == "knn":
        nodes.append("KNN")  # its vote is that of the k-NN protocol
    for node in nodes:
        chosen |= {f"{node}.{key}": value for key, value in options.to_dict().get(node, {}).items()}
    chosen = {key: value for key, value in chosen.items() if key not in _HARMLESS_OWN}
    return {key: PurePath(value).name if key in _FILES else value for key, value in chosen.items()}


def changes_numbers(key: str, protocol: str) -> bool:
    """Whether an option can change this protocol's numbers."""
    if key in HARMLESS or key in _HARMLESS_OWN:
        return False
    return "." not in key or key.split(".")[0] == protocol.upper() or (protocol == "backgrounds" and key[:4] == "KNN.")


def settings_suffix(chosen: dict[str, Any], default: dict[str, Any], limit: int) -> str:
    """For a file's name: "" for default options and all images, else such as "_limit50_1f2e3d4c"."""
    words = [f"_limit{limit}"] if limit else []
    if differ := {key: value for key, value in chosen.items() if default.get(key) != value}:
        text = json.dumps(differ, sort_keys=True, default=str)
        words.append("_" + hashlib.blake2b(text.encode(), digest_size=_DIGITS // 2).hexdigest())
    return "".join(words)


def protocol_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """:func:`protocol_name` of every result, with the options in which results on the same data differ.

    "knn v1 (KNN.K 20)" and "knn v1 (KNN.K 200)": numbers of two settings never share a column.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in results:
        groups.setdefault((protocol_name(r), data_name(r)), []).append(r)
    differing = {name: _differing([r["details"].get("chosen_options") for r in part]) for name, part in groups.items()}
    names = []
    for r in results:
        name, own = protocol_name(r), r["details"].get("chosen_options")
        keys = differing[(name, data_name(r))]
        if keys:
            words = UNKNOWN if own is None else ", ".join(f"{key} {_plain(own.get(key, '-'))}" for key in keys)
            name = f"{name} ({words})"
        names.append(name)
    return names


def _differing(every: Sequence[dict[str, Any] | None]) -> list[str]:
    """Options that are not the same in all; every one, where some results do not say theirs."""
    known = [own for own in every if own is not None]
    keys = list(dict.fromkeys(key for own in known for key in own))
    differ = [key for key in keys if any(own.get(key, "-") != known[0].get(key, "-") for own in known)]
    return differ or (keys if len(known) < len(every) else [])


def _plain(value: Any) -> str:
    return str(value) if value != "" else "''"
