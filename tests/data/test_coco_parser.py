"""The COCO parser: values by hand, crowds, gaps, and files that lie."""

import json

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.datasets.coco import load_coco_instances
from ssl_loc.utils.errors import DataError

CROWD = {"size": [4, 6], "counts": [8, 4, 12]}  # column 2 of 6 columns with 4 rows


def content():
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "height": 4, "width": 6},
            {"id": 2, "file_name": "a.png", "height": 4, "width": 6},
            {"id": 5, "file_name": "sub/empty.png", "height": 4, "width": 6},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1, 0.5, 2, 3], "segmentation": [[1, 1, 3, 1, 3, 3]]},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 1]]},
            {"id": 3, "image_id": 2, "category_id": 3, "bbox": [2, 0, 1, 4], "iscrowd": 1, "segmentation": CROWD},
            {"id": 4, "image_id": 2, "category_id": 3, "bbox": [0, 0, 6, 4]},
        ],
    }


@pytest.fixture
def tree(tmp_path):
    def write(value):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / "instances_toy.json").write_text(json.dumps(value))

    for name in ("a.png", "b.png", "sub/empty.png", "unlisted.png"):
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(path)
    write(content())
    return tmp_path, write


def parse(root):
    return load_coco_instances(root / "annotations" / "instances_toy.json", root / "toy")


def test_values_by_hand(tree, caplog):
    root, _ = tree
    dicts, metadata = parse(root)
    assert metadata["classes"] == ["car", "dog"]
    assert metadata["category_ids"] == {0: 3, 1: 18}
    assert [row["image_id"] for row in dicts] == [2, 5, 9]
    assert dicts[1]["annotations"] == []
    assert dicts[1]["file_name"] == str(root / "toy" / "sub" / "empty.png")
    assert dicts[2] == {
        "file_name": str(root / "toy" / "b.png"),
        "height": 4,
        "width": 6,
        "image_id": 9,
        "annotations": [
            {
                "bbox": [1, 0.5, 3, 3.5],
                "bbox_mode": "XYXY",
                "category_id": 1,
                "iscrowd": 0,
                "difficult": 0,
                "segmentation": [[1, 1, 3, 1, 3, 3]],
            }
        ],
    }
    assert "1 instances without a valid polygon" in caplog.text
    crowd, plain = dicts[0]["annotations"]
    assert crowd["iscrowd"] == 1
    assert crowd["segmentation"] == CROWD
    assert "segmentation" not in plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(file_name="../../etc/passwd"), "leaves its root"),
        (lambda c: c["images"][0].pop("file_name"), "lacks 'file_name'"),
        (lambda c: c["images"][0].pop("id"), "lacks 'id'"),
        (lambda c: c["images"].append("a.png"), "an image entry of .* is a.png; expected id"),
        (lambda c: c["annotations"][0].update(category_id=77), "category id 77, which the file does not declare"),
        (lambda c: c["annotations"][0].update(image_id=77), "image id 77, which the file does not declare"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), r"expected \[x, y, width, height\]"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 1 of .* lacks 'bbox'"),
        (lambda c: c.pop("categories"), "no COCO instances file"),
    ],
)
def test_broken_files_are_named(tree, change, message):
    root, write = tree
    value = content()
    change(value)
    write(value)
    with pytest.raises(DataError, match=message):
        parse(root)


def test_pretraining_needs_no_annotations(tree):
    root, _ = tree
    (root / "annotations" / "instances_toy.json").write_text("not json")
    dataset = get_dataset(f"coco:{root}:toy")
    assert [r.key for r in dataset.records] == ["a", "b", "sub/empty", "unlisted"]
    assert dataset.records[0].boxes is None
    with pytest.raises(DataError, match="not valid JSON"):
        get_dataset(f"coco:{root}:toy", annotations=True)
    (root / "annotations" / "instances_toy.json").unlink()
    with pytest.raises(DataError, match="no COCO annotations at .*instances_toy.json"):
        get_dataset(f"coco:{root}:toy", annotations=True)


def test_annotations_travel_in_the_records(tree):
    root, _ = tree
    records = list(get_dataset(f"coco:{root}:toy", annotations=True).records)
    assert [len(r.boxes) for r in records] == [2, 1, 0, 0]
    assert records[1].boxes.tolist() == [[1, 0.5, 3, 3.5]]
    assert records[0].segments[0] == CROWD
    # An object without a segmentation is its box.
    assert np.array_equal(records[0].segments[1][0], [0, 0, 6, 0, 6, 4, 0, 4])
