"""Density of the grounding IoU per method (CAST paper, Figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.labels import number_repeats
from ssl_loc.visualization.style import figure, look, method_colors


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
    with look():
        fig = figure(7.2, 4.2)
        ax = fig.add_subplot()
        top = 0.0
        for label, result in zip(labels, found, strict=True):
            x, y = result["details"]["density"]["x"], result["details"]["density"]["y"]
            mean = result["metrics"]["iou_mean"]
            ax.plot(x, y, color=colors[label], label=f"{label}  (mean {mean:.2f}, n = {result['details']['images']})")
            if y:
                ax.fill_between(x, y, color=colors[label], alpha=0.10, linewidth=0)
            ax.axvline(mean, color=colors[label], linestyle="--", linewidth=1.1)
            top = max([top, *y])
        ax.set(xlim=(0, 1), xlabel="IoU of binarised Grad-CAM and the query's saliency mask", ylabel="density")
        ax.set_ylim(0, 1.12 * top if top else 1)
        ax.set_title("Grounding: where the similarity looks", loc="left")
        ax.legend(loc="upper right", title="dashed: mean", title_fontsize=9)
    return fig


def unique_labels(results: Sequence[dict[str, Any]]) -> list[str]:
    """A distinct name per result: its label, numbered where it repeats."""
    return number_repeats([r.get("details", {}).get("label") or r.get("weights") or "weights" for r in results])
