"""The look at a COCO folder: every kind of damage is found, named and counted, and whole trees have none."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from PIL import Image

from ssl_loc.transfer.datasets import get_detection_dataset, require_masks
from ssl_loc.transfer.layout import check_layout
from ssl_loc.utils.errors import DataError

SPLIT = "val2017"


@pytest.fixture
def root(tmp_path):
    """coco/ with eight 100 x 80 images of one object each."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / SPLIT).mkdir()
    images, annotations = [], []
    for n in range(8):
        Image.new("RGB", (100, 80)).save(folder / SPLIT / f"{n:03d}.jpg")
        images.append({"id": n, "file_name": f"{n:03d}.jpg", "width": 100, "height": 80})
        polygon = [10, 10, 40, 10, 40, 40, 10, 40]
        row = {"id": n + 1, "image_id": n, "category_id": 7, "bbox": [10, 10, 30, 30], "area": 900, "iscrowd": 0}
        annotations.append(row | {"segmentation": [polygon]})
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    write(folder, {"images": images, "annotations": annotations, "categories": categories})
    return folder


def json_file(root, split=SPLIT):
    return root / f"annotations/instances_{split}.json"


def write(root, content):
    json_file(root).write_text(json.dumps(content))


def changed(root, function):
    content = json.loads(json_file(root).read_text())
    function(content)
    write(root, content)


def look(root, split=SPLIT, **options):
    return check_layout(f"coco:{root}:{split}", **options)


def one(sentences):
    assert len(sentences) == 1, sentences
    return sentences[0]


def test_a_whole_tree_has_no_findings(root):
    report = look(root, masks=True)
    assert report.ok and not report.notes
    assert (report.images, report.objects, report.classes, report.sizes_read) == (8, 8, 2, 8)


def test_missing_parts_are_named_with_their_archives(root):
    shutil.rmtree(root / SPLIT)
    text = one(look(root).problems)
    assert text == f"no {root}/val2017 (it is in val2017.zip, from https://cocodataset.org/#download)"
    json_file(root).rename(json_file(root, "other"))
    text = look(root).problems[1]
    assert f"no {json_file(root)} (it is in annotations_trainval2017.zip, from" in text
    assert text.endswith("; splits that have annotations: other")
    # Splits that are not COCO's are in no archive of theirs.
    assert "it is in" not in "".join(look(root, "mine").problems)
    with pytest.raises(DataError, match="is incomplete: no .*val2017 .*; no .*instances_val2017.json"):
        get_detection_dataset(f"coco:{root}:{SPLIT}")


def test_another_root_is_recognised(root, tmp_path):
    wanted = f"{root} holds both: name the dataset coco:{root}:val2017"
    for given in (tmp_path, tmp_path / "nothing", root / "annotations", root / SPLIT):
        assert wanted in one(look(given).problems), given


def test_annotations_one_level_deeper(root):
    # As "unzip annotations_trainval2017.zip -d annotations" leaves them.
    deeper = root / "annotations" / "annotations" / json_file(root).name
    deeper.parent.mkdir()
    json_file(root).rename(deeper)
    assert one(look(root).problems) == f"no {json_file(root)}; it is at {deeper}: mv {deeper} {json_file(root)}"


def test_images_one_level_deeper(root):
    (root / "images").mkdir()
    (root / SPLIT).rename(root / "images" / SPLIT)
    assert f"mv {root}/images/val2017 {root}/val2017" in one(look(root).problems)
    (root / SPLIT).mkdir()
    (root / "images" / SPLIT).rename(root / SPLIT / SPLIT)
    text = one(look(root).problems)
    assert "lacks images that the json lists, all of them: 8 (000.jpg" in text
    assert text.endswith(
        f"there is {root}/val2017/val2017, one level too deep: mv {root}/val2017/val2017/* {root}/val2017"
    )


