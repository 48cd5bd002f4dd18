"""Names for people: of runs and results (``LABEL=PATH``) and of datasets, and their lines in narrow columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ssl_loc.evaluation.results import read_results
from ssl_loc.utils.errors import ConfigError

# Schemes of path forms that are abbreviations.
_SPELLED = {"coco": "COCO", "voc": "VOC"}
# Mean width of a bold letter, as a share of the font size (DejaVu Sans Bold, lower case).
_LETTER = 0.65
_MAX_LINES = 3


@dataclass(frozen=True)
class RunFolder:
    """OUTPUT_DIR of a run and its name in tables and pictures."""

    label: str
    path: Path


def split_label(given: str | Path) -> tuple[str, str]:
    """``LABEL=PATH`` -> (label, path); no label is "". As for weights, a path that exists is never cut."""
    word = str(given)
    if "=" not in word or Path(word).exists():
        return "", word
    label, path = word.split("=", 1)
    return label, path


def name_runs(given: Sequence[str | Path]) -> list[RunFolder]:
    """``[LABEL=]DIR`` -> runs with distinct names: the label, else the folder's (and its parent's, where shared)."""
    pairs = [(label, Path(path).resolve()) for label, path in map(split_label, given)]
    folders = [path.name for label, path in pairs if not label]
    labels = [
        label or (path.name if folders.count(path.name) == 1 else f"{path.parent.name}/{path.name}")
        for label, path in pairs
    ]
    return [RunFolder(name, path) for name, (_, path) in zip(number_repeats(labels), pairs, strict=True)]


def labelled_results(given: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results of ``[LABEL=]PATH`` words, see :func:`read_results`; a label replaces the name a result brings.

    Raises:
        ConfigError: a label is given to a folder with results of several weights.
    """
    results: list[dict[str, Any]] = []
    for word in given:
        label, path = split_label(word)
        found = read_results([path])
        own = sorted({r["details"]["label"] for r in found})
        if label and len(own) > 1:
            raise ConfigError(
                f"--results {word} names one model, but the results there are of {', '.join(own)}; leave '{label}=' "
                "out (they bring their names), or give it to one json"
            )
        results += [{**r, "details": {**r["details"], "label": label}} for r in found] if label else found
    return results


def number_repeats(labels: Sequence[str]) -> list[str]:
    """Distinct names: "CAST", "CAST (2)", ..."""
    names: list[str] = []
    for label in labels:
        name, n = label, 2
        while name in names:
            name, n = f"{label} ({n})", n + 1
        names.append(name)
    return names


def short_data_names(specs: Sequence[str]) -> dict[str, str]:
    """Dataset names or path forms -> names without folders ("scenes, val"); the whole form where two would be alike."""
    distinct = list(dict.fromkeys(specs))
    short = [_short(spec) for spec in distinct]
    return {spec: name if short.count(name) == 1 else spec for spec, name in zip(distinct, short, strict=True)}


def _short(spec: str) -> str:
    """SCHEME:DIR:REST... -> "SCHEME, REST"; SCHEME:DIR and DIR -> the folder's name; other names as they are."""
    scheme, *rest = spec.split(":")
    if len(rest) < 2:
        return PurePath(rest[0] if rest else scheme).name or spec
    words = [_SPELLED.get(scheme, scheme), *rest[1:]]
    return ", ".join([" ".join(words[:-1]), words[-1]])


def wrap_title(text: str, inches: float, size: float) -> str:
    """Break a title of ``size`` points into lines that fit a column, at most three: a longer one loses its middle."""
    room = max(4, int(inches * 72 / (_LETTER * size)))
    lines = [""]
    for part in re.findall(r"[^\s_/-]*[\s_/-]|[^\s_/-]+", text):
        pieces = [part[i : i + room] for i in range(0, len(part), room)]
        for piece in pieces:
            if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > room:
                lines.append("")
            lines[-1] += piece
    if len(lines) > _MAX_LINES:
        lines = [lines[0], f"…{lines[-2][-(room - 1) :]}", lines[-1]]
    return "\n".join(line.strip() for line in lines)
