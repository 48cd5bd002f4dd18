"""Scene sets on disk: every form agrees with the drawing, drawing resumes, different sets are not mixed."""

from __future__ import annotations

import dataclasses
import json
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.datasets.scenes import write
from ssl_loc.data.datasets.scenes.annotations import polygons, rle
from ssl_loc.data.datasets.scenes.draw import draw_scene
from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.saliency.manifest import read_manifest
from ssl_loc.utils.errors import DataError

LOOK = SceneParams(width=48, height=40, families=2, kinds=2)
PLAN = write.SetPlan(train=5, val=2, objects_train=4, objects_val=4, backgrounds=2, image_format="png")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write.write_scenes(tmp_path_factory.mktemp("sets") / "scenes", LOOK, PLAN, progress=False)


def _digest(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_coco_tree_holds_the_drawn_masks_and_boxes(drawn):
    from pycocotools.coco import COCO

    coco = COCO(str(drawn / "coco" / "annotations" / "instances_train.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == LOOK.classes
    assert len(coco.getImgIds()) == 5
    for index in range(5):
        scene = draw_scene(LOOK, "train", index)
        (info,) = coco.loadImgs([index + 1])
        picture = cv2.imread(str(drawn / "coco" / "train" / info["file_name"]))[..., ::-1]
        assert np.array_equal(picture, scene.image)  # png
        rows = coco.loadAnns(coco.getAnnIds([index + 1]))
        assert [r["category_id"] - 1 for r in rows] == scene.labels.tolist()
        for row, mask, box in zip(rows, scene.masks, scene.boxes, strict=True):
            x, y, w, h = row["bbox"]
            assert [x, y, x + w, y + h] == box.tolist()
            found = coco.annToMask(row).astype(bool)
            assert (found & mask).sum() / (found | mask).sum() > 0.97


def test_polygons_run_along_pixel_edges():
    from pycocotools import mask as coco_mask

    mask = np.zeros((12, 14), bool)
    mask[2:7, 3:9] = True  # an L, and a single pixel apart
    mask[5:11, 3:5] = True
    mask[10, 12] = True
    codes = coco_mask.frPyObjects(polygons(mask), 12, 14)
    assert np.array_equal(coco_mask.decode(coco_mask.merge(codes)).astype(bool), mask)
    assert sorted(polygons(mask[8:, 10:])[0]) == [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]  # one pixel: its square
    code = rle(mask)
    assert np.array_equal(coco_mask.decode(code).astype(bool), mask)


def test_voc_tree_matches(drawn):
    voc = drawn / "VOCdevkit" / "VOC2007"
    names = (voc / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    assert names == [f"train_{i:06d}" for i in range(5)]
    assert len((voc / "ImageSets" / "Main" / "test.txt").read_text().split()) == 2
    scene = draw_scene(LOOK, "train", 3)
    objects = ElementTree.parse(voc / "Annotations" / f"{names[3]}.xml").findall("object")
    assert [o.findtext("name") for o in objects] == [LOOK.classes[c] for c in scene.labels]
    for node, box in zip(objects, scene.boxes, strict=True):
        corners = [float(node.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
        assert [corners[0] - 1, corners[1] - 1, corners[2], corners[3]] == box.tolist()
    first = (voc / "ImageSets" / "Main" / f"{LOOK.classes[0]}_trainval.txt").read_text().split()
    present = [0 in draw_scene(LOOK, "train", i).labels for i in range(5)]
    assert first[1::2] == ["1" if p else "-1" for p in present]


def test_saliency_manifest_and_labels(drawn):
    manifest = read_manifest(drawn / "saliency" / "train")
    assert manifest.uses_labels and sorted(manifest.maps) == [f"{i:06d}" for i in range(5)]
    dataset = get_dataset(f"scenes:{drawn}:train")
    scenes = [draw_scene(LOOK, "train", i) for i in range(5)]
    assert [r.label for r in dataset.records] == [s.label for s in scenes]
    assert dataset.metadata["classes"] == LOOK.classes
    for record, scene in zip(dataset.records, scenes, strict=True):
        assert np.array_equal(cv2.imread(str(manifest.path(record.key)), cv2.IMREAD_UNCHANGED), scene.saliency)


def test_detection_datasets_read_both_trees(drawn):
    datasets = pytest.importorskip("ssl_loc.transfer.datasets")
    as_coco = datasets.get_detection_dataset(f"scenes:{drawn}:train")
    as_voc = datasets.get_detection_dataset(f"voc:{drawn / 'VOCdevkit'}:2007:trainval")
    assert list(as_coco.classes) == list(as_voc.classes) == LOOK.classes
    for a, b in zip(as_coco.dicts, as_voc.dicts, strict=True):
        assert [x["category_id"] for x in a["annotations"]] == [x["category_id"] for x in b["annotations"]]
        assert [list(x["bbox"]) for x in a["annotations"]] == [list(x["bbox"]) for x in b["annotations"]]


def test_objects_and_backgrounds_folders(drawn):
    assert sorted(p.name for p in (drawn / "objects" / "train").iterdir()) == sorted(LOOK.classes)
    assert len(list((drawn / "objects" / "val").rglob("*.png"))) == 4
    assert len(list((drawn / "backgrounds").glob("*/val/*/*.png"))) == 2 * 8
    masks = sorted((drawn / "backgrounds" / "fg_mask").rglob("*.npy"))
    assert len(masks) == 2 and np.load(masks[0]).dtype == bool


def test_interrupted_drawing_goes_on_and_workers_do_not_matter(drawn, tmp_path, monkeypatch):
    root = tmp_path / "again"
    monkeypatch.setattr(write, "_CHUNK", 2)
    original, calls = write._DRAWERS["train"], []

    def stops_at_three(unit, index):
        if index == 3:
            raise KeyboardInterrupt
        return original(unit, index)

    monkeypatch.setitem(write._DRAWERS, "train", stops_at_three)
    with pytest.raises(KeyboardInterrupt):
        write.write_scenes(root, LOOK, PLAN, progress=False)
    with pytest.raises(DataError, match="unfinished"):
        get_dataset(f"scenes:{root}:train")

    def counts(unit, index):
        calls.append(index)
        return original(unit, index)

    monkeypatch.setitem(write._DRAWERS, "train", counts)
    write.write_scenes(root, LOOK, PLAN, progress=False)
    assert calls == [2, 3, 4]  # the unit 0..1 was finished before
    mine, theirs = _digest(root), _digest(drawn)
    skip = [k for k in mine if k.endswith("manifest.json")]  # holds file times
    assert {k: v for k, v in mine.items() if k not in skip} == {k: v for k, v in theirs.items() if k not in skip}


def test_other_parameters_are_not_mixed_in(drawn, tmp_path):
    before = _digest(drawn)
    write.write_scenes(drawn, LOOK, PLAN, progress=False)  # complete: nothing to do
    assert _digest(drawn) == before
    with pytest.raises(DataError, match=r"correlation: there 0.8, asked for 0.2.*another folder"):
        write.write_scenes(drawn, dataclasses.replace(LOOK, correlation=0.2), PLAN, progress=False)
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="not empty"):
        write.write_scenes(tmp_path, LOOK, PLAN, progress=False)


def test_missing_set_names_the_command(tmp_path, drawn):
    with pytest.raises(DataError, match=r"python tools/make_scenes.py .*nowhere"):
        get_dataset(f"scenes:{tmp_path / 'nowhere'}:train")
    with pytest.raises(DataError, match="drawn there: train, val"):
        get_dataset(f"scenes:{drawn}:test")


def test_annotations_are_plain_json(drawn):
    values = json.loads((drawn / "coco" / "annotations" / "labels_val.json").read_text())
    assert len(values["label"]) == len(values["background"]) == 2
