"""Published numbers beside measured ones: only where data and options are those they were measured with."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.data.catalog import resolve_path_form
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.settings import changes_numbers
from ssl_loc.utils.errors import ConfigError

# What PUBLISHED_IF can ask for besides options.
DATA, MASKS = "DATA", "MASKS"


def check_published(options: CfgNode) -> None:
    """Raise a ConfigError for rows of another form, or rows that do not say what data they hold for."""
    for row in options.PUBLISHED:
        if not isinstance(row, (list, tuple)) or len(row) != 5:
            raise ConfigError(f"PUBLISHED has the row {row}; expected [label, protocol, metric, value, source]")
    for row in options.PUBLISHED_IF:
        if not isinstance(row, (list, tuple)) or len(row) != 2 or not all(isinstance(word, str) for word in row):
            raise ConfigError(f"PUBLISHED_IF has the row {row}; expected [DATA, MASKS or an option, pattern]")
        if row[0] not in (DATA, MASKS, *options.keys_flat()):
            raise ConfigError(f"PUBLISHED_IF asks for {row[0]}; expected DATA, MASKS or an option such as KNN.K")
    if options.PUBLISHED and DATA not in (key for key, _ in options.PUBLISHED_IF):
        raise ConfigError(
            "PUBLISHED has numbers, but PUBLISHED_IF does not say what data they hold for; add a row such as "
            '["DATA", "imagenet_train,imagenet_val"]'
        )


def quoted(options: CfgNode, data: EvalData, label: str, protocol: str) -> dict[str, Any]:
    """What a result says of published numbers.

    Returns:
        "published": metric -> value and source, of the row of this label. "references": [label, metric, value, source]
        of every row of the protocol. "published_left_out": why there are none, although the options list some; or "".
    """
    rows = [row for row in options.PUBLISHED if row[1] == protocol]
    why = misfit(options, data, protocol) if rows else ""
    if why:
        why = f"{len(rows)} published numbers of {protocol} are left out, they hold for other settings: {why}"
        rows = []
    mine = [row for row in rows if str(row[0]).lower() == label.lower()]
    return {
        "published": {metric: {"value": value, "source": source} for _, _, metric, value, source in mine},
        "references": [[name, metric, value, source] for name, _, metric, value, source in rows],
        "published_left_out": why,
    }


def misfit(options: CfgNode, data: EvalData, protocol: str) -> str:
    """In what this run is not what the published numbers were measured with; "" where it is."""
    wanted: dict[str, list[str]] = {}
    for key, pattern in options.PUBLISHED_IF:
        wanted.setdefault(key, []).append(pattern)
    given = {DATA: _resolved(data.spec), MASKS: data.masks}
    words = []
    for key, patterns in wanted.items():
        value = given[key] if key in given else str(_value(options, key))
        if (key in given or changes_numbers(key, protocol)) and not _matches(value, patterns):
            asked = {DATA: data.spec, MASKS: data.masks}.get(key, value)
            words.append(f"{_spelled(key)} {asked or repr('')}, expected {' or '.join(patterns)}")
    if data.limit:
        words.append(f"LIMIT {data.limit}, expected all images")
    changed = [key for key in options.PUBLISHED_CHANGED if key not in wanted and key != "LIMIT"]
    words += [f"{key} is {_value(options, key)} now" for key in changed if changes_numbers(key, protocol)]
    return "; ".join(words)


def _matches(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, form) for pattern in patterns for form in (pattern, _resolved(pattern)))


def _resolved(spec: str) -> str:
    """Datasets that are named, as the path forms they stand for: both ways of naming one are the same data."""
    return ",".join(resolve_path_form(part.strip()) for part in spec.split(","))


def _spelled(key: str) -> str:
    return {DATA: "--data", MASKS: "--masks"}.get(key, key)


def _value(options: CfgNode, key: str) -> Any:
    value: Any = options
    for part in key.split("."):
        value = value[part]
    return value
