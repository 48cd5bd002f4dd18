"""Results side by side: one table for the terminal, one for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_loc.evaluation.results import data_name, protocol_name, spread_of
from ssl_loc.utils.file_io import write_text

COMPARISON = "comparison.csv"
# (protocol and version, dataset, metric)
Key = tuple[str, str, str]


def comparison(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One row per weights, one column per protocol, version, data and metric -> (columns, rows).

    Numbers of two versions or two datasets never share a column; the dataset is named only where there are several.
    Where a metric was measured with several seeds, a column with its deviation follows; where a published number is
    known, a column with that.
    """
    names = _column_names(results)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    columns: dict[str, None] = {}
    for r in results:
        row = rows.setdefault((r["details"].get("label", r["weights"]), r["digest"]), {})
        for metric in r["metrics"]:
            head = names[(protocol_name(r), data_name(r), metric)]
            for column, value in _cells(r, metric, head).items():
                columns[column] = None
                row[column] = value
    order = _order(list(names.values()), list(columns))
    table = [[label, digest, *(row.get(key) for key in order)] for (label, digest), row in rows.items()]
    return ["weights", "digest", *order], table


def _cells(r: dict[str, Any], metric: str, head: str) -> dict[str, Any]:
    cells = {head: r["metrics"][metric]}
    if (std := spread_of(r, metric)) is not None:
        cells[f"{head} std"] = std
    if (known := (r["details"].get("published") or {}).get(metric)) is not None:
        cells[f"{head} published"] = known["value"]
    return cells


def _column_names(results: Sequence[dict[str, Any]]) -> dict[Key, str]:
    datasets: dict[str, set[str]] = {}
    for r in results:
        datasets.setdefault(protocol_name(r), set()).add(data_name(r))
    names: dict[Key, str] = {}
    for r in results:
        protocol, data = protocol_name(r), data_name(r)
        where = f" [{data}]" if len(datasets[protocol]) > 1 else ""
        names |= {(protocol, data, metric): f"{protocol} {metric}{where}" for metric in r["metrics"]}
    return names


def _order(heads: list[str], columns: list[str]) -> list[str]:
    """Each metric's column, then its deviation, then the published number, whichever there are."""
    wanted = (f"{head}{more}" for head in dict.fromkeys(heads) for more in ("", " std", " published"))
    return [column for column in wanted if column in columns]


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
    """The results as text, one block per protocol and dataset: measured rows, below them the published ones."""
    from tabulate import tabulate

    blocks = []
    for protocol, data in dict.fromkeys((protocol_name(r), data_name(r)) for r in results):
        part = [r for r in results if (protocol_name(r), data_name(r)) == (protocol, data)]
        metrics = list(dict.fromkeys(metric for r in part for metric in r["metrics"]))
        rows = [[r["details"]["label"], r["digest"], *(_text(r, metric) for metric in metrics)] for r in part]
        rows += reference_rows(part, metrics)
        # Numbers come as text: tabulate would give every cell of a column the digits of the longest.
        table = tabulate(rows, headers=["weights", "digest", *metrics], missingval="-", disable_numparse=True)
        blocks.append(f"{protocol} on {data}\n{table}")
    return "\n\n".join(blocks)


def reference_rows(results: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[list[Any]]:
    """Published numbers of the same protocol: [name, "published", a value or None per metric]."""
    found: dict[str, dict[str, float]] = {}
    for r in results:
        for label, metric, value, _ in r["details"].get("references") or []:
            found.setdefault(str(label), {})[metric] = value
    return [
        [label, "published", *(None if m not in row else f"{row[m]:.4g}" for m in metrics)]
        for label, row in found.items()
    ]


def _text(result: dict[str, Any], metric: str) -> str | None:
    if metric not in result["metrics"]:
        return None
    std = spread_of(result, metric)
    return f"{result['metrics'][metric]:.4g}" + ("" if std is None else f" ± {std:.2g}")
