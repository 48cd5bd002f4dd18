"""From files to targets and back to files: both engines read, resize, flip, drop and predict the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe
from helpers.engine_pair import EnginePair

from ssl_loc.transfer.datasets import get_detection_dataset, get_detection_datasets
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import Recipe, load_recipe
from ssl_loc.transfer.run import run_transfer
from ssl_loc.transfer.torchvision_engine.loader import training_loader, training_records
from ssl_loc.utils.errors import ConfigError, DataError

HERE, WHY = Detectron2Engine().available()
pytestmark = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
SIDES = ["INPUT.MIN_SIZE_TRAIN", "(61, 72, 131)"]


def recipe_on(name: str, *overrides: str) -> Recipe:
    words = ["DATASETS.TRAIN", name, "MODEL.ROI_HEADS.NUM_CLASSES", "2", "SEED", "3", *overrides]
    return load_recipe(CONFIGS / "quick/coco_R18_FPN_mask.yaml", words)


def equal_batches(recipe: Recipe, count: int) -> dict[str, int]:
    """Assert that the first ``count`` batches are equal; how many sizes and objects they had."""
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.data import TrainingLoader

    dataset = get_detection_datasets(recipe.DATASETS.TRAIN)
    ours = training_loader(recipe, training_records(recipe))
    theirs = iter(TrainingLoader(to_detectron2(recipe), dataset, 3))
    sizes, objects = set(), 0
    for _ in range(count):
        for found, want in zip(next(ours), next(theirs), strict=True):
            assert found.record["image_id"] == want["image_id"]
            assert torch.equal(found.image, want["image"])
            truth = want["instances"]
            assert torch.allclose(found.target["boxes"], truth.gt_boxes.tensor, atol=1e-4)
            assert torch.equal(found.target["labels"] - 1, truth.gt_classes)
            if recipe.INPUT.MASK_FORMAT == "bitmask":
                # Without objects detectron2's mapper makes no masks at all.
                wanted = truth.gt_masks.tensor if len(truth) else torch.zeros(0, *found.image.shape[1:])
                assert torch.equal(found.target["bitmasks"], wanted.bool())
            else:
                for polygons, reference in zip(found.target["polygons"], truth.gt_masks.polygons, strict=True):
                    assert all(np.allclose(a, b) for a, b in zip(polygons, reference, strict=True))
            sizes.add(tuple(found.image.shape))
            objects += len(truth)
    return {"sizes": len(sizes), "objects": objects}


def test_boxes_of_coco_are_detectron2s_to_the_last_bit(tmp_path: Path) -> None:
    """It adds widths in float32; anchors whose overlap with a box is equal are told apart by such bits."""
    from detectron2.data.datasets import load_coco_json
    from detectron2.structures import BoxMode

    def odd_decimals(content: dict[str, Any]) -> None:
        random = np.random.RandomState(0)
        for annotation in content["annotations"]:
            annotation["bbox"] = [round(float(v), 2) for v in random.uniform(0.5, 600, 4)]
        content["annotations"][0]["bbox"] = [473.07, 395.93, 38.65, 28.67]
        content["annotations"][1]["bbox"] = [3, 5, 20, 31]

    name = edit(tmp_path, odd_decimals)
    folder = tmp_path / "coco"
    rows = load_coco_json(str(folder / "annotations/instances_train.json"), str(folder / "train"))
    convert, target = BoxMode.convert, BoxMode.XYXY_ABS
    theirs = {
        row["file_name"]: [convert(a["bbox"], a["bbox_mode"], target) for a in row["annotations"]] for row in rows
    }
    ours = {row["file_name"]: [a["bbox"] for a in row["annotations"]] for row in get_detection_dataset(name).dicts}
    assert ours == theirs
    inexact = [box for boxes in ours.values() for box in boxes if any(round(v, 2) != v for v in box)]
    assert len(inexact) > 5 and [3.0, 5.0, 23.0, 36.0] in [box for boxes in ours.values() for box in boxes]


def test_boxes_of_voc_are_detectron2s_to_the_last_bit(tmp_path: Path) -> None:
    from detectron2.data.datasets import load_voc_instances

    name = draw_detection_data(tmp_path)["voc_train"]
    root = tmp_path / "VOCdevkit/VOC2007"
    for file in (root / "Annotations").glob("*.xml"):
        file.write_text(re.sub(r"<xmin>(\d+)</xmin>", r"<xmin>\1.07</xmin>", file.read_text()))
    dataset = get_detection_dataset(name)
    theirs = load_voc_instances(str(root), "train", dataset.classes)
    ours = {row["image_id"]: [a["bbox"] for a in row["annotations"]] for row in dataset.dicts}
    assert ours == {row["image_id"]: [a["bbox"] for a in row["annotations"]] for row in theirs}
    assert any(box[0] % 1 for boxes in ours.values() for box in boxes)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_polygons_are_equal(flip: str, names: dict[str, str]) -> None:
    """The same seed: the same images, sizes, flips, boxes and polygons, in the same order."""
    seen = equal_batches(recipe_on(names["coco_train"], *SIDES, "INPUT.RANDOM_FLIP", flip), 12)
    assert seen["sizes"] > 3 and seen["objects"] > 20


def edit(root: Path, change: Any, split: str = "train") -> str:
    """Draw a set, let ``change`` edit the annotations of a split; the split's name."""
    names = draw_detection_data(root)
    path = root / f"coco/annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return names[f"coco_{split}"]


