"""The VOC parser: values by hand, sloppy xml that exists in the wild, and files that lie."""

import pytest
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.datasets.voc import VOC_CLASSES, load_voc_instances
from ssl_loc.utils.errors import DataError

SIZE = "<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
FULL = """<object><name>dog</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
  <part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  <bndbox><xmin>2</xmin><ymin>1</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object>"""
BARE = """<object><name> person </name>
  <bndbox><ymax>3.5</ymax><xmax>6.0</xmax><ymin>1.5</ymin><xmin>1.0</xmin></bndbox></object>"""


DEFAULT_SIZE = SIZE.format(w=6, h=4)


def xml(*objects, size=DEFAULT_SIZE):
    return f"<annotation><filename>../../elsewhere.jpg</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def devkit(tmp_path):
    voc = tmp_path / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    for name in ("000002", "000001", "000003"):
        Image.new("RGB", (6, 4)).save(voc / "JPEGImages" / f"{name}.jpg")
    (voc / "ImageSets/Main/trainval.txt").write_text("000002\n000001\n\n")
    (voc / "ImageSets/Main/dog_train.txt").write_text("000001  1\n000003 -1\n")
    (voc / "Annotations/000001.xml").write_text(xml(FULL, BARE))
    (voc / "Annotations/000002.xml").write_text(xml(size=""))
    (voc / "Annotations/000003.xml").write_text(xml(FULL, size=SIZE.format(w=0, h=0)))
    return tmp_path


def test_values_by_hand(devkit):
    second, first = load_voc_instances(devkit / "VOC2007", "trainval", VOC_CLASSES)
    assert first == {
        "file_name": str(devkit / "VOC2007/JPEGImages/000001.jpg"),
        "height": 4,
        "width": 6,
        "image_id": "000001",
        "annotations": [
            {"bbox": [1, 0, 5, 4], "bbox_mode": "XYXY", "category_id": 11, "iscrowd": 0, "difficult": 1},
            {"bbox": [0, 0.5, 6, 3.5], "bbox_mode": "XYXY", "category_id": 14, "iscrowd": 0, "difficult": 0},
        ],
    }
    # No <size>: the header of the image is asked.
    assert (second["image_id"], second["height"], second["width"], second["annotations"]) == ("000002", 4, 6, [])


def test_class_files_with_a_second_column_are_split_files_too(devkit):
    rows = load_voc_instances(devkit / "VOC2007", "dog_train")
    assert [(r["image_id"], r["height"], r["width"]) for r in rows] == [("000001", 4, 6), ("000003", 4, 6)]


def test_other_classes_come_from_classes_txt(devkit):
    (devkit / "VOC2007/classes.txt").write_text("person\ndog\n")
    rows = load_voc_instances(devkit / "VOC2007", "trainval")
    assert [a["category_id"] for a in rows[1]["annotations"]] == [1, 0]
    assert get_dataset(f"voc:{devkit}:2007:trainval").metadata["classes"] == ["person", "dog"]


def test_pretraining_reads_the_split_only_and_sorts(devkit):
    (devkit / "VOC2007/Annotations/000001.xml").write_text("broken")
    records = list(get_dataset(f"voc:{devkit}:2007:trainval").records)
    assert [(r.key, r.boxes) for r in records] == [("000001", None), ("000002", None)]


def test_boxes_travel_in_the_records(devkit):
    records = list(get_dataset(f"voc:{devkit}:2007:trainval", annotations=True).records)
    assert records[0].boxes.tolist() == [[1, 0, 5, 4], [0, 0.5, 6, 3.5]]
    assert records[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(FULL.replace("dog", "dgo")), r"class 'dgo'; did you mean dog\?.*expected one of aeroplane.*classes.txt"),
        (xml(FULL.replace("<xmin>2</xmin>", "")), "000001.xml: object 'dog' has box .*None"),
        (xml(FULL.replace("<xmin>2", "<xmin>two")), "expected numbers xmin"),
        ("<annotation>", "000001.xml is not valid xml"),
    ],
)
def test_broken_annotations_are_named(devkit, text, message):
    (devkit / "VOC2007/Annotations/000001.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_voc_instances(devkit / "VOC2007", "trainval", VOC_CLASSES)


def test_missing_files_are_named(devkit):
    voc = devkit / "VOC2007"
    # Pretraining and detection come here: both keys are named.
    with pytest.raises(DataError, match="no VOC split file at .*nosuch.txt.*DATA.TRAIN.*DATASETS.TRAIN, DATASETS.TEST"):
        load_voc_instances(voc, "nosuch")
    (voc / "Annotations/000001.xml").unlink()
    with pytest.raises(DataError, match="no annotation of image '000001' at"):
        load_voc_instances(voc, "trainval")
    (voc / "ImageSets/Main/trainval.txt").write_text("000009\n")
    with pytest.raises(DataError, match="no image '000009' of split 'trainval'"):
        load_voc_instances(voc, "trainval")


@pytest.mark.parametrize("outside", ["../../../secret", "/etc/hostname"])
def test_ids_and_splits_cannot_leave_the_folder(devkit, outside):
    voc = devkit / "VOC2007"
    (voc / "ImageSets/Main/evil.txt").write_text(outside + "\n")
    with pytest.raises(DataError, match="leaves its root"):
        load_voc_instances(voc, "evil")
    with pytest.raises(DataError, match="leaves its root"):
        load_voc_instances(voc, outside)
