"""One measured figure, the table of them, and their json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tabulate import tabulate

from ssl_loc.utils.file_io import write_json

_HOLDS = {True: "yes", False: "NO", None: ""}


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        name: what was measured, with its sizes.
        value: the figure, in ``unit``.
        unit: "x" for ratios, "ms/image", "kB", ...
        baseline: what a ratio refers to, with its own figure; "" for absolute figures.
        goal: what the figure should be, e.g. ">= 3.7"; "" where there is no goal.
        holds: whether the goal is reached; None where there is none.
    """

    name: str
    value: float
    unit: str
    baseline: str = ""
    goal: str = ""
    holds: bool | None = None

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, baseline: str, goal: float) -> Row:
        """A figure that should reach ``goal``."""
        return cls(name, value, unit, baseline, f">= {goal}", value >= goal)

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, baseline: str, goal: float) -> Row:
        """A figure that should stay below ``goal``."""
        return cls(name, value, unit, baseline, f"<= {goal}", value <= goal)


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as a plain text table."""
    cells = [[r.name, f"{r.value:.3g}", r.unit, r.baseline, r.goal, _HOLDS[r.holds]] for r in rows]
    headers = ["figure", "value", "unit", "baseline", "goal", "holds"]
    return tabulate(cells, headers, tablefmt="simple", disable_numparse=True)


def write_rows(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Write the rows as a json list of objects."""
    write_json(path, [asdict(row) for row in rows])
