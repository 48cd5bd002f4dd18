"""Curves, tables and files of an evaluation's scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssl_loc.transfer.detection_scores import (
    DetectionScores,
    class_row,
    class_table,
    curve,
    load_scores,
    ranked_classes,
    save_scores,
)
from ssl_loc.utils.errors import DataError


def scores_of(**ap):
    """Class -> AP at all thresholds."""
    rows = {name: class_row([value] * 10, 4) for name, value in ap.items()}
    return DetectionScores("set", "own", {"bbox/AP": float(np.mean(list(ap.values())))}, {"bbox": rows}, {"bbox": {}})


def test_a_curve_is_the_precision_at_each_recall_or_a_higher_one():
    # Three of four objects found, with a false one before the second and the third: precision 1, 1/2, 2/3, 2/4, 3/5.
    found = curve([0.25, 0.25, 0.5, 0.5, 0.75], [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5], ap=57.5)
    # Levels 0 to .25 at 1, .26 to .50 at 2/3, .51 to .75 at 3/5, nothing beyond.
    assert found.precision == pytest.approx([1] * 26 + [2 / 3] * 25 + [3 / 5] * 25 + [0] * 25)
    assert len(found.recall) == 101 and found.recall[25] == pytest.approx(0.25) and found.ap == 57.5


def test_a_curve_does_not_fall_before_it_rises():
    # A false detection first: precision 1/2 at recall .5 and 2/3 at 1; so 2/3 can be had at every recall.
    assert curve([0.0, 0.5, 1.0], [0.0, 1 / 2, 2 / 3], ap=66.7).precision == pytest.approx([2 / 3] * 101)


def test_a_curve_without_detections_or_with_all_objects():
    assert curve([], [], 0).precision == [0.0] * 101
    assert curve([0.5, 1.0], [1.0, 1.0], 100).precision == [1.0] * 101
    # 57 of 100 objects: 57/100 is below np.linspace's .57, and reaches the level all the same.
    assert np.linspace(0, 1, 101)[57] > 0.57 - 1e-12
    reached = [n / 100 for n in range(1, 58)]
    assert sum(curve(reached, [1.0] * 57, 57).precision) == 58


def test_class_rows():
    row = class_row([90, 80, 70, 60, 50, 40, 30, 20, 10, 0], objects=3)
    assert row == {"AP": 45, "AP50": 90, "AP75": 40, "objects": 3}


def test_tables_are_sorted_and_cut():
    lines = class_table(scores_of(cat=10, dog=30, bird=20)).splitlines()
    assert lines[0].split() == ["class", "objects", "bbox", "AP", "bbox", "AP50", "bbox", "AP75"]
    assert [line.split()[:3] for line in lines[2:]] == [
        ["dog", "4", "30.00"],
        ["bird", "4", "20.00"],
        ["cat", "4", "10.00"],
    ]
    many = scores_of(**{f"c{n:02d}": float(n) for n in range(80)})
    lines = class_table(many).splitlines()[2:]
    assert len(lines) == 21 and lines[0].startswith("c79") and lines[-1].startswith("c00")
    assert lines[10].startswith("... 60 more ...")
    assert len(class_table(many, full=80).splitlines()) == 82
    assert class_table(DetectionScores("set", "own", {})) == ""


def test_tables_of_boxes_and_masks_share_their_rows():
    scores = scores_of(cat=10, dog=30)
    both = DetectionScores("set", "own", {}, {**scores.per_class, "segm": {"cat": class_row([50] * 10, 4)}})
    lines = class_table(both).splitlines()[2:]
    assert lines[0].split() == ["dog", "4", "30.00", "30.00", "30.00", "-", "-", "-"]
    assert lines[1].split() == ["cat", "4", "10.00", "10.00", "10.00", "50.00", "50.00", "50.00"]
    assert ranked_classes(both) == ["dog", "cat"] and ranked_classes(both, "segm") == ["cat", "dog"]


def test_files(tmp_path):
    before = scores_of(cat=10, dog=30)
    before.curves["bbox"]["cat"] = curve([0.5], [1 / 3], 10)
    save_scores(tmp_path / "a_scores.json", before)
    after = load_scores(tmp_path / "a_scores.json")
    assert after.metrics == before.metrics and after.per_class == before.per_class
    assert after.curves["bbox"]["cat"].precision[:51] == [0.3333] * 51 and after.curves["bbox"]["cat"].ap == 10
    text = (tmp_path / "a_scores.json").read_text()
    assert "NaN" not in text and json.loads(text)["format"] == "ssl_loc.detection_scores"
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match="not a file of scores .*version 1"):
        load_scores(tmp_path / "other.json")