def test_a_common_name_elsewhere_is_another_datasets(root, tmp_path):
    """A folder "train" beside this dataset is no trace of it; its own splits are what helps."""
    (tmp_path / "imagewoof" / "train").mkdir(parents=True)
    other = tmp_path / "shapes"
    (other / "train").mkdir(parents=True)
    (other / "annotations").mkdir()
    (other / "annotations" / "instances_train.json").write_text("{}")
    text = one(look(root, "train").problems)
    assert text.endswith(": there is no split 'train'; splits that have annotations: val2017")
    assert "imagewoof" not in text and "shapes" not in text and "ln -s" not in text
    # With its annotations here, the images are still not those of another dataset.
    json_file(root).rename(json_file(root, "train"))
    assert one(look(root, "train").problems) == f"no {root}/train"
    # Within the folder the name says enough.
    (root / "images" / "train").mkdir(parents=True)
    assert one(look(root, "train").problems).endswith(f"mv {root}/images/train {root}/train")
    # Where nothing is known of the folder given, the whole tree beside it may be meant.
    assert f"name the dataset coco:{other}:train" in one(look(tmp_path / "nothing", "train").problems)


def test_archives_that_were_not_unpacked(root):
    (root / "val2017.zip").write_bytes(b"")
    shutil.rmtree(root / SPLIT)
    wanted = f"its archive lies at {root}/val2017.zip, not unpacked: unzip -q {root}/val2017.zip -d {root}"
    assert one(look(root).problems) == f"no {root}/val2017; {wanted}"
    (root / SPLIT).mkdir()  # made in advance, still empty
    assert one(look(root).problems).endswith(wanted)
    json_file(root).unlink()
    (root.parent / "annotations_trainval2017.zip").write_bytes(b"")
    assert f"unzip -q {root.parent}/annotations_trainval2017.zip -d {root}" in look(root).problems[-1]


def test_scenes_are_drawn_not_downloaded(tmp_path):
    text = one(check_layout(f"scenes:{tmp_path}/scenes:val").problems)
    assert text.endswith(f"draw the set with tools/make_scenes.py {tmp_path}/scenes")


def test_missing_images_are_counted_and_named(root):
    for n in range(6):
        (root / SPLIT / f"{n:03d}.jpg").unlink()
    text = one(look(root).problems)
    assert "of 8: 6 (000.jpg, 001.jpg, 002.jpg, 003.jpg, 004.jpg, ...) (it is in val2017.zip" in text
    assert look(root).sizes_read == 2


def test_images_that_the_json_does_not_list(root):
    Image.new("RGB", (9, 9)).save(root / SPLIT / "more.png")
    assert "they are not used: 1 (more.png)" in one(look(root).notes) and look(root).ok


def test_file_names_with_a_folder(root):
    changed(root, lambda c: [row.update(file_name=f"val2017/{row['file_name']}") for row in c["images"]])
    text = one(look(root).problems)
    assert "file_name holds a folder ('val2017/000.jpg')" in text and text.endswith("('000.jpg')")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "is not valid JSON: .* .a download that was cut off"),
        ("[1]", "no COCO instances file: it has no list of images and categories"),
        ('{"images": [], "categories": [], "annotations": []}', "lists no images"),
        ('{"images": [], "categories": []}', "has no annotations .COCO's image_info files"),
    ],
)
def test_files_that_are_no_annotations(root, text, words):
    json_file(root).write_text(text)
    assert any(re.search(words, found) for found in look(root).problems)


