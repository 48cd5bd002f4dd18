"""Bars: one small panel per protocol, and groups of bars per setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_loc.visualization.labels import wrap_title
from ssl_loc.visualization.report import Spread
from ssl_loc.visualization.style import HATCHES, INK, figure, look, method_rounds

# Inches: grouped bars, one panel, a panel without its bars, a bar. Three panels fill the page.
_WIDTH, _PANEL_WIDTH, _PANEL, _BAR = 11.0, 2.9, 0.9, 0.28


@dataclass(frozen=True)
class Bars:
    """One panel.

    Attributes:
        title: of the panel.
        unit: of the numbers.
        values: name -> number, :class:`Spread`, or None where nothing was measured.
        chance: a level to compare with, or None.
        note: a few words beside the unit.
    """

    title: str
    unit: str
    values: Mapping[str, Any]
    chance: float | None = None
    note: str = ""

    def shown(self) -> dict[str, Any]:
        """What was measured."""
        return {name: value for name, value in self.values.items() if value is not None}


def bars_figures(panels: Sequence[Bars], colors: Mapping[str, str]) -> list[Figure]:
    """Horizontal bars, a small figure per panel, so that a page can set them side by side or below each other;
    ``colors``: name -> its colour, the same in every panel."""
    figures = []
    for panel in panels:
        with look():
            fig = figure(_PANEL_WIDTH, _PANEL + _BAR * len(panel.shown()))
            _draw(fig.add_subplot(), panel, colors)
        figures.append(fig)
    return figures


def _draw(ax: Axes, panel: Bars, colors: Mapping[str, str]) -> None:
    shown, tops = panel.shown(), []
    rounds = method_rounds(colors)
    for y, (name, value) in enumerate(shown.items()):
        mean, std = _parts(value)
        ax.barh(
            y, mean, xerr=std or None, height=0.68, color=colors[name], ecolor=INK, capsize=2.5,
            hatch=HATCHES[rounds[name]], edgecolor="white", linewidth=0,
        )  # fmt: skip
        end = (mean + max(std, 0), y)
        ax.annotate(_label(mean, std), end, xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        tops.append(mean + std)
    ax.set_yticks(range(len(shown)), [wrap_title(name, 1.2, 10) for name in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    low, high = min([0.0, *tops]), max([0.0, *tops, panel.chance or 0.0]) or 1.0
    # Room for the number behind the longest bar.
    ax.set_xlim(low * 1.2, high * 1.3)
    if panel.chance:
        ax.axvline(panel.chance, color=INK, linestyle=":", linewidth=1.2)
    ax.set_title(wrap_title(panel.title, 3.2, 10), loc="left", fontsize=10)
    ax.set_xlabel(panel.unit + (f" ({panel.note})" if panel.note else ""), fontsize=9)


def grouped_bars_figure(
    groups: Sequence[str],
    values: Mapping[str, Sequence[Any]],
    colors: Mapping[str, str],
    chance: float | None,
    unit: str,
) -> Figure:
    """Vertical bars: per group one bar of every name; ``values``: name -> a number, spread or None per group."""
    width = 0.82 / max(1, len(values))
    rounds = method_rounds(colors)
    with look():
        fig = figure(_WIDTH, 3.6)
        ax = fig.add_subplot()
        for i, (name, numbers) in enumerate(values.items()):
            at = [g + (i - (len(values) - 1) / 2) * width for g in range(len(groups))]
            pairs = [_parts(0.0 if number is None else number) for number in numbers]
            means, stds = [mean for mean, _ in pairs], [std for _, std in pairs]
            whiskers = stds if any(stds) else None
            ax.bar(
                at, means, width, yerr=whiskers, color=colors[name], ecolor=INK, capsize=2, label=name,
                hatch=HATCHES[rounds[name]], edgecolor="white", linewidth=0,
            )  # fmt: skip
        if chance is not None:
            ax.axhline(chance, color=INK, linestyle=":", linewidth=1.2, label=f"chance, {chance:.1f}")
        ax.set_xticks(range(len(groups)), groups)
        ax.set_ylabel(unit)
        ax.grid(axis="x", visible=False)
        fig.legend(loc="outside upper left", ncols=5)
    return fig


def _parts(value: Any) -> tuple[float, float]:
    """(mean, deviation); a single number has deviation 0."""
    if isinstance(value, Spread):
        return value.mean, value.std if math.isfinite(value.std) else 0.0
    return float(value), 0.0


def _label(mean: float, std: float) -> str:
    pattern = ".1f" if abs(mean) >= 10 else ".3g"
    return format(mean, pattern) + (f" ± {std:{pattern}}" if std else "")
