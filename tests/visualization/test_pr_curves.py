"""Precision-recall curves: the numbers that are drawn, and which classes get a panel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_loc.transfer.detection_scores import DetectionScores, PrCurve, curve
from ssl_loc.visualization.detection_runs import DetectionGroup, DetectionRun
from ssl_loc.visualization.pr_curves import ALL_CLASSES, ENDS, mean_curve, pr_picture, shown_classes


def group(label: str, *seeds: dict[str, float], task: str = "bbox") -> DetectionGroup:
    """Runs whose classes have a constant precision up to recall 1: {class: precision}."""
    runs = []
    for values in seeds:
        curves = {name: curve([0.5, 1.0], [v, v], 100 * v) for name, v in values.items()}
        result = {"metrics": {f"{task}/AP": 1.0}, "details": {"recipe": {"DATASETS": {"TEST": ["data"]}}}}
        run = DetectionRun(Path(label), result)
        run.__dict__["scores"] = {"data": DetectionScores("data", "own", {}, {}, {task: curves})}
        runs.append(run)
    return DetectionGroup(label, runs)


def test_mean_over_classes_by_hand() -> None:
    # Reached recall 1 and .5: beyond its recall a class is worth nothing.
    levels, height = mean_curve([curve([0.5, 1.0], [1.0, 0.8], 0.0), curve([0.5], [0.4], 0.0)])
    at = dict(zip(levels.round(2).tolist(), height.tolist(), strict=True))
    assert at[0.0] == pytest.approx(0.7) and at[0.5] == pytest.approx(0.7)
    assert at[0.51] == pytest.approx(0.4) and at[1.0] == pytest.approx(0.4)
    assert mean_curve([PrCurve([0.0, 0.5], [0.6, 0.6], 0.0)])[1][[50, 51]].tolist() == [0.6, 0.0]  # ends at .5


def test_panels_lines_and_legend() -> None:
    picture = pr_picture([group("CAST", {"cat": 0.2, "dog": 0.6}, {"cat": 0.4, "dog": 0.8})], "data", "some data")
    large, *small = picture.image.axes
    means = sorted(float(line.get_ydata()[0]) for line in large.lines)
    assert means == pytest.approx([0.4, 0.6]) and len({line.get_color() for line in large.lines}) == 1
    assert [t.get_text() for t in large.get_legend().get_texts()] == ["AP50 50.0"]
    assert [ax.get_title(loc="left") for ax in small] == ["dog", "cat"]
    assert [len(ax.lines) for ax in small] == [2, 2]
    assert "some data" in picture.caption and "One line per seed" in picture.caption
    single = pr_picture([group("A", {"cat": 0.2, "dog": 0.6})], "data")
    assert [ax.get_title(loc="left") for ax in single.image.axes[1:]] == ["dog 60", "cat 20"]
    several = pr_picture([group("A", {"cat": 0.2}), group("B", {"cat": 0.4})], "data")
    assert [t.get_text() for t in several.image.axes[0].get_legend().get_texts()] == ["A AP50 20.0", "B AP50 40.0"]
    assert pr_picture([group("A", {"cat": 0.2})], "other data") is None


def test_of_many_classes_the_best_and_the_worst() -> None:
    def scores(count: int) -> DetectionScores:
        return group("A", {f"c{i:02d}": i / count for i in range(count)}).first.scores["data"]

    assert len(shown_classes([scores(ALL_CLASSES)])) == ALL_CLASSES
    names = shown_classes([scores(80)])
    assert names == [*(f"c{i:02d}" for i in range(79, 79 - ENDS, -1)), *(f"c{i:02d}" for i in range(ENDS - 1, -1, -1))]
    caption = pr_picture([group("A", {f"c{i:02d}": i / 80 for i in range(80)})], "data").caption
    assert f"Best and worst {ENDS} of 80 classes" in caption


def test_equal_levels_are_not_needed() -> None:
    levels, height = mean_curve([])
    assert len(levels) == 101 and not np.any(height)
