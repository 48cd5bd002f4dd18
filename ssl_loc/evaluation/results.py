"""Results on disk: OUT/results/*.json of evaluations, result.json of detection runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_loc.structures import Result
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json

RESULTS = "results"
# Results of single seeds, from which the one beside this folder was averaged.
SEEDS = "seeds"
# How images are chosen where there is a limit ("sample" of a result's details).
EVEN = "even"
# Three words of it and their suffix stay below the 255 bytes of a file's name.
SLUG_LENGTH = 60


def slug(label: str) -> str:
    """A label as part of a file's name: letters, digits, dots, plus and minus signs; the rest becomes minus signs."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", label).strip("-")


def result_slug(label: str) -> str:
    """What a result's file keeps of a label: its end, where it is long."""
    return slug(label)[-SLUG_LENGTH:]


def result_path(out: str | Path, protocol: str, label: str, data: str, suffix: str = "") -> Path:
    """OUT/results/<protocol>_<label>_<data><suffix>.json; a second run of the same replaces the first.

    Args:
        suffix: of limit and options that are not the default ones (:func:`settings_suffix`).
    """
    name = "_".join(map(result_slug, (protocol, label, data)))
    return Path(out) / RESULTS / f"{name}{suffix}.json"


def seed_path(path: Path, seed: int) -> Path:
    """Where one seed of the result ``path`` lies."""
    return path.parent / SEEDS / f"{path.stem}_seed{seed}.json"


def load_result(path: Path) -> Result:
    """A stored :class:`Result`.

    Raises:
        DataError: the file is broken or no result.
    """
    value = read_json(path)
    fields = Result.__dataclass_fields__
    if not isinstance(value, dict) or not {"protocol", "version", "metrics"} <= value.keys():
        raise DataError(f"{path} is no result of an evaluation; expected a json with protocol and metrics")
    return Result(**{key: value[key] for key in fields if key in value})


def read_results(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results as plain dicts, in the order of ``paths`` and then of making; "file" says where each one lay.

    A path is a result's json, the OUT of an evaluation (its results/*.json) or the OUTPUT_DIR of a detection run (its
    result.json).
    """
    found: list[dict[str, Any]] = []
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = [*(path / RESULTS).glob("*.json")] or [*path.glob("result.json")]
            if not files:
                raise DataError(f"no results in {path}; expected {RESULTS}/*.json (tools/evaluate.py) or result.json")
        # ISO times sort as text.
        found += sorted(map(_read_result, files), key=lambda r: r["details"].get("made", ""))
    return found


def _read_result(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict) or "protocol" not in value or "metrics" not in value:
        raise DataError(f"{file} is no result of an evaluation; expected a json with protocol and metrics")
    details = value.get("details", {})
    # A detection's result lies in its run folder, whose name says what it is.
    label = details.get("label") or file.resolve().parent.name
    return {**value, "details": {**details, "label": label}, "file": str(file)}


def protocol_name(result: dict[str, Any]) -> str:
    """Protocol, version and, for detection, the engine: what must be equal for numbers to be compared."""
    engine = result["details"].get("engine")
    return f"{result['protocol']} v{result['version']}" + (f" {engine}" if engine else "")


def data_name(result: dict[str, Any]) -> str:
    details = result["details"]
    data = details.get("data") or ", ".join(details.get("recipe", {}).get("DATASETS", {}).get("TEST", [])) or "?"
    if not details.get("limit"):
        return str(data)
    # Results that do not say how the images were chosen are of a time when some protocols took the first ones.
    words = f"{details['limit']} spread evenly" if details.get("sample") == EVEN else f"first {details['limit']}"
    return f"{data} ({words})"


def spread_of(result: dict[str, Any], metric: str) -> float | None:
    """Sample deviation over seeds of a metric; None where there was one seed."""
    deviations = result["details"].get("std")
    value = deviations.get(metric) if isinstance(deviations, dict) else None
    return None if value is None else float(value)
