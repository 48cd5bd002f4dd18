"""What a study measured, as dots: a panel per column, a line per pretraining, every seed visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_loc.visualization.style import INK, MARKERS, figure, look, method_colors, method_rounds

# Inches: the names, a panel, everything above and below the lines, a line.
_NAMES, _PANEL, _FRAME, _LINE = 1.5, 2.0, 0.9, 0.27


def study_figure(
    rows: Sequence[str], columns: Sequence[str], numbers: Mapping[tuple[str, str], Sequence[float]]
) -> Figure:
    """Dots per seed with a stroke at their mean.

    Args:
        rows: names, from top to bottom.
        columns: titles of the panels, from left to right.
        numbers: (row, column) -> one number per seed; a pair that is missing was not measured and stays empty.
    """
    colors = method_colors(rows)
    rounds = method_rounds(colors)
    marks = [MARKERS[rounds[row] + 1] if rounds[row] < len(MARKERS) - 1 else "D" for row in rows]
    with look():
        fig = figure(_NAMES + _PANEL * len(columns), _FRAME + _LINE * len(rows))
        axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for ax, column in zip(axes, columns, strict=True):
            _panel(ax, column, [numbers.get((row, column), ()) for row in rows], [colors[row] for row in rows], marks)
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return fig


def _panel(
    ax: Axes, column: str, values: Sequence[Sequence[float]], colors: Sequence[str], marks: Sequence[str]
) -> None:
    for y, (seeds, color, mark) in enumerate(zip(values, colors, marks, strict=True)):
        if seeds:
            mean = sum(seeds) / len(seeds)
            ax.plot([mean, mean], [y - 0.32, y + 0.32], color=INK, linewidth=1.6, zorder=3)
            ax.scatter(seeds, [y] * len(seeds), s=26, color=color, marker=mark, alpha=0.85, linewidth=0, zorder=2)
    ax.set_title(column, loc="left", fontsize=10)
    low, high = ax.get_xlim()
    ax.set_xlim(min(0.0, low), high)
