"""Names for people, and labels that stay readable wherever their boxes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_loc.visualization.box_labels import place_labels
from ssl_loc.visualization.labels import name_runs, number_repeats, short_data_names, split_label, wrap_title
from ssl_loc.visualization.pictures import draw_box, show
from ssl_loc.visualization.style import figure


def test_label_in_front_of_a_path(tmp_path: Path) -> None:
    assert split_label("MoCo + crop=a/b") == ("MoCo + crop", "a/b")
    assert split_label("a/b") == ("", "a/b")
    (tmp_path / "lr=0.1").mkdir()
    path = str(tmp_path / "lr=0.1")
    assert split_label(path) == ("", path)
    assert split_label(f"CAST={path}") == ("CAST", path)


def test_runs_have_distinct_names(tmp_path: Path) -> None:
    given = [f"CAST={tmp_path}/a/cast", f"{tmp_path}/a/moco", f"{tmp_path}/b/moco", f"CAST={tmp_path}/b/cast"]
    runs = name_runs(given)
    assert [run.label for run in runs] == ["CAST", "a/moco", "b/moco", "CAST (2)"]
    assert runs[3].path == tmp_path / "b" / "cast"
    assert number_repeats(["x", "x (2)", "x"]) == ["x", "x (2)", "x (3)"]


def test_datasets_without_their_folders() -> None:
    names = {
        "scenes:/tmp/demo/seed0/scenes:val": "scenes, val",
        "voc:/data/VOCdevkit:2007:test": "VOC 2007, test",
        "coco:/data/coco:val2017 (first 50)": "COCO, val2017 (first 50)",
        "folder:/data/photos": "photos",
        "/data/scenes/objects": "objects",
        "voc_2007_test": "voc_2007_test",
    }
    assert short_data_names(list(names)) == names
    two = ["scenes:/a/scenes:val", "scenes:/b/scenes:val"]
    assert short_data_names(two) == dict(zip(two, two, strict=True))  # short names would hide the difference


def test_titles_are_broken_to_fit() -> None:
    assert wrap_title("CAST", 2.6, 10) == "CAST"
    # 2.6 in = 187 pt = 28 letters of 6.5 pt.
    assert wrap_title("det_torchvision_coco_R18_FPN_mask", 2.6, 10) == "det_torchvision_coco_R18_\nFPN_mask"
    long = wrap_title("a-very-long-name-" * 20 + "end", 1.5, 9.5).split("\n")
    assert len(long) == 3 and long[1].startswith("…") and long[2].endswith("end") and max(map(len, long)) <= 17
    assert wrap_title("x" * 30, 1.5, 9.5) == "x" * 17 + "\n" + "x" * 13


@pytest.mark.parametrize("size", [(60, 90), (90, 60)])
def test_labels_stay_in_the_picture_and_off_each_other(size: tuple[int, int]) -> None:
    fig = figure(2.0, 2.0)
    ax = fig.subplots()
    show(ax, np.zeros((*size, 3), dtype=np.uint8))
    h, w = size
    boxes = [(w - 4, 0, w, 5), (w - 4, 0, w, 5), (-3, h - 2, 9, h + 4), (0, 0, w, h), (5, 5, 9, 9)]
    labels = [label for box in boxes if (label := draw_box(ax, box, "#000000", "teddy bear 0.99"))]
    hidden = place_labels(fig, labels)
    fig.draw_without_rendering()
    frame = ax.get_window_extent()
    extents = [label.text.get_window_extent() for label in labels if label.text.get_visible()]
    assert len(extents) == len(boxes) - hidden and hidden <= 1
    for i, e in enumerate(extents):
        assert frame.x0 <= e.x0 and e.x1 <= frame.x1 and frame.y0 <= e.y0 and e.y1 <= frame.y1
        for o in extents[:i]:
            assert min(e.x1, o.x1) <= max(e.x0, o.x0) or min(e.y1, o.y1) <= max(e.y0, o.y0)


def test_labels_without_room_are_counted_and_too_wide_ones_shrink() -> None:
    fig = figure(1.0, 0.6)
    ax = fig.subplots()
    show(ax, np.zeros((10, 40, 3), dtype=np.uint8))
    labels = [label for _ in range(9) if (label := draw_box(ax, (1, 1, 9, 9), "#000000", "a label longer than all"))]
    hidden = place_labels(fig, labels)
    assert hidden == sum(not label.text.get_visible() for label in labels) > 0
    assert labels[0].text.get_window_extent().width <= ax.get_window_extent().width + 1


def test_a_label_does_not_hide_a_small_box() -> None:
    fig = figure(3.0, 3.0)
    ax = fig.subplots()
    show(ax, np.zeros((100, 100, 3), dtype=np.uint8))
    small, large = draw_box(ax, (40, 40, 46, 46), "#000000", "cup"), draw_box(ax, (10, 60, 90, 95), "#000000", "bed")
    assert small and large and place_labels(fig, [small, large]) == 0
    rows = [ax.transData.inverted().transform(label.text.get_window_extent())[:, 1] for label in (small, large)]
    assert (
        max(rows[0]) <= 39.5 and 59.5 <= min(rows[1]) < max(rows[1]) < 70
    )  # above the small one, inside the large one
