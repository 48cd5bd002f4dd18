"""Neighbours, gradients and class maps as pictures: what is written below them is what was found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.evaluation import save_run, tiny_config
from matplotlib.figure import Figure
from PIL import Image

from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.masked_photos import PhotoBatch
from ssl_loc.evaluation.neighbours import Neighbours, Photos
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.class_cams import ClassCamPanel, class_cams_caption, class_cams_figure
from ssl_loc.visualization.gradients import (
    GradientPanel,
    gradient_picture,
    gradients_caption,
    gradients_figure,
    pick_errors,
    shows_errors,
)
from ssl_loc.visualization.neighbours import choose, neighbours_figure
from ssl_loc.visualization.pictures import outlined
from ssl_loc.visualization.strips import shorten
from ssl_loc.visualization.style import MET, UNMET

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def words(fig: Figure) -> list[str]:
    return [t.get_text() for t in fig.texts] + [t.get_text() for ax in fig.axes for t in ax.texts]


def frames(fig: Figure) -> list[str]:
    """Colour of every visible frame, in drawing order."""
    from matplotlib.colors import to_hex

    spines = [ax.spines["left"] for ax in fig.axes]
    return [to_hex(spine.get_edgecolor()).upper() for spine in spines if spine.get_visible()]


@pytest.fixture
def bank(tmp_path: Path) -> Photos:
    records = []
    for i, label in enumerate((0, 1, 1)):
        Image.fromarray(np.full((32, 40, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
        records.append(Record(str(tmp_path / f"{i}.png"), label, str(i)))
    split = LabelledSplit("bank", RecordTable.pack(records), ["cat", "dog"])
    return Photos(split, split.labels(), torch.tensor([4, 4, 5]))


def found_in(bank: Photos, index: list[list[int]]) -> Neighbours:
    places = torch.tensor(index)
    return Neighbours(bank, bank, places, torch.linspace(0.9, 0.5, places.numel()).view_as(places), within=True)


def test_neighbours_are_framed_and_named_by_what_they_are(bank: Photos) -> None:
    fig = neighbours_figure([found_in(bank, [[1, 2], [2, 0], [1, 0]])], ["A"], torch.tensor([0, 1]))
    assert frames(fig) == [UNMET, UNMET, MET, UNMET]
    said = words(fig)
    assert "✗ dog\n0.90, same ground" in said and "✗ dog\n0.82" in said  # of the cat on ground 4
    assert "✓ dog\n0.74" in said and "✗ cat\n0.66, same ground" in said  # of the dog on ground 4
    assert "A" not in said  # one model needs no name
    two = neighbours_figure([found_in(bank, [[1], [2], [1]])] * 2, ["A", "B"], torch.tensor([0]))
    assert {"A", "B"} <= set(words(two)) and len(frames(two)) == 2


def test_errors_on_the_same_background_come_first(bank: Photos) -> None:
    found = found_in(bank, [[2], [0], [1]])  # 0: other class and ground; 1: other class, same ground; 2: right
    assert choose(found, 3, "errors").tolist() == [1, 0]
    assert choose(found, 1, "errors").tolist() == [1]
    assert choose(found, 2).tolist() == [0, 2]
    with pytest.raises(DataError, match="no error to show"):
        choose(found_in(bank, [[0], [1], [2]]), 2, "errors")


def test_errors_whose_gradient_avoids_the_object_come_first() -> None:
    labels, predicted = torch.tensor([0, 1, 1, -1, 0]), torch.tensor([1, 0, 1, 0, 1])
    energy, share = np.array([0.3, 0.1, 0.0, 0.0, 0.2]), np.array([0.1, 0.2, 0.2, 0.2, 0.2])
    assert pick_errors(labels, predicted, energy, share) == [1, 4, 0]  # ratios .5, 1, 3; 2 is right, 3 unknown
    with pytest.raises(DataError, match="right on all of 1"):
        pick_errors(labels[2:3], predicted[2:3], energy, share)
    with pytest.raises(DataError, match="--show spread"):
        pick_errors(torch.tensor([-1]), predicted[:1], energy, share)


def one_photo(label: int) -> PhotoBatch:
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :16, :16] = True
    return PhotoBatch(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), mask, torch.tensor([label]), ["x"], ["x.png"])


@pytest.mark.parametrize(("label", "mark", "frame"), [(1, "✓ dog", MET), (0, "✗ dog", UNMET)])
def test_gradients_say_answer_and_share(bank: Photos, label: int, mark: str, frame: str) -> None:
    near, cosine = torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.5]])
    maps, energy = torch.rand(1, 32, 32), np.array([0.125])
    panel = GradientPanel("A", ["cat", "dog"], maps, torch.tensor([1]), energy, bank, near, cosine)
    fig = gradients_figure(one_photo(label), [panel])
    said = words(fig)
    assert f"{mark}\non object: 12%" in said and f"{['cat', 'dog'][label]}\nobject: 25%" in said
    assert frames(fig)[0] == frame and any("0.75" in word for word in said)
    unknown = gradients_figure(one_photo(-1), [panel])
    assert "class unknown\nobject: 25%" in words(unknown) and frames(unknown) == []


def test_class_maps_say_answer_and_iou() -> None:
    panels = [
        ClassCamPanel(name, torch.rand(1, 32, 32), torch.tensor([i]), [0.5 - i / 4]) for i, name in enumerate("AB")
    ]
    fig = class_cams_figure(one_photo(0), ["cat", "dog"], panels)
    assert {"photo", "A", "B", "cat", "✓ cat\nIoU 0.50", "✗ dog\nIoU 0.25"} <= set(words(fig))


def test_outline_is_the_inner_border() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    drawn = outlined(np.zeros((9, 9, 3), np.uint8), mask, "#FF0000", px=1)[..., 0] == 255
    expected = mask.copy()
    expected[3:6, 3:6] = False
    assert np.array_equal(drawn, expected)
    assert not outlined(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool)).any()


def test_gradients_are_drawn_from_dark_to_bright() -> None:
    flat = torch.zeros(50, 50)
    flat[10:20, 10:20] = 0.3
    picture = gradient_picture(flat).astype(int).sum(2)
    assert picture[15, 15] == picture.max() > 500 and picture[40, 40] == picture.min() < 10
    assert (gradient_picture(torch.zeros(8, 8)) == gradient_picture(torch.zeros(8, 8))[0, 0]).all()


def test_long_names_lose_their_end() -> None:
    assert shorten("cat") == "cat"
    assert shorten("a" * 60).endswith("…") and len(shorten("a" * 60)) < 22


def test_tool_writes_each_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for channel, name in enumerate(("red", "green")):
            for i in range(4):
                pixels = rng.integers(0, 200, (56, 56, 3)).astype(np.uint8)
                pixels[16:40, 16:40, (channel + (i == 3)) % 2] = 255  # the last one of each class looks like the other
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    runs = [save_run(tmp_path / name, tiny_config(), seed) for seed, name in enumerate(("moco", "cast"))]
    monkeypatch.syspath_prepend(str(TOOLS))
    import visualize

    for command in ("neighbours", "gradients", "class_cams"):
        extra = [] if command == "neighbours" else ["--masks", "none"]
        arguments = [
            "--count",
            "2",
            "--set",
            "DEVICE",
            "cpu",
            "--weights",
            *map(str, runs),
            "--data",
            str(tmp_path),
            "--out",
            str(tmp_path / "out"),
            *extra,
        ]
        monkeypatch.setattr(sys, "argv", ["visualize.py", command, *arguments])
        visualize.main()
        assert Image.open(tmp_path / "out" / f"{command}.png").width > 300


@pytest.mark.parametrize(
    ("show", "labels", "errors"),
    [("spread", [0, 1], False), ("errors", [0, 1], True), ("auto", [0, 1], True), ("auto", [-1, -1], False)],
)
def test_the_caption_of_gradients_says_how_photos_were_chosen(show: str, labels: list[int], errors: bool) -> None:
    assert shows_errors(show, torch.tensor(labels)) == errors
    nothing = torch.zeros(0)
    photos = Photos(None, nothing, nothing)  # type: ignore[arg-type]
    panel = GradientPanel("mine", [], nothing, nothing, np.zeros(0), photos, nothing, nothing)
    text = gradients_caption(EvalData("x"), panel, errors)
    assert ("errors of mine" in text) == errors and ("spread evenly over the data" in text) != errors


def test_the_caption_of_class_cams_says_whose_class_is_drawn() -> None:
    known, some, none = (torch.tensor(labels) for labels in ([0, 1], [0, -1], [-1, -1]))
    assert "finds its true class (red" in class_cams_caption(known, "auto")
    assert "finds its true class (where that is unknown, the one it predicts)" in class_cams_caption(some, "auto")
    for labels, target in ((none, "auto"), (known, "predicted"), (some, "predicted")):
        assert "finds the class it predicts (red" in class_cams_caption(labels, target)
