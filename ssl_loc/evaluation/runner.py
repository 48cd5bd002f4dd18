"""Runs protocols over weights and writes one json per pair and one comparison table."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ssl_loc.config import CfgNode, construct
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY, Evaluator
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.env import collect_env_dict
from ssl_loc.utils.errors import ConfigError, DataError, UserError
from ssl_loc.utils.file_io import read_json, write_json, write_text

logger = logging.getLogger(__name__)

COMPARISON = "comparison.csv"
RESULTS = "results"


def run_protocols(
    names: Sequence[str], weights: Sequence[Weights], data: EvalData, options: CfgNode, out: str | Path
) -> list[Result]:
    """Every protocol on every weights; each result is written to OUT/results as soon as it is there.

    Raises:
        UserError: a protocol cannot use these weights or this data; before the first protocol runs.
    """
    evaluators = [(name, construct(EVALUATOR_REGISTRY.get(name), options)) for name in names]
    check_pairings(evaluators, weights, data)
    environment = collect_env_dict()
    results = []
    for w in weights:
        for name, evaluator in evaluators:
            result: Result = evaluator(w, data)
            result.weights, result.digest = w.path, w.digest
            result.details = {
                "label": w.label,
                "data": data.spec,
                "masks": data.masks,
                "limit": data.limit,
                "kind": w.kind,
                "iteration": w.meta.get("iteration"),
                # Masks that saw labels make the pretraining no longer self-supervised.
                "mask_source": w.meta.get("mask_source"),
                "uses_labels": w.meta.get("uses_labels"),
                "published": published(options.PUBLISHED, w.label, name),
                **result.details,
                "made": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "environment": environment,
            }
            path = result_path(out, result)
            write_json(path, result.to_dict())
            logger.info("wrote %s", path)
            results.append(result)
        w.cache.clear()
    return results


def check_pairings(evaluators: Sequence[tuple[str, Evaluator]], weights: Sequence[Weights], data: EvalData) -> None:
    """Ask every protocol about every weights and about the data: an hour's run must not end in a refusal."""
    for name, evaluator in evaluators:
        try:
            for w in weights:
                evaluator.check_weights(w)
            evaluator.check_data(data)
        except UserError as error:
            raise type(error)(f"--protocol {name}: {error}") from None


def published(rows: Sequence[Sequence[Any]], label: str, protocol: str) -> dict[str, Any]:
    """The published numbers of these weights: PUBLISHED rows (label, protocol, metric, value, source)."""
    for row in rows:
        if len(row) != 5:
            raise ConfigError(f"PUBLISHED has the row {list(row)}; expected [label, protocol, metric, value, source]")
    mine = [row for row in rows if str(row[0]).lower() == label.lower() and row[1] == protocol]
    return {metric: {"value": value, "source": source} for _, _, metric, value, source in mine}


def result_path(out: str | Path, result: Result) -> Path:
    """OUT/results/<protocol>_<label>_<data>.json; a second run of the same replaces the first."""
    details = result.details
    words = [result.protocol, details["label"], details["data"]]
    slug = "_".join(re.sub(r"[^A-Za-z0-9.+-]+", "-", str(word)).strip("-")[-60:] for word in words)
    return Path(out) / RESULTS / f"{slug}.json"


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


def comparison(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One row per weights, one column per protocol, version, data and metric -> (columns, rows).

    Numbers of two versions or two datasets never share a column; the dataset is named only where there are several.
    """
    datasets: dict[str, set[str]] = {}
    for r in results:
        datasets.setdefault(protocol_name(r), set()).add(data_name(r))
    columns: dict[tuple[str, str, str], None] = {}
    rows: dict[tuple[str, str], dict[tuple[str, str, str], Any]] = {}
    for r in results:
        row = rows.setdefault((r["details"].get("label", r["weights"]), r["digest"]), {})
        for metric, value in r["metrics"].items():
            key = (protocol_name(r), data_name(r), metric)
            columns[key] = None
            row[key] = value
    heads = [
        f"{protocol} {metric}" + (f" [{data}]" if len(datasets[protocol]) > 1 else "")
        for protocol, data, metric in columns
    ]
    table = [[label, digest, *(row.get(key) for key in columns)] for (label, digest), row in rows.items()]
    return ["weights", "digest", *heads], table


def write_comparison(results: Sequence[dict[str, Any]], out: str | Path) -> Path:
    """Write OUT/comparison.csv and return its path."""
    columns, rows = comparison(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path = Path(out) / COMPARISON
    write_text(path, stream.getvalue())
    return path


def terminal_table(results: Sequence[dict[str, Any]]) -> str:
    """The comparison as text, one block per protocol, so that it fits a terminal."""
    from tabulate import tabulate

    blocks = []
    for protocol in dict.fromkeys(protocol_name(r) for r in results):
        part = [r for r in results if protocol_name(r) == protocol]
        columns, rows = comparison(part)
        heads = [c.removeprefix(f"{protocol} ") for c in columns]
        name = f"{protocol} on {', '.join(dict.fromkeys(data_name(r) for r in part))}"
        blocks.append(f"{name}\n" + tabulate(rows, headers=heads, floatfmt=".4g", missingval="-"))
    return "\n\n".join(blocks)


def protocol_name(result: dict[str, Any]) -> str:
    """Protocol, version and, for detection, the engine: what must be equal for numbers to be compared."""
    engine = result["details"].get("engine")
    return f"{result['protocol']} v{result['version']}" + (f" {engine}" if engine else "")


def data_name(result: dict[str, Any]) -> str:
    details = result["details"]
    data = details.get("data") or ", ".join(details.get("recipe", {}).get("DATASETS", {}).get("TEST", [])) or "?"
    return str(data) + (f" (first {details['limit']})" if details.get("limit") else "")