def test_rows_that_do_not_fit_together(root):
    def damage(content):
        content["images"][0].pop("height")
        content["images"][1]["id"] = 2
        rows = content["annotations"]
        rows[3]["image_id"] = 77
        rows[4]["category_id"] = 5
        rows[5]["bbox"] = [1, 2, 3]
        rows[6]["bbox"] = None
        rows[7]["id"] = 7
        content["categories"].append({"id": 3, "name": "bird"})

    changed(root, damage)
    problems = look(root).problems
    for words in (
        "1 images of .* lack id, file_name, height or width, .*first: .*000.jpg",
        "one id to several images: 1 .2.",
        # The annotations of images 1 (now 2) and 77 belong to nothing; image 0 is declared, if badly.
        "image ids that the file does not declare: 2 .2, 4.",
        "category ids that the file does not declare: 1 .5.",
        "no bbox of four numbers .x, y, width, height.: 2 .6, 7.",
        "one id to several annotations: 1 .7.",
        "one id to several categories: 1 .3.",
    ):
        assert sum(bool(re.search(words, text)) for text in problems) == 1, (words, problems)
    assert len(problems) == 7


def test_rows_of_other_types_are_problems_not_crashes(root):
    def damage(content):
        content["images"][0]["width"] = "100"
        content["images"][1] = None
        content["images"][2]["file_name"] = 3
        content["annotations"][5] = [1, 2]
        content["annotations"][6]["segmentation"] = [10, 10, 40, 10, 40, 40]  # no list of polygons

    changed(root, damage)
    problems = look(root, masks=True).problems
    assert problems[0].endswith("expected COCO instances") and "3 images of" in problems[1]
    assert any("have no segmentation: 1 (7)" in text for text in problems)


def test_boxes(root):
    def damage(content):
        content["annotations"][0]["bbox"] = [90, 10, 30, 30]
        content["annotations"][1]["bbox"] = [10, 10, 0, 30]

    changed(root, damage)
    report = look(root)
    assert report.ok
    outside, flat = report.notes
    assert "clips them: 1 (1)" in outside and "without width or height" in flat and "1 (2)" in flat
    # x1, y1, x2, y2 instead of x, y, width, height: 60 + 90 > 100 in every box.
    changed(root, lambda c: [row.update(bbox=[60, 40, 90, 70]) for row in c["annotations"]])
    assert "8 reach outside of their image; bbox is [x, y, width, height]" in one(look(root).problems)


def test_boxes_may_end_at_the_border(root):
    # COCO rounds to hundredths and sometimes beyond the last pixel.
    changed(root, lambda c: [row.update(bbox=[0, 0, 100.5, 80.0]) for row in c["annotations"]])
    assert look(root).ok and not look(root).notes


def test_masks_where_they_are_wanted(root):
    def damage(content):
        rows = content["annotations"]
        rows[0].pop("segmentation")
        rows[1]["segmentation"] = []
        rows[2]["segmentation"] = [[1, 2, 3, 4]]  # two points
        rows[3]["segmentation"] = {"size": [80, 100], "counts": [0, 8000]}
        rows[4].update(segmentation={"size": [80, 100], "counts": [0, 8000]}, iscrowd=1)

    changed(root, damage)
    report = look(root, masks=True)
    assert "annotations of" in one(report.problems) and "have no segmentation: 3 (1, 2, 3)" in one(report.problems)
    run_length, empty = report.notes
    assert "run-length masks instead of polygons (INPUT.MASK_FORMAT bitmask reads them): 1 (4)" in run_length
    # The image with nothing but a crowd has no object.
    assert empty.startswith("1 of 8 images have no object") and report.objects == 7
    assert look(root).ok


def test_run_lengths_that_cannot_be_read(root):
    def damage(content):
        rows = content["annotations"]
        rows[0]["segmentation"] = {"size": [80, 100], "counts": [0, 7999]}
        rows[1]["segmentation"] = {"size": [100, 80], "counts": [0, 8000]}
        rows[2]["segmentation"] = {"size": [80, 100]}
        rows[3].update(segmentation=[], iscrowd=1)
        rows[4].update(segmentation=[1, 2, 3, 4, 5, 6], iscrowd=1)

    changed(root, damage)
    no_mask, broken = look(root, masks=True).problems
    assert (
        "have no segmentation: 2 (4, 5)" in no_mask and "damaged run-length mask" in broken and "3 (1, 2, 3)" in broken
    )
    assert look(root).ok
    with pytest.raises(DataError, match=r"000.jpg cannot be read: its runs cover 7999 of 8000 pixels"):
        require_masks(get_detection_dataset(f"coco:{root}:{SPLIT}"))


