"""Precision and recall of saliency maps over the threshold, and F-measure over the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ssl_loc.saliency.metrics import LEVELS, f_measure
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.style import MARKERS, figure, look, method_colors, method_rounds, save

NAME = "saliency_curves.png"


def map_curves_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Results of the protocol ``saliency`` on one set of masks: left the PR curve, right F over the threshold.

    Raises:
        DataError: none of the results is one.
    """
    shown = [r for r in results if "curve" in r["details"] and "max_f" in r["metrics"]]
    if not shown:
        raise DataError("no result holds a curve; expected results of tools/evaluate.py --protocol saliency")
    labels = [r["details"]["label"] for r in shown]
    colors = method_colors(labels)
    marks = {label: MARKERS[n] for label, n in method_rounds(colors).items()}
    with look():
        fig = figure(9.6, 4.4)
        left, right = fig.subplots(1, 2)
        for r, label in zip(shown, labels, strict=True):
            precision, recall = (np.array(r["details"]["curve"][key]) for key in ("precision", "recall"))
            f = f_measure(precision, recall)
            best = int(f.argmax())
            # Threshold 0 predicts everything: every curve ends in the same point (recall 1), share of the object.
            line: dict[str, Any] = {
                "color": colors[label], "marker": marks[label], "markersize": 4, "markevery": LEVELS // 8,
            }  # fmt: skip
            left.plot(recall, precision, label=f"{label}: max F {f[best]:.3f}", **line)
            left.plot(recall[best], precision[best], "o", color=colors[label], markersize=5)
            right.plot(np.arange(LEVELS), f, label=label, **line)
        left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01))
        left.set_title("Averaged over images, 256 thresholds", loc="left")
        right.set(xlabel="threshold (grey value)", ylabel="F-measure, beta\u00b2 = 0.3", xlim=(0, 255), ylim=(0, 1.01))
        right.set_title("F over the threshold", loc="left")
        left.legend(loc="lower left")
    return fig


def write_map_curves(results: Sequence[dict[str, Any]], out: str | Path) -> Path:
    """Write OUT/saliency_curves.png and return its path."""
    return save(map_curves_figure(results), Path(out) / NAME)
