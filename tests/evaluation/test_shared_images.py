"""Numbers that are not of unseen images say so: test images that were trained on, heads fitted on a setting itself."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ssl_loc.data.labelled import LabelledSplit, shared_images
from ssl_loc.evaluation import EvalData, Weights
from ssl_loc.evaluation.backgrounds import Backgrounds
from ssl_loc.evaluation.backgrounds_head import class_answer
from ssl_loc.evaluation.class_probe import ProbeOptions
from ssl_loc.evaluation.features import FeatureOptions
from ssl_loc.evaluation.fingerprint import fingerprint
from ssl_loc.evaluation.knn import KNN
from ssl_loc.evaluation.linear_head import LinearHead, head_path, write_head
from ssl_loc.evaluation.map_folders import open_masks
from ssl_loc.evaluation.neighbours import NearestNeighbours
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.weights import Trunk, unique_labels
from ssl_loc.utils.errors import DataError

SIDE = 16
CLASSES = ["00_red", "01_green"]


class MeanColour(torch.nn.Module):
    """A trunk whose features are the mean red, green and blue, 0..255."""

    out_channels = 3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res5": images}

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        return maps["res5"].mean((2, 3))

    def describe(self) -> dict[str, str]:
        return {"name": "mean colour"}


class ColourWeights(Weights):
    def trunk(self) -> Trunk:
        return Trunk(MeanColour(), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))  # type: ignore[arg-type]


def colour(label: str = "colour") -> Weights:
    return ColourWeights(label, label, "backbone", "digest", None, device=torch.device("cpu"))


def draw(folder: Path, per_class: int = 3) -> Path:
    """Class folders of plain red and green pictures."""
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            image = np.zeros((SIDE, SIDE, 3), np.uint8)
            image[..., c] = 100 + 20 * i
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> tuple[str, str]:
    return f"class_folder:{draw(tmp_path / 'a')}", f"class_folder:{draw(tmp_path / 'b')}"


def test_shared_images_are_counted_and_said(parts, tmp_path, caplog) -> None:
    a, b = (LabelledSplit.load(spec) for spec in parts)
    with caplog.at_level(logging.WARNING):
        assert shared_images(a.records, b.records, ("a", "b")) == 0
        assert not caplog.records
        # Four of a's six, two of them twice; and by way of a link to its folder.
        assert shared_images(a.records.select([0, 1, 2, 3]), a.records.select([2, 2, 3, 5]), ("a", "b")) == 3
    assert "3 of the 4 test images of b are training images of a as well" in caplog.text
    os.symlink(tmp_path / "a", tmp_path / "link")
    linked = LabelledSplit.load(f"class_folder:{tmp_path / 'link'}")
    assert shared_images(a.records, linked.records, ("a", "link")) == 6


def test_results_say_how_many_test_images_were_trained_on(parts, caplog) -> None:
    a, b = parts
    features = FeatureOptions(size=SIDE, batch_size=4)
    knn, near = KNN(k=1, features=features), NearestNeighbours(k=1, features=features)
    for data, count in ((EvalData(f"{a},{b}"), 0), (EvalData(f"{a},{a}"), 6)):
        caplog.clear()
        knn.check_data(data)
        assert caplog.text.count("training images of") == (count > 0)  # before anything is computed, and once
        assert knn(colour(), data).details["test_images_trained_on"] == count
        assert caplog.text.count("training images of") == (count > 0)
        assert near(colour(), data).details["queries_searched"] == count
        records = LabelledSplit.load(data.test_spec()).records
        assert ProbeOptions(features=features).shared(data, records) == count
    assert near(colour(), EvalData(a)).details["queries_searched"] == 0  # an image is never its own neighbour there


def challenge(folder: Path, settings: tuple[str, ...]) -> Path:
    for name in settings:
        draw(folder / name / "val")
    return folder


@pytest.mark.parametrize("form", ["{}", "class_folder:{}"])
def test_a_head_fitted_on_a_setting_touches_every_number(tmp_path, form, caplog) -> None:
    settings = ("original", "mixed_same", "mixed_rand")
    root = challenge(tmp_path / "in2", settings)
    features = FeatureOptions(size=SIDE, batch_size=4)

    def details(train: Path) -> dict:
        made = Backgrounds(train=form.format(train), head="knn", settings=settings, k=1, features=features)
        return made(colour(), EvalData(str(root))).details

    found = details(root / "original" / "val")
    assert (found["train_is_a_setting"], found["train_is_of_setting_images"]) == ("original", 6)
    assert found["not_of_unseen_images"] == [*settings, "bg_gap"]
    assert "none of original, mixed_same, mixed_rand, bg_gap is of unseen images" in caplog.text
    clean = details(draw(tmp_path / "others"))
    assert (clean["train_is_a_setting"], clean["not_of_unseen_images"]) == ("", [])


def test_pictures_of_the_settings_go_in_whole(tmp_path) -> None:
    # A frame of one pixel has the class; what it encloses says the other class, and wins where the frame is cut off.
    for c, name in enumerate(CLASSES):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[..., c] = 255  # 60 px of 255 = 15300 ...
        image[1:-1, 1:-1] = 0
        image[1:-1, 1:-1, 1 - c] = 60  # ... against 196 px of 60 = 11760
        for folder in (tmp_path / "original" / "val" / name, tmp_path / "train" / name):
            folder.mkdir(parents=True)
            Image.fromarray(image).save(folder / "0.png")
    head = tmp_path / "head.pth"
    write_head(head, LinearHead(torch.eye(2, 3), torch.zeros(2), tuple(CLASSES)), colour())
    features = FeatureOptions(size=SIDE, batch_size=4, transform="center")  # whatever else is asked for
    made = Backgrounds(head=str(head), settings=["original"], features=features)
    assert made(colour(), EvalData(str(tmp_path))).metrics["original"] == 100.0
    # So are those that a head is fitted on, unless TRAIN_TRANSFORM says otherwise.
    for transform, top1 in (("whole", 100.0), ("center", 0.0)):
        made = Backgrounds(
            train=str(tmp_path / "train"),
            head="knn",
            train_transform=transform,
            settings=["original"],
            k=1,
            features=features,
        )
        assert made(colour(), EvalData(str(tmp_path))).metrics["original"] == top1


def test_a_head_trained_anew_is_another_result(tmp_path) -> None:
    weights = colour("MoCo v2 (800 ep.)")
    options = load_options(overrides=["BACKGROUNDS.HEAD", str(tmp_path / "heads" / "{label}_seed0.pth")])
    file = head_path(tmp_path, weights.label, 0)
    assert file.name == "MoCo-v2-800-ep._seed0.pth"
    marks = []
    for bias in (0.0, 1.0):
        write_head(file, LinearHead(torch.eye(2, 3), torch.full((2,), bias), tuple(CLASSES)), weights)
        os.utime(file, (0, int(bias)))
        marks.append(fingerprint("backgrounds", "1", weights, EvalData("x"), options))
        Backgrounds(**Backgrounds.from_config(options)).check_weights(weights)  # finds it under this name
    assert marks[0] != marks[1]


def test_labels_that_are_one_file_name_are_numbered() -> None:
    labels = ["MoCo v2", "MoCo-v2", "MoCo-v2-2", "MoCo (v2)", "MoCo v2", "x" * 70, "y" + "x" * 69]
    found = [w.label for w in unique_labels([colour(label) for label in labels])]
    assert found[:2] == ["MoCo v2", "MoCo-v2 (2)"]
    assert found[2] == "MoCo-v2-2 (2)"  # the second one's file has that name
    assert found[3] == "MoCo (v2) (3)" and found[4] == "MoCo v2 (4)"
    assert found[5] == "x" * 70 and found[6].endswith(" (2)")  # long names are told apart by their ends


def test_a_table_of_outputs_is_read_by_number_or_by_name(tmp_path) -> None:
    file = tmp_path / "map.json"
    names = [f"n{i:02d}" for i in range(12)]
    classes = ["a", "b"]
    table = {str(i): i % 2 for i in (11, 2, 10, 0, 1, 3, 9, 4, 8, 5, 7, 6)}  # in no order
    file.write_text(json.dumps(table))
    assert class_answer(12, classes, str(file)).table.tolist() == [0, 1] * 6
    assert class_answer(12, classes, str(file), names=names).table.tolist() == [0, 1] * 6
    turned = names[::-1]
    with pytest.raises(DataError, match="sorted order, but the head's outputs are n11, n10, n09"):
        class_answer(12, classes, str(file), names=turned)
    file.write_text(json.dumps({name: -1 if i > 2 else i // 2 for i, name in enumerate(names)}))
    assert class_answer(12, classes, str(file), names=turned).table.tolist() == [-1] * 9 + [1, 0, 0]


def test_a_table_against_the_names_of_the_classes_is_refused(tmp_path) -> None:
    file = tmp_path / "map.json"
    file.write_text(json.dumps([0, 1, -1]))
    assert class_answer(3, ["cat", "dog"], str(file), names=["cat", "dog", "fox"]).table.tolist() == [0, 1, -1]
    file.write_text(json.dumps([1, 0, -1]))
    with pytest.raises(DataError, match="gives the output of cat dog"):
        class_answer(3, ["cat", "dog"], str(file), names=["cat", "dog", "fox"])


def test_a_limit_is_an_even_sample_of_masks_as_well(tmp_path) -> None:
    for i in range(7):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    assert open_masks(EvalData("", f"folder:{tmp_path / 'masks'}", limit=3)).names == ["0", "3", "6"]
