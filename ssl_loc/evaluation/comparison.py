"""Results side by side: one table for the terminal, one for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_loc.evaluation.results import data_name, spread_of
from ssl_loc.evaluation.settings import protocol_names
from ssl_loc.utils.file_io import write_text

COMPARISON = "comparison.csv"
# (protocol, version and options that differ, dataset, metric)
Key = tuple[str, str, str]


def comparison(results: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """One row per weights, one column per protocol, version, options, data and metric -> (columns, rows).

    Numbers of two versions, two settings or two datasets never share a column; options and dataset are named only where
    they differ. Two results that would share a cell get a row each.
    Where a metric was measured with several seeds, a column with its deviation follows; where a published number is
    known, a column with that.
    """
    protocols = protocol_names(results)
    names = _column_names(results, protocols)
    rows: list[tuple[tuple[str, str], dict[str, Any]]] = []
    columns: dict[str, None] = {}
    for r, protocol in zip(results, protocols, strict=True):
        cells: dict[str, Any] = {}
        for metric in r["metrics"]:
            cells |= _cells(r, metric, names[(protocol, data_name(r), metric)])
        columns |= dict.fromkeys(cells)
        _place(rows, (r["details"].get("label", r["weights"]), r["digest"]), cells)
    order = _order(list(names.values()), list(columns))
    table = [[label, digest, *(row.get(key) for key in order)] for (label, digest), row in rows]
    return ["weights", "digest", *order], table


def _place(rows: list[tuple[tuple[str, str], dict[str, Any]]], key: tuple[str, str], cells: dict[str, Any]) -> None:
    """Into the first row of these weights that has room for them, or that holds the same; else into a new one."""
    for known, row in rows:
        if known == key and all(row.get(column, value) == value for column, value in cells.items()):
            row |= cells
            return
    rows.append((key, cells))


def _cells(r: dict[str, Any], metric: str, head: str) -> dict[str, Any]:
    cells = {head: r["metrics"][metric]}
    if (std := spread_of(r, metric)) is not None:
        cells[f"{head} std"] = std
    if (known := (r["details"].get("published") or {}).get(metric)) is not None:
        cells[f"{head} published"] = known["value"]
    return cells


def _column_names(results: Sequence[dict[str, Any]], protocols: Sequence[str]) -> dict[Key, str]:
    datasets: dict[str, set[str]] = {}
    for r, protocol in zip(results, protocols, strict=True):
        datasets.setdefault(protocol, set()).add(data_name(r))
    names: dict[Key, str] = {}
    for r, protocol in zip(results, protocols, strict=True):
        data = data_name(r)
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
    """The results as text, a block per protocol, options and dataset: measured rows, below them the published ones."""
    from tabulate import tabulate

    blocks = []
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r, name in zip(results, protocol_names(results), strict=True):
        groups.setdefault((name, data_name(r)), []).append(r)
    for (protocol, data), part in groups.items():
        metrics = list(dict.fromkeys(metric for r in part for metric in r["metrics"]))
        rows = [[r["details"]["label"], r["digest"], *(_text(r, metric) for metric in metrics)] for r in part]
        rows += reference_rows(part, metrics)
        # Numbers come as text: tabulate would give every cell of a column the digits of the longest.
        table = tabulate(rows, headers=["weights", "digest", *metrics], missingval="-", disable_numparse=True)
        blocks.append("\n".join([f"{protocol} on {data}", table, *left_out(part)]))
    return "\n\n".join(blocks)


def left_out(results: Sequence[dict[str, Any]]) -> list[str]:
    """Why published numbers are not shown, a sentence each."""
    return [why for why in dict.fromkeys(r["details"].get("published_left_out") for r in results) if why]


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
