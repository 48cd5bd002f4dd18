"""Detection datasets by name and path form, and the order of training images."""

from __future__ import annotations

import itertools

import pytest
from helpers.detection_data import CLASSES, draw_detection_data

from ssl_loc.transfer.datasets import get_detection_dataset, get_detection_datasets, require_masks
from ssl_loc.transfer.sampling import Slot, TrainingBatches, without_empty
from ssl_loc.utils.errors import ConfigError, DataError


@pytest.fixture
def names(tmp_path):
    return draw_detection_data(tmp_path)


def test_voc_and_coco_agree(names):
    voc, coco = (get_detection_dataset(names[f"{kind}_train"]) for kind in ("voc", "coco"))
    assert (voc.kind, voc.year, coco.kind, coco.year) == ("voc", 2007, "coco", 0)
    assert voc.classes == coco.classes == list(CLASSES)
    assert coco.category_ids == {0: 10, 1: 20} and coco.json_file.endswith("instances_train.json")
    assert len(voc) == len(coco) == 6
    for a, b in zip(voc.dicts, coco.dicts, strict=True):
        assert (a["height"], a["width"]) == (b["height"], b["width"])
        # The XML's 1-based inclusive corners come back as the drawn boxes.
        assert [x["bbox"] for x in a["annotations"]] == [x["bbox"] for x in b["annotations"]]
        assert [x["category_id"] for x in a["annotations"]] == [x["category_id"] for x in b["annotations"]]
    assert voc.dicts[-1]["annotations"] == [] and len(without_empty(voc.dicts)) == 5


def test_several_sets_are_joined_only_with_equal_classes(names, tmp_path):
    both = get_detection_datasets([names["voc_train"], names["voc_test"]])
    assert len(both) == 9 and both.classes == list(CLASSES) and "+" in both.name
    (tmp_path / "VOCdevkit/VOC2007/classes.txt").write_text("disc\nbox\n")
    with pytest.raises(ConfigError, match="equal classes in equal"):
        get_detection_datasets([names["voc_train"], names["coco_train"]])
    with pytest.raises(ConfigError, match="DATASETS.TRAIN names no dataset"):
        get_detection_datasets([])


def test_classes_of_a_voc_tree(names, tmp_path):
    (tmp_path / "VOCdevkit/VOC2007/classes.txt").unlink()
    # No list: names found in the annotations, sorted, equal for every split.
    assert get_detection_dataset(names["voc_test"]).classes == ["box", "disc"]
    for path in (tmp_path / "VOCdevkit/VOC2007/Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace(">box<", ">dog<").replace(">disc<", ">cat<"))
    dataset = get_detection_dataset(names["voc_test"])
    assert len(dataset.classes) == 20
    assert {dataset.classes[a["category_id"]] for row in dataset.dicts for a in row["annotations"]} <= {"cat", "dog"}


def test_catalog_names_and_scenes(names, tmp_path, monkeypatch):
    (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/train.txt").rename(
        tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    )
    monkeypatch.setenv("SSL_LOC_DATASETS", str(tmp_path))
    assert len(get_detection_dataset("voc_2007_trainval")) == 6
    with pytest.raises(
        DataError,
        match=r"voc_2007_val is incomplete.*Main/val.txt .it is in VOCtrainval.*; splits found there: test, trainval",
    ):
        get_detection_dataset("voc_2007_val")
    with pytest.raises(ConfigError, match="did you mean voc_2007_trainval"):
        get_detection_dataset("voc_2007_trainvl")
    assert len(get_detection_dataset(f"scenes:{tmp_path}:test")) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder:/data", "not in a form that has boxes"),
        ("coco:/data", "not in a form that has boxes"),
        ("voc:/data:07b:train", "the VOC year as '07b'"),
    ],
)
def test_wrong_forms(name, words):
    with pytest.raises(ConfigError, match=words):
        get_detection_dataset(name)


def test_missing_images_are_counted_and_named(names, tmp_path):
    (tmp_path / "coco/train/train_002.jpg").unlink()
    with pytest.raises(DataError, match=r"lists 6 images, but 1 of the files are missing \(first: .*train_002.jpg\)"):
        get_detection_dataset(names["coco_train"])


def test_masks_are_demanded_before_training(names):
    require_masks(get_detection_dataset(names["coco_train"]))
    with pytest.raises(DataError, match="MODEL.MASK_ON is True, but .* without a mask"):
        require_masks(get_detection_dataset(names["voc_train"]))


def take(count, **changes):
    sizes = [(10, 20), (20, 10), (10, 10), (5, 9), (9, 5)]
    settings = {"batch_size": 2, "seed": 3} | changes
    return list(itertools.islice(TrainingBatches(sizes, **settings), count))


def test_batches_depend_on_seed_and_iteration_only():
    assert take(7) == take(7)
    assert take(3, start_iteration=4) == take(7)[4:]
    assert take(7) != take(7, seed=4)
    assert [batch[0].iteration for batch in take(3, start_iteration=4)] == [4, 5, 6]


def test_batches_hold_one_orientation_and_every_pass_holds_every_image():
    wide = {0, 3}
    for batch in take(20):
        assert len({slot.index in wide for slot in batch}) == 1
    plain = [slot.index for batch in take(5, group_by_orientation=False) for slot in batch]
    assert sorted(plain[:5]) == sorted(plain[5:]) == [0, 1, 2, 3, 4]


def test_processes_share_the_stream():
    whole = [slot.index for batch in take(4, batch_size=1, group_by_orientation=False) for slot in batch]
    parts = [
        [s.index for b in take(2, batch_size=1, group_by_orientation=False, rank=r, world_size=2) for s in b]
        for r in (0, 1)
    ]
    assert [parts[0][0], parts[1][0], parts[0][1], parts[1][1]] == whole


def test_every_place_has_its_own_draws():
    states = {
        tuple(Slot(0, i, r, p).generator_state(s)) for i in (0, 1) for r in (0, 1) for p in (0, 1) for s in (0, 1)
    }
    assert len(states) == 16
    # The image itself does not matter: the draws belong to the place in the run.
    assert tuple(Slot(0, 1, 0, 1).generator_state(0)) == tuple(Slot(5, 1, 0, 1).generator_state(0))
