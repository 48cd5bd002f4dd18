"""The matrix as text: tables for people, one row per mixture for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from tabulate import tabulate

from ssl_loc.compatibility.matrix import Matrix
from ssl_loc.utils.errors import check_choice

FORMATS = ("table", "markdown", "csv")
YES, CAUTION, NO = "yes", "(yes)", "no"
# What the data must have, in words.
DATA = {
    "saliency": "saliency maps",
    "graded": "saliency maps with grey values",
    "boxes": "annotated boxes",
    "donor": "other pictures",
}
HEADER = ("method", "augmenter", "loss", "possible", "reason", "impossible_with", "caution", "data")


def render(matrix: Matrix, style: str = "table") -> str:
    """The whole matrix as a text.

    Args:
        matrix: what to show.
        style: "table" (for a terminal) or "markdown": methods x losses, methods x augmenters, the order of augmenters
            in a view, what each part needs of the data, and a note for every cell that is not a plain yes. "csv": one
            row per mixture of a method, an augmenter and a loss.
    """
    check_choice("--format", style, FORMATS)
    if style == "csv":
        return _csv(matrix)
    notes = Notes()
    losses = method_table(
        matrix, list(matrix.losses), notes, lambda method, loss: loss_cell(matrix, method, loss, notes)
    )
    steps = list(matrix.augmenters)
    augmenters = method_table(matrix, steps, notes, lambda method, step: augmenter_cell(matrix, method, step, notes))
    for row, text in zip(augmenters, ["views", *(views_words(matrix, name) for name in matrix.methods)], strict=True):
        row.insert(1, text)
    cells = list(matrix.cells())
    title = "### {}" if style == "markdown" else "{}"
    parts = [
        f"{sum(cell.possible for cell in cells)} of {len(cells)} mixtures of a method, an augmenter and a loss can be "
        f"built. {YES}: works; {CAUTION}: works, but not as the only loss; {NO}: stops at build. Any number of losses "
        "of a row can be added up, and any number of augmenters put in a row, in the order below.",
        title.format("Methods and losses"),
        _grid(losses, style),
        title.format("Methods and augmenters"),
        _grid(augmenters, style),
        title.format("Notes"),
        "\n".join(f"{number}. {text}" for text, number in notes.numbers.items()),
        title.format("Order of augmenters in a view"),
        _order(matrix, style),
        title.format("What the data must have"),
        _grid(_data_rows(matrix), style),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


class Notes:
    """Numbers notes in the order in which they are first needed; equal ones share a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """What stands in the cell."""
        return f"[{self.numbers.setdefault(text, len(self.numbers) + 1)}]"


def method_table(matrix: Matrix, columns: list[str], notes: Notes, cell: Callable[[str, str], str]) -> list[list[str]]:
    """Header and one row per method."""
    return [["", *columns], *([method, *(cell(method, column) for column in columns)] for method in matrix.methods)]


def loss_cell(matrix: Matrix, method: str, loss: str, notes: Notes) -> str:
    """What a method does with a loss, and the numbers of the notes on it."""
    if problem := matrix.problem(method, [], [loss]):
        return f"{NO} {notes.mark(problem)}"
    caution = matrix.caution(method, [loss])
    texts = [caution] if caution else []
    by_key: dict[str, list[str]] = {}
    for limit in matrix.limits(method, loss):
        by_key.setdefault(f"{limit.key}\n{limit.problem}", []).append(str(limit.value))
    for words, values in by_key.items():
        key, problem = words.split("\n")
        texts.append(f"Not with {key} {' or '.join(values)}: {problem}")
    return " ".join([CAUTION if caution else YES, *(notes.mark(text) for text in texts)])


def augmenter_cell(matrix: Matrix, method: str, augmenter: str, notes: Notes) -> str:
    """What a method does with an augmenter, and the number of the note on it."""
    problem = matrix.problem(method, matrix.pipeline(augmenter), [])
    return f"{NO} {notes.mark(problem)}" if problem else YES


def views_words(matrix: Matrix, method: str) -> str:
    """How many views of an image the method takes."""
    made = matrix.methods[method]
    return " or ".join(str(n) for n in made.views) if made is not None else ""


def refused_orders(matrix: Matrix) -> dict[str, list[str]]:
    """Augmenter -> those that it cannot come after in one view."""
    names = list(matrix.augmenters)
    return {last: [first for first in names if matrix.order_problem([first, last])] for last in names}


def data_words(needs: frozenset[str]) -> list[str]:
    """What the data must have, in words; maps with grey values are maps."""
    return [DATA.get(need, need) for need in sorted(needs - ({"saliency"} if "graded" in needs else frozenset()))]


def _order(matrix: Matrix, style: str) -> str:
    late = {last: firsts for last, firsts in refused_orders(matrix).items() if firsts}
    rows = [["", "cannot come after"], *([last, ", ".join(firsts)] for last, firsts in late.items())]
    free = [name for name in matrix.augmenters if name not in late]
    text = f"Anywhere: {', '.join(free)}." if free else ""
    return f"{_grid(rows, style)}\n\n{text}" if late else text


def _data_rows(matrix: Matrix) -> list[list[str]]:
    rows = [["", "needs"]]
    rows += [[name, ", ".join(data_words(matrix.data_of_augmenter(name)))] for name in matrix.augmenters]
    rows += [[name, ", ".join(data_words(matrix.data_of_loss(name)))] for name in matrix.losses]
    return [row for row in rows if row[1]]


def _grid(rows: list[list[str]], style: str) -> str:
    header, *body = rows
    if style == "markdown":
        return tabulate(body, header, tablefmt="github", disable_numparse=True)
    # Long names are broken between their words, so that a table fits into a terminal.
    header = [re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "\n", name) for name in header]
    return tabulate(
        body, header, tablefmt="simple", disable_numparse=True, maxcolwidths=[None, *[60] * (len(header) - 1)]
    )


def _csv(matrix: Matrix) -> str:
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(HEADER)
    for cell in matrix.cells():
        limits = "; ".join(f"{limit.key} {limit.value}" for limit in cell.limits)
        data = "; ".join(data_words(cell.data))
        names = (cell.method, cell.augmenter, cell.loss)
        rows.writerow([*names, "yes" if cell.possible else "no", cell.problem, limits, cell.caution, data])
    return stream.getvalue()