def odd_objects(content: dict[str, Any]) -> None:
    """Masks in every form of COCO files, and objects that must not be learned."""
    from pycocotools import mask as coco_mask

    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for i, annotation in enumerate(content["annotations"]):
        if i % 3 == 0:
            continue
        height, width = sizes[annotation["image_id"]]
        code = coco_mask.merge(coco_mask.frPyObjects(annotation["segmentation"], height, width))
        counts: Any = code["counts"].decode()
        if i % 3 == 1:
            flat = coco_mask.decode(code).reshape(-1, order="F")
            edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]]))).tolist()
            counts = np.diff([0, *edges]).tolist()
        annotation["segmentation"] = {"size": [height, width], "counts": counts}
    template = {**content["annotations"][0], "category_id": 20, "area": 1.0}
    height, width = sizes[template["image_id"]]
    square = [10.0, 10, 30, 10, 30, 30, 10, 30]
    extra: list[dict[str, Any]] = [
        {"iscrowd": 1, "segmentation": {"size": [height, width], "counts": [0, height * width]}},
        {"segmentation": [[1.0, 2, 3, 4]]},
        {"segmentation": [[1.0, 2, 3, 4], square, [5.0, 5, 9, 9, 7]]},
        {"bbox": [10.0, 10, 0, 20], "segmentation": [square]},
        {"bbox": [width + 5.0, 3, 10, 10], "segmentation": [square]},
    ]
    # Single pixels, some of which are gone where the image is made smaller.
    for i in range(0, 60, 3):
        before = i * height + i
        run_lengths = {"size": [height, width], "counts": [before, 1, height * width - before - 1]}
        extra.append({"bbox": [i, i, 1.0, 1.0], "segmentation": run_lengths})
    for i, values in enumerate(extra):
        content["annotations"].append({**template, "id": 1000 + i, **values})


def test_masks_in_every_form_are_equal_as_bitmaps(tmp_path: Path) -> None:
    name = edit(tmp_path, odd_objects)
    bitmaps = [*SIDES, "INPUT.MASK_FORMAT", "bitmask"]
    seen = equal_batches(recipe_on(name, *bitmaps), 12)
    assert seen["sizes"] > 3 and seen["objects"] > 20


def test_run_lengths_among_polygons_are_refused_alike(tmp_path: Path) -> None:
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.data import TrainingLoader

    recipe = recipe_on(edit(tmp_path, odd_objects))
    words = r"INPUT.MASK_FORMAT is 'polygon' but .* has run-length masks \(in .*train_000.jpg\); set .* bitmask"
    with pytest.raises(ConfigError, match=words):
        training_records(recipe)
    with pytest.raises(ConfigError, match=words):
        TrainingLoader(to_detectron2(recipe), get_detection_datasets(recipe.DATASETS.TRAIN), 3)


