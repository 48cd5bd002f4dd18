"""The matrix of mixtures as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ssl_loc.compatibility import Matrix
from ssl_loc.compatibility.tables import refused_orders
from ssl_loc.visualization.style import INK, MET, PALE, UNMET, figure, look

BESIDE = "#E69F00"
# State of a cell: marker, colour, words of the legend.
STATES = {
    "yes": ("o", MET, "works"),
    "caution": ("o", BESIDE, "works beside another loss, alone it collapses"),
    "limit": ("D", MET, "works, but not at every setting"),
    "caution and limit": ("D", BESIDE, ""),
    "no": ("x", UNMET, "stops at build with a sentence"),
}
CELL, NAMES, LABELS = 0.42, 2.1, 1.9  # inches: a cell, the names of the rows, those of the columns


def matrix_figure(matrix: Matrix) -> Figure:
    """Methods x losses and augmenters; below, which augmenter may come after which in one view."""
    losses, augmenters, methods = list(matrix.losses), list(matrix.augmenters), list(matrix.methods)
    late = {last: firsts for last, firsts in refused_orders(matrix).items() if firsts}
    columns, rows = len(losses) + 1 + len(augmenters), len(methods) + max(1, len(late))
    with look():
        fig = figure(CELL * columns + NAMES, CELL * rows + LABELS + 1.1)
        # Long names end at the very edge otherwise.
        fig.set_layout_engine("constrained", h_pad=0.1)
        grid = fig.add_gridspec(
            2, 2, width_ratios=[len(losses), len(augmenters)], height_ratios=[len(methods), max(1, len(late))]
        )
        axes = [fig.add_subplot(grid[0, 0]), fig.add_subplot(grid[0, 1]), fig.add_subplot(grid[1, 1])]
        _panel(
            axes[0], "method and loss", methods, losses, [[_with_loss(matrix, m, x) for x in losses] for m in methods]
        )
        states = [[_with_augmenter(matrix, m, x) for x in augmenters] for m in methods]
        _panel(axes[1], "method and augmenter", methods, augmenters, states)
        order = [["no" if first in late[last] else "yes" for first in augmenters] for last in late]
        _panel(axes[2], "in one view: row after column", list(late), augmenters, order, top=False)
        fig.legend(
            handles=[_handle(state) for state in STATES if STATES[state][2]],
            loc="lower left",
            frameon=False,
            fontsize=9,
        )
    return fig


def _with_loss(matrix: Matrix, method: str, loss: str) -> str:
    if matrix.problem(method, [], [loss]):
        return "no"
    facts = {"caution": matrix.caution(method, [loss]), "limit": matrix.limits(method, loss)}
    return " and ".join(name for name, there in facts.items() if there) or "yes"


def _with_augmenter(matrix: Matrix, method: str, augmenter: str) -> str:
    return "no" if matrix.problem(method, matrix.pipeline(augmenter), []) else "yes"


def _panel(
    ax: Axes,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    states: Sequence[Sequence[str]],
    top: bool = True,
) -> None:
    """One marker per cell; the columns' names stand above where ``top``."""
    for y, line in enumerate(states):
        for x, state in enumerate(line):
            marker, color, _ = STATES[state]
            ax.plot(x, y, marker, color=color, markersize=8, markeredgewidth=2)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    ax.set_xticks(range(len(columns)), columns if top else [""] * len(columns), rotation=90)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0, labeltop=top, labelbottom=False, colors=INK)
    ax.set_xticks([x - 0.5 for x in range(1, len(columns))], minor=True)
    ax.set_yticks([y - 0.5 for y in range(1, len(rows))], minor=True)
    ax.grid(False, which="major")
    ax.grid(True, which="minor", color=PALE)
    ax.tick_params(which="minor", length=0)
    ax.set_xlabel(title, loc="left", fontweight="bold")


def _handle(state: str) -> Line2D:
    marker, color, words = STATES[state]
    return Line2D([], [], linestyle="", marker=marker, color=color, markersize=8, markeredgewidth=2, label=words)
