"""What is missing where: every part of every published layout, taken away or damaged in turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import release_trees as trees
from scipy.io import savemat

from ssl_loc.data.catalog import get_dataset
from ssl_loc.utils.errors import DataError

TREES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cub": (trees.cub, "cub:{}:train"),
    "nabirds": (trees.nabirds, "nabirds:{}:train"),
    "cars": (trees.cars_kit, "cars:{}:train"),
    "cars_test": (trees.cars_kit, "cars:{}:test"),
    "cars_flat": (trees.cars_flat, "cars:{}:train"),
    "aircraft": (trees.aircraft, "aircraft:{}:trainval"),
    "inat2018": (trees.inat2018, "inat2018:{}:train"),
    "imagenet": (trees.imagenet, "imagenet:{}:train"),
    "places": (trees.places_lists, "places205:{}:train"),
}
PARTS = [
    ("cub", "images.txt"),
    ("cub", "image_class_labels.txt"),
    ("cub", "train_test_split.txt"),
    ("cub", "classes.txt"),
    ("cub", "bounding_boxes.txt"),
    ("cub", "images"),
    ("nabirds", "bounding_boxes.txt"),
    ("nabirds", "images"),
    ("cars", "devkit/cars_meta.mat"),
    ("cars", "devkit/cars_train_annos.mat"),
    ("cars", "cars_train"),
    ("cars_test", "cars_test_annos_withlabels.mat"),
    ("cars_test", "cars_test"),
    ("cars_flat", "car_ims"),
    ("aircraft", "data/images_variant_trainval.txt"),
    ("aircraft", "data/variants.txt"),
    ("aircraft", "data/images_box.txt"),
    ("aircraft", "data/images"),
    ("inat2018", "train2018.json"),
    ("inat2018", "train_val2018"),
    ("imagenet", "train"),
    ("places", "trainvalsplit_places205"),
]


def error(spec: str) -> str:
    with pytest.raises(DataError) as caught:
        get_dataset(spec, annotations=True)
    return str(caught.value)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(("tree", "part"), PARTS)
def test_a_missing_part_is_named_with_its_place(tree: str, part: str, tmp_path: Path) -> None:
    make, spec = TREES[tree]
    root = make(tmp_path)
    remove(root / part)
    text = error(spec.format(tmp_path))
    shown = "train_places205.csv" if tree == "places" else part
    assert shown in text
    assert str(root) in text
    assert "expected layout" in text
    counts = {"images": "11,788" if tree == "cub" else "48,562", "cars_train": "8,144", "cars_test": "8,041"}
    counts |= {"car_ims": "16,185", "data/images": "10,000", "train_val2018": "461,939", "train": "1,281,167"}
    assert part not in counts or f"{part}/ with {counts[part]} images" in text


def test_all_missing_parts_in_one_sentence(tmp_path: Path) -> None:
    root = trees.cub(tmp_path)
    for part in ("images.txt", "images", "classes.txt"):
        remove(root / part)
    (root / "images.tgz").touch()
    text = error(f"cub:{tmp_path}:train")
    assert "images.txt, classes.txt, images/ with 11,788 images (3 of 6 parts of CUB-200-2011)" in text
    assert "found there: bounding_boxes.txt, image_class_labels.txt, images.tgz, train_test_split.txt" in text
    assert "unpack images.tgz" in text


def test_a_missing_image_is_counted_and_named(tmp_path: Path) -> None:
    cases = [("cub", "images/001.Albatross/A_0009_34.jpg"), ("cars", "cars_train/00002.jpg")]
    cases += [("cars_flat", "car_ims/000003.jpg"), ("aircraft", "data/images/1025794.jpg")]
    cases += [("inat2018", "train_val2018/Plantae/7477/c.jpg"), ("nabirds", "images/0299/0b20bb.jpg")]
    cases += [("places", "data/vision/torralba/deeplearning/images256/o/office/gsun_2.jpg")]
    for tree, image in cases:
        make, spec = TREES[tree]
        root = make(tmp_path / tree)
        remove(root / image)
        text = error(spec.format(tmp_path / tree))
        assert Path(image).name in text
        assert " images that " in text and text.startswith("1 of the "), tree


def test_paths_may_not_leave_their_root(tmp_path: Path) -> None:
    trees.picture(tmp_path / "outside.jpg")
    root = trees.cub(tmp_path / "a")
    trees.lines(root / "images.txt", "1 001.Albatross/A_0046_18.jpg", "2 ../../../outside.jpg", "10 /etc/passwd.jpg")
    assert "leaves its root" in error(f"cub:{tmp_path / 'a'}:train")
    trees.inat2018(tmp_path / "b")
    file = tmp_path / "b" / "train2018.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "../outside.jpg"
    file.write_text(json.dumps(content))
    assert "leaves its root" in error(f"inat2018:{tmp_path / 'b'}:train")
    trees.aircraft(tmp_path / "c")
    trees.lines(tmp_path / "c/fgvc-aircraft-2013b/data/images_variant_test.txt", "../../../../outside 707-320")
    boxes = tmp_path / "c/fgvc-aircraft-2013b/data/images_box.txt"
    boxes.write_text(boxes.read_text() + "../../../../outside 1 1 2 2\n")
    assert "leaves its root" in error(f"aircraft:{tmp_path / 'c'}:test")
    trees.places_lists(tmp_path / "d")
    trees.lines(tmp_path / "d/trainvalsplit_places205/train_places205.csv", "a/../../../../../../outside.jpg 0")
    assert "leaves its root" in error(f"places205:{tmp_path / 'd'}:train")
    row = {**dict.fromkeys(trees.CORNERS, 1), "class": 1, "fname": "../../../outside.jpg"}
    root = trees.cars_kit(tmp_path / "e")
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": trees._annotations([row])})
    assert "leaves its root" in error(f"cars:{tmp_path / 'e'}:train")


BAD_TABLES = [
    ("images.txt", "1 a.jpg|2", "line 2 of .*expected an id and 1 values"),
    ("images.txt", "1 a.jpg|1 b.jpg", "has the id 1 twice"),
    ("images.txt", "", "is empty"),
    ("image_class_labels.txt", "1 1|2 1", "no line for 1 of the 3 ids .*: 10"),
    ("image_class_labels.txt", "1 1|2 1|10 2|11 2", "no line for 1 of the 4 ids .*: 11"),
    ("image_class_labels.txt", "1 1|2 1|10 two", "line of 10 has 'two'; expected a whole number"),
    ("image_class_labels.txt", "1 1|2 1|10 3", "uses the class 3"),
    ("train_test_split.txt", "1 0|2 1|10 x", "line of 10 has 'x'; expected 1"),
    ("train_test_split.txt", "1 0|2 0|10 0", "puts no image into the split 'train'"),
    ("bounding_boxes.txt", "1 1 2 3 4|2 1 2 x 4|10 1 2 3 4", "line of 2 has '1 2 x 4'; expected numbers"),
    ("bounding_boxes.txt", "1 1 2 3 4|2 1 2 nan 4|10 1 2 3 4", "line of 2 has '1 2 nan 4'; expected numbers"),
    ("bounding_boxes.txt", "1 1 2 3 4", "no line for 2 of the 3 ids .*: 2, 10"),
]


@pytest.mark.parametrize(("file", "content", "message"), BAD_TABLES)
def test_bird_tables_that_lie(tmp_path: Path, file: str, content: str, message: str) -> None:
    root = trees.cub(tmp_path)
    trees.lines(root / file, *content.split("|"))
    with pytest.raises(DataError, match=message):
        get_dataset(f"cub:{tmp_path}:train", annotations=True)


def test_cars_without_test_labels_says_which_file_has_them(tmp_path: Path) -> None:
    root = trees.cars_kit(tmp_path)
    row = {**dict.fromkeys(trees.CORNERS, 1), "fname": "00001.jpg"}
    savemat(root / "cars_test_annos_withlabels.mat", {"annotations": trees._annotations([row])})
    text = error(f"cars:{tmp_path}:test")
    assert "lack class;" in text
    assert "cars_test_annos_withlabels.mat" in text
    (root / "cars_test_annos_withlabels.mat").write_bytes(b"no MATLAB file")
    assert "expected a MATLAB file" in error(f"cars:{tmp_path}:test")
    savemat(root / "devkit/cars_meta.mat", {"names": np.array(["a"], dtype=object)})
    assert "no variable class_names" in error(f"cars:{tmp_path}:train")


def test_cars_class_out_of_range(tmp_path: Path) -> None:
    root = trees.cars_kit(tmp_path)
    row = {**dict.fromkeys(trees.CORNERS, 1), "class": 0, "fname": "00001.jpg"}
    savemat(root / "devkit/cars_train_annos.mat", {"annotations": trees._annotations([row])})
    assert "the class 0; expected 1 to 3" in error(f"cars:{tmp_path}:train")


def test_aircraft_variant_that_is_not_listed(tmp_path: Path) -> None:
    trees.lines(trees.aircraft(tmp_path) / "data/variants.txt", "707-320", "F-16A/B")
    assert "does not list: Falcon 2000" in error(f"aircraft:{tmp_path}:trainval")


def test_inat_json_that_lies(tmp_path: Path) -> None:
    trees.inat2018(tmp_path)
    file = tmp_path / "train2018.json"
    good = json.loads(file.read_text())
    for change, message in (
        ({"annotations": good["annotations"][1:]}, "1 of the 3 images of .* have no class"),
        ({"categories": good["categories"][1:]}, "categories that it does not declare: 7"),
        ({"categories": []}, "needs the lists"),
        ({"images": [{"id": 1}]}, "cannot be used"),
    ):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            get_dataset(f"inat2018:{tmp_path}:train")


def test_imagenet_val_that_was_not_sorted_into_classes(tmp_path: Path) -> None:
    trees.imagenet(tmp_path)
    trees.picture(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    text = error(f"imagenet:{tmp_path}:val")
    assert "1 of the 3 images" in text and "ILSVRC2012_val_00000001.JPEG" in text and "flat" in text
    remove(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    remove(tmp_path / "val/n01440764")
    assert f"missing in {tmp_path}/val: n01440764" in error(f"imagenet:{tmp_path}:val")


def test_places_lists_that_lie(tmp_path: Path) -> None:
    trees.places_lists(tmp_path)
    file = tmp_path / "trainvalsplit_places205/train_places205.csv"
    for text, message in (
        ("a/abbey/gsun_1.jpg", "line 1 of .*expected an image and its class number"),
        ("a/abbey/gsun_1.jpg 0\no/office/gsun_2.jpg 0", "the class 0 to images of a/abbey and of o/office"),
        ("a/abbey/gsun_1.jpg 1", "are not 0 to 0"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            get_dataset(f"places205:{tmp_path}:train")


def test_unknown_splits_name_the_known_ones(tmp_path: Path) -> None:
    trees.cub(tmp_path)
    assert "no split 'val'; its splits: train, test" in error(f"cub:{tmp_path}:val")
    assert "no folder" in error("cub:/nowhere/at/all:train")