def test_crowds_and_broken_polygons_are_dropped_alike(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        before = [annotation["segmentation"] for annotation in content["annotations"]]
        odd_objects(content)
        for annotation, polygons in zip(content["annotations"], before, strict=False):
            annotation["segmentation"] = polygons
        del content["annotations"][-20:]  # the single pixels

    assert equal_batches(recipe_on(edit(tmp_path, change)), 6)["objects"] > 10


@pytest.mark.parametrize("name", ["torchvision", "detectron2"])
def test_objects_without_a_mask_are_refused_alike(name: str, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1]["segmentation"] = []

    edit(tmp_path, change)
    names = {f"coco_{split}": f"coco:{tmp_path / 'coco'}:{split}" for split in ("train", "test")}
    words = "MODEL.MASK_ON is True, but .* has an object without a mask .*train_000.jpg.*set MODEL.MASK_ON False"
    with pytest.raises(DataError, match=words):
        run_transfer(tiny_recipe("mask", names, tmp_path / "out"), "random", name)


@pytest.mark.parametrize("name", ["torchvision", "detectron2"])
def test_objects_to_find_without_a_valid_mask_are_refused_before_training(name: str, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1]["segmentation"] = content["annotations"][1]["segmentation"][0]  # flat

    edit(tmp_path, change, "test")
    names = {f"coco_{split}": f"coco:{tmp_path / 'coco'}:{split}" for split in ("train", "test")}
    with pytest.raises(DataError, match="1 objects of .*instances_test.json have no valid polygon .annotations"):
        run_transfer(tiny_recipe("mask", names, tmp_path / "out"), "random", name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"size": [7, 9], "counts": [0, 63]}, r"is 9x7 px but the image is \d+x\d+"),
        ({"size": None, "counts": [5, 5]}, r"cannot be read: its runs cover 10 of \d+ pixels"),
        ({"size": None, "counts": "324"}, r"cannot be read: its runs cover 9 of \d+ pixels"),
        ({"size": None, "counts": "32P"}, "cannot be read: it is no run-length code .it ends within a number"),
        ({"size": None}, "cannot be read: it is no run-length code .'counts'"),
    ],
)
def test_damaged_run_lengths_are_refused_alike(code: dict[str, Any], words: str, tmp_path: Path) -> None:
    """pycocotools would fill the rest with what the memory held."""
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.data import TrainingLoader

    def damage(content: dict[str, Any]) -> None:
        image = next(i for i in content["images"] if i["id"] == content["annotations"][0]["image_id"])
        size = code.get("size") or [image["height"], image["width"]]
        content["annotations"][0]["segmentation"] = {**code, "size": size}

    recipe = recipe_on(edit(tmp_path, damage), "INPUT.MASK_FORMAT", "bitmask")
    dataset = get_detection_datasets(recipe.DATASETS.TRAIN)
    with pytest.raises(DataError, match=f"train_000.jpg {words}"):
        TrainingLoader(to_detectron2(recipe), dataset, 3)
    with pytest.raises(DataError, match=f"train_000.jpg {words}"):
        for _, _batch in zip(range(8), training_loader(recipe, training_records(recipe)), strict=False):
            pass
    # Boxes alone need no masks.
    boxes = to_detectron2(recipe_on(recipe.DATASETS.TRAIN[0], "MODEL.MASK_ON", "False"))
    assert len(TrainingLoader(boxes, dataset, 3)) == 5


@pytest.mark.parametrize("arch", ["C4", "FPN"])
def test_predictions_from_files_are_equal(arch: str, names: dict[str, str], tmp_path: Path) -> None:
    """Read, turned, resized to odd sides, detected, scaled back, pasted: the same plain predictions."""
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.predict import predict
    from ssl_loc.transfer.torchvision_engine.predict import predict_dataset

    keys = {"MODEL.MASK_ON": True, "INPUT.MIN_SIZE_TEST": 131, "INPUT.MAX_SIZE_TEST": 155, "DATALOADER.NUM_WORKERS": 0}
    keys |= {"MODEL.ROI_MASK_HEAD.CONV_DIM": 16, "MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16}
    pair = EnginePair(arch, {"depth": 18, "width": 16, "layers": [1, 1, 1, 1]}, keys, tmp_path)
    dataset = get_detection_dataset(names["coco_test"])
    ours = predict_dataset(pair.recipe, pair.ours, dataset.name, dataset.dicts)
    theirs = predict(pair.theirs, to_detectron2(pair.recipe), dataset)
    for found, want in zip(ours, theirs, strict=True):
        assert found.image_id == want.image_id and len(found) > 5
        assert np.array_equal(found.classes, want.classes)
        assert np.abs(found.boxes - want.boxes).max() < 1e-3 and np.abs(found.scores - want.scores).max() < 1e-5
        assert found.masks == want.masks