def test_objects_to_find_need_a_valid_polygon(root):
    """An object that training leaves out cannot be left out of what is to be found."""
    flat, short = [10, 10, 40, 10, 40, 40], [[10, 10, 40, 40]]
    changed(root, lambda c: [c["annotations"][n].update(segmentation=s) for n, s in ((1, flat), (5, short))])
    dataset = get_detection_dataset(f"coco:{root}:{SPLIT}")
    assert dataset.without_polygon == [2, 6] and sum(len(row["annotations"]) for row in dataset.dicts) == 6
    require_masks(dataset)
    with pytest.raises(
        DataError, match=r"2 objects of .*instances_val2017.json have no valid polygon .annotations 2, 6"
    ):
        require_masks(dataset, to_find=True)
    assert "have no segmentation: 2 (2, 6)" in one(look(root, masks=True).problems)


def test_numbers_that_are_none(root):
    changed(root, lambda c: c["annotations"][3].update(bbox=[float("nan"), 1, 2, 3]))
    assert "no bbox of four numbers [x, y, width, height]: 1 (4)" in one(look(root).problems)
    with pytest.raises(DataError, match=r"annotation 4 of .* has bbox .nan, 1, 2, 3.; expected .x, y, width, height"):
        get_detection_dataset(f"coco:{root}:{SPLIT}")


def test_sizes_written_as_fractions_are_whole_numbers(root):
    changed(root, lambda c: [row.update(height=80.0, width=100.0) for row in c["images"]])
    assert look(root, masks=True).ok and look(root).sizes_read == 8
    row = get_detection_dataset(f"coco:{root}:{SPLIT}").dicts[0]
    assert (row["height"], row["width"]) == (80, 100) and isinstance(row["height"], int)
    for wrong in (80.5, "80", None, True):
        changed(root, lambda c: c["images"][0].update(height=wrong))  # noqa: B023
        assert "1 images of" in one(look(root).problems)
        with pytest.raises(DataError, match="an image entry of .*000.jpg.*whole numbers"):
            get_detection_dataset(f"coco:{root}:{SPLIT}")


@pytest.mark.parametrize("category", [{"id": 9}, {"id": 9, "name": None}, {"name": "bird"}, "bird"])
def test_categories_need_id_and_name(root, category):
    changed(root, lambda c: c["categories"].append(category))
    assert "1 categories of" in one(look(root).problems) and str(category) in one(look(root).problems)
    with pytest.raises(DataError, match="a category of .*val2017.json is .*expected an id .a number. and a name"):
        get_detection_dataset(f"coco:{root}:{SPLIT}")


def test_files_in_other_encodings(root):
    text = json_file(root).read_text().replace("dog", "hündin")
    json_file(root).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert look(root).ok and "hündin" in get_detection_dataset(f"coco:{root}:{SPLIT}").classes
    json_file(root).write_bytes(text.encode("latin-1"))
    assert "is not UTF-8 text (byte" in one(look(root).problems)


def test_no_objects_at_all(root):
    changed(root, lambda c: c["annotations"].clear())
    assert "has an object; nothing to train on" in one(look(root).problems)
    changed(root, lambda c: c.pop("annotations"))
    assert "has no annotations (COCO's image_info" in look(root).problems[0]


def test_sizes(root):
    changed(root, lambda c: c["images"][2].update(width=80, height=100))
    assert "1 (002.jpg 100x80, annotated 80x100)" in one(look(root).problems)


def test_real_loader_agrees_with_a_clean_report(root):
    assert len(get_detection_dataset(f"coco:{root}:{SPLIT}")) == look(root).images
