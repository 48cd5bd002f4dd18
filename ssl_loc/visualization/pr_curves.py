"""Precision over recall at IoU .5: the mean over classes, large, and a small panel per class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ssl_loc.transfer.detection_scores import DetectionScores, PrCurve
from ssl_loc.visualization.detection_runs import TASKS, DetectionGroup, tasks_of
from ssl_loc.visualization.labels import wrap_title
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.style import figure, look, method_colors

# More classes than this: only the best and the worst ENDS of them get a panel.
ALL_CLASSES, ENDS = 24, 6
COLUMNS, LARGE = 6, 2  # small panels per row; the mean covers LARGE x LARGE of them
CELL, TITLE = 1.75, 8.5  # inches, points
STYLES = {"bbox": "-", "segm": "--"}


def pr_picture(groups: Sequence[DetectionGroup], dataset: str, name: str = "") -> Picture | None:
    """Curves of every group (one colour each; a line per seed) on one test set; None where no run has scores of it.

    ``name``: what the caption calls the test set.
    """
    groups = [group for group in groups if any(dataset in run.scores for run in group.runs)]
    if not groups:
        return None
    tasks = tasks_of(groups, dataset)
    classes = shown_classes([_scores(group, dataset)[0] for group in groups])
    count = len(_scores(groups[0], dataset)[0].curves.get(tasks[0], {}))
    if not classes:
        return None
    colors = method_colors([group.label for group in groups])
    beside = (COLUMNS - LARGE) * LARGE
    rows = LARGE + math.ceil(max(0, len(classes) - beside) / COLUMNS)
    with look():
        fig = figure(CELL * COLUMNS + 0.3, CELL * 0.95 * rows + 0.2)
        grid = fig.add_gridspec(rows, COLUMNS)
        large = fig.add_subplot(grid[:LARGE, :LARGE])
        _mean_panel(large, groups, dataset, tasks, colors)
        places = [(r, c) for r in range(rows) for c in range(COLUMNS) if r >= LARGE or c >= LARGE]
        for (r, c), label in zip(places, classes, strict=False):
            _class_panel(fig.add_subplot(grid[r, c]), label, groups, dataset, tasks, colors)
    return Picture(fig, _caption(name or dataset, len(classes), count, tasks, groups), wide=True)


def shown_classes(scores: Sequence[DetectionScores]) -> list[str]:
    """Classes with a panel, best AP50 of the first scores on top: all of them, or the best and the worst of many."""
    task = next((task for task in TASKS if scores[0].curves.get(task)), "")
    first = scores[0].curves.get(task, {})
    ranked = sorted(first, key=lambda name: (-first[name].ap, name))
    return ranked if len(ranked) <= ALL_CLASSES else [*ranked[:ENDS], *ranked[-ENDS:]]


def mean_curve(curves: Sequence[PrCurve]) -> tuple[np.ndarray, np.ndarray]:
    """(recall, mean precision) over curves; each is worth 0 beyond the recall that it reached."""
    levels = np.linspace(0.0, 1.0, 101)
    heights = [np.interp(levels, curve.recall, curve.precision, right=0.0) for curve in curves if curve.recall]
    return levels, np.mean(heights, axis=0) if heights else np.zeros_like(levels)


def _mean_panel(
    ax: Axes, groups: Sequence[DetectionGroup], dataset: str, tasks: Sequence[str], colors: dict[str, str]
) -> None:
    for group in groups:
        for task in tasks:
            found = [list(s.curves.get(task, {}).values()) for s in _scores(group, dataset)]
            if not any(found):
                continue
            for i, curves in enumerate(found):
                value = np.mean([c.ap for curves in found for c in curves])
                words = [
                    group.label if len(groups) > 1 else "",
                    TASKS[task] if len(tasks) > 1 else "",
                    f"AP50 {value:.1f}",
                ]
                ax.plot(
                    *mean_curve(curves), color=colors[group.label], linestyle=STYLES[task], linewidth=2.0,
                    label=" ".join(word for word in words if word) if i == 0 else "_",
                )  # fmt: skip
    _frame(ax)
    ax.set(xlabel="recall", ylabel="precision")
    ax.set_title("Mean over classes", loc="left", fontsize=10.5)
    ax.legend(loc="upper right", fontsize=8)


def _class_panel(
    ax: Axes, label: str, groups: Sequence[DetectionGroup], dataset: str, tasks: Sequence[str], colors: dict[str, str]
) -> None:
    first = None
    for group in groups:
        for task in tasks:
            for scores in _scores(group, dataset):
                curve = scores.curves.get(task, {}).get(label)
                if curve is None:
                    continue
                first = first or curve
                ax.plot(curve.recall, curve.precision, color=colors[group.label], linestyle=STYLES[task], linewidth=1.3)
    _frame(ax)
    ax.tick_params(labelleft=False, labelbottom=False, length=2)
    # With one model the number stands beside the name; of several the table tells.
    number = f" {first.ap:.0f}" if first and len(groups) == 1 and len(groups[0].runs) == 1 else ""
    ax.set_title(wrap_title(label, CELL, TITLE) + number, loc="left", fontsize=TITLE, pad=3)


def _frame(ax: Axes) -> None:
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def _scores(group: DetectionGroup, dataset: str) -> list[DetectionScores]:
    return [run.scores[dataset] for run in group.runs if dataset in run.scores]


def _caption(name: str, shown: int, count: int, tasks: Sequence[str], groups: Sequence[DetectionGroup]) -> str:
    text = f"Precision over recall on {name} at IoU .5; same axes everywhere."
    text += f" Best and worst {ENDS} of {count} classes by AP50." if shown < count else " Best class first."
    if len(tasks) > 1:
        text += " Solid: boxes, dashed: masks."
    if len(groups) == 1 and len(groups[0].runs) == 1:
        text += f" The number at a class is its {TASKS[tasks[0]]} AP50."
    if any(len(group.runs) > 1 for group in groups):
        text += " One line per seed."
    return text
