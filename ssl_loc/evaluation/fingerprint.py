"""What a result depends on, as one digest: a stopped evaluation goes on where nothing of it has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssl_loc import __version__
from ssl_loc.config import CfgNode
from ssl_loc.data.catalog import resolve_path_form
from ssl_loc.data.datasets.folder import list_files
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.linear_head import named_head
from ssl_loc.evaluation.results import EVEN
from ssl_loc.evaluation.settings import HARMLESS
from ssl_loc.evaluation.weights import Weights


def fingerprint(protocol: str, version: str, weights: Weights, data: EvalData, options: CfgNode) -> str:
    """Digest of protocol, weights, data and options, without the seed. Files count by path, size and time of change."""
    chosen = {key: value for key, value in options.to_dict().items() if key not in HARMLESS}
    words = [named_head(word, weights.label) for word in _words([data.spec, data.masks, chosen])]
    content = {
        "protocol": [protocol, version, __version__],
        "weights": [weights.kind, weights.digest, None if weights.cfg is None else weights.cfg.to_dict()],
        # Of another code's checkpoint they are stated outside of it, or assumed.
        "pixels": [weights.meta.get("pixel_mean"), weights.meta.get("pixel_std")],
        # A limit once meant the first images to some protocols.
        "data": [data.spec, data.masks, *([EVEN, data.limit] if data.limit else [0])],
        "options": chosen,
        "files": [files_digest(word) for word in words],
    }
    if Path(weights.path).is_dir():  # a folder of maps
        content["maps"] = files_digest(weights.path)
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _words(value: Any) -> Iterator[str]:
    """Every text in nested plain values; "A,B" (two datasets) gives both."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        yield from value.split(",")


def files_digest(word: str) -> str:
    """State of the file, or of every file of the folder, that a word names directly or as a dataset; else ""."""
    path = _path_of(word)
    if path is None:
        return ""
    digest = hashlib.blake2b(digest_size=12)
    # Every file, not only pictures: annotations and manifests decide numbers as well.
    for name in list_files(path, ("",)) if path.is_dir() else [""]:
        stat = os.stat(path / name if name else path)
        digest.update(f"{name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _path_of(word: str) -> Path | None:
    """The path in "PATH", "SCHEME:PATH", "SCHEME:PATH:MORE" or a name that stands for such a form."""
    text = resolve_path_form(word)
    candidates = [text]
    _, colon, rest = text.partition(":")
    while colon:
        candidates.append(rest)
        rest, colon, _ = rest.rpartition(":")
    return next((Path(c) for c in candidates if c and os.path.exists(c)), None)
