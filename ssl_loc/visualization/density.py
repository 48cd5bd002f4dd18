"""Density of the grounding IoU per method (CAST paper, Figure 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.labels import number_repeats
from ssl_loc.visualization.style import MARKERS, figure, look, method_colors, method_rounds

# Inches; and letters of a label of which two stand beside each other.
_WIDTH, _SHORT = 5.2, 15


def density_figure(results: Sequence[dict[str, Any]], colors: Mapping[str, str] | None = None) -> Figure:
    """One curve per grounding result (as read from its json), with its mean as a dashed line.

    ``colors`` by label; by default the methods' own. A result whose IoUs are all equal has no density; it is drawn as
    its mean line only.
    """
    found = [r for r in results if r.get("protocol") == "grounding"]
    if not found:
        raise DataError("none of the given results is of protocol 'grounding'; make one with tools/evaluate.py")
    labels = unique_labels(found)
    colors = {**method_colors(labels), **(colors or {})}
    marks = {label: MARKERS[n] for label, n in method_rounds({label: colors[label] for label in labels}).items()}
    counts = {r["details"]["images"] for r in found}
    # The legend stands below, and the picture is no wider than a phone can show with its words still readable.
    beside = 2 if max(map(len, labels)) <= _SHORT and len(counts) == 1 else 1
    with look():
        fig = figure(_WIDTH, 3.9 + 0.2 * math.ceil(len(found) / beside))
        ax = fig.add_subplot()
        top = 0.0
        for label, result in zip(labels, found, strict=True):
            x, y = result["details"]["density"]["x"], result["details"]["density"]["y"]
            mean = result["metrics"]["iou_mean"]
            count = "" if len(counts) == 1 else f", n = {result['details']['images']}"
            ax.plot(
                x, y, color=colors[label], label=f"{label}  (mean {mean:.2f}{count})", marker=marks[label],
                markersize=4, markevery=max(1, len(x) // 8),
            )  # fmt: skip
            if y:
                ax.fill_between(x, y, color=colors[label], alpha=0.10, linewidth=0)
            ax.axvline(mean, color=colors[label], linestyle="--", linewidth=1.1)
            top = max([top, *y])
        ax.set(xlim=(0, 1), xlabel="IoU of binarised Grad-CAM and the query's mask", ylabel="density")
        ax.set_ylim(0, 1.12 * top if top else 1)
        ax.set_title("Grounding: where the similarity looks", loc="left")
        title = "dashed: mean" + (f"; n = {counts.pop()} images" if len(counts) == 1 else "")
        fig.legend(loc="outside lower left", title=title, title_fontsize=9.5, fontsize=9.5, ncols=beside)
    return fig


def unique_labels(results: Sequence[dict[str, Any]]) -> list[str]:
    """A distinct name per result: its label, numbered where it repeats."""
    return number_repeats([r.get("details", {}).get("label") or r.get("weights") or "weights" for r in results])
