"""The look at a VOC folder: every kind of damage is found, named and counted, and whole trees have none."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.voc_cases import write_voc_tree
from PIL import Image

from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.layout import check_layout
from ssl_loc.transfer.layout_report import counted, spread
from ssl_loc.utils.errors import ConfigError, DataError

BOX = (10, 10, 30, 30)


@pytest.fixture
def devkit(tmp_path):
    """VOCdevkit/VOC2007 with the split "test": eight images with a dog each."""
    folder = tmp_path / "VOCdevkit"
    write_voc_tree(folder / "VOC2007", {f"{n:06d}": [(0, BOX, 0)] for n in range(8)}, ["dog"])
    return folder


def look(devkit, year="2007", split="test", **options):
    return check_layout(f"voc:{devkit}:{year}:{split}", **options)


def edit(devkit, image, old, new):
    path = devkit / f"VOC2007/Annotations/{image:06d}.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def one(sentences):
    assert len(sentences) == 1, sentences
    return sentences[0]


def test_a_whole_tree_has_no_findings(devkit):
    report = look(devkit)
    assert report.ok and not report.notes
    assert (report.images, report.objects, report.classes, report.sizes_read) == (8, 8, 20, 0)
    assert "8 images, 8 objects, 20 classes" in report.summary()


@pytest.mark.parametrize("part", ["Annotations", "JPEGImages", "ImageSets/Main"])
def test_each_missing_folder_is_named_with_its_archive(devkit, part):
    shutil.rmtree(devkit / "VOC2007" / part)
    text = one(look(devkit).problems)
    assert f"no folder {devkit}/VOC2007/{part} (it is in VOCtest_06-Nov-2007.tar, from http://host.robots" in text


def test_all_missing_parts_are_named_at_once(devkit):
    for part in ("Annotations", "JPEGImages"):
        shutil.rmtree(devkit / "VOC2007" / part)
    assert len(look(devkit).problems) == 2
    with pytest.raises(DataError, match="incomplete: no folder .*Annotations.*; no folder .*JPEGImages"):
        get_detection_dataset(f"voc:{devkit}:2007:test")


def test_a_missing_split_names_its_archive_and_the_splits_there(devkit):
    text = one(look(devkit, split="trainval").problems)
    assert "Main/trainval.txt (it is in VOCtrainval_06-Nov-2007.tar" in text and text.endswith("found there: test")
    (devkit / "VOC2012/ImageSets/Main").mkdir(parents=True)
    problems = look(devkit, year="2012").problems
    assert any("test split are not public, evaluate on voc_2012_val" in text for text in problems)
    assert any("VOCtrainval_11-May-2012.tar" in text for text in look(devkit, year="2012", split="val").problems)


def test_misplaced_trees(devkit, tmp_path):
    # VOCdevkit/VOCdevkit/VOC2007
    nested = devkit / "VOCdevkit" / "VOC2007"
    nested.parent.mkdir()
    (devkit / "VOC2007").rename(nested)
    text = one(look(devkit).problems)
    assert f"it is at {nested}: mv {nested} {devkit}/VOC2007" in text
    assert f"or name the dataset voc:{nested.parent}:2007:test" in text
    assert look(nested.parent).ok
    # The folder itself given as the development kit, and its content without the folder.
    assert f"give its parent, voc:{nested.parent}:2007:test" in one(look(nested).problems)
    bare = nested.rename(tmp_path / "pictures")
    text = one(look(bare).problems)
    assert f"mkdir {bare}/VOC2007 && mv {bare}/JPEGImages {bare}/Annotations {bare}/ImageSets {bare}/VOC2007" in text


def test_a_tree_outside_is_linked_not_moved(devkit, tmp_path):
    # As unpacked into a folder called like the archive, beside the expected one.
    other = tmp_path / "VOCtest_06-Nov-2007" / "VOCdevkit" / "VOC2007"
    other.parent.mkdir(parents=True)
    (devkit / "VOC2007").rename(other)
    text = one(look(devkit).problems)
    assert f"there is one at {other}: ln -s {other} {devkit}/VOC2007" in text and " mv " not in text


def test_a_folder_of_another_spelling(devkit):
    (devkit / "VOC2007/JPEGImages").rename(devkit / "VOC2007/jpegimages")
    assert f"mv {devkit}/VOC2007/jpegimages {devkit}/VOC2007/JPEGImages" in one(look(devkit).problems)


def test_an_archive_that_was_not_unpacked(tmp_path):
    (tmp_path / "VOCdevkit").mkdir()
    archive = tmp_path / "VOCtest_06-Nov-2007.tar"
    archive.write_bytes(b"")
    text = one(look(tmp_path / "VOCdevkit").problems)
    # The archive's own first folder is VOCdevkit.
    assert text.endswith(f"its archive lies at {archive}, not unpacked: tar -xf {archive} -C {tmp_path}")
    # Another split's archive is no help.
    assert "not unpacked" not in one(look(tmp_path / "VOCdevkit", split="train").problems)


def test_images_and_annotations_that_are_not_there_are_counted_and_named(devkit):
    for n in range(7):
        (devkit / f"VOC2007/JPEGImages/{n:06d}.jpg").unlink()
    (devkit / "VOC2007/Annotations/000007.xml").unlink()
    images, annotations = look(devkit).problems
    assert (
        "lacks images of split test, of 8: 7 (000000.jpg, 000001.jpg, 000002.jpg, 000003.jpg, 000004.jpg, ...)"
        in images
    )
    assert "lacks annotations of split test, of 8: 1 (000007.xml)" in annotations
    notes = look(devkit).notes
    assert any("annotations without an image: 7 (000000," in text for text in notes)
    assert any("images without an annotation: 1 (000007)" in text for text in notes)
    (devkit / "VOC2007/JPEGImages/000007.jpg").unlink()
    assert "lacks images of split test, all of them: 8 (" in look(devkit).problems[0]


def test_split_files_with_odd_lines(devkit):
    lists = devkit / "VOC2007/ImageSets/Main/test.txt"
    lists.write_text("000000\n\n000000  1\n000001\n")
    assert look(devkit).ok and "taken once: 1 (000000)" in one(look(devkit).notes)
    lists.write_text("000000.jpg\nJPEGImages/000001\n")
    assert "expected ids without folder and suffix: 2 (000000.jpg, JPEGImages/000001)" in look(devkit).problems[0]
    lists.write_text("\n")
    assert "is empty; expected image ids" in one(look(devkit).problems)


def test_broken_xml_and_boxes(devkit):
    (devkit / "VOC2007/Annotations/000000.xml").write_text("<annotation>")
    edit(devkit, 1, "<xmin>11</xmin>", "")
    edit(devkit, 2, "<ymax>30</ymax>", "<ymax>many</ymax>")
    edit(devkit, 3, "<xmax>30</xmax>", "<xmax>9</xmax>")
    edit(devkit, 4, "<annotation>", "<annotation><size><width>100</width><height>100</height></size>")
    edit(devkit, 4, "<xmax>30</xmax>", "<xmax>101</xmax>")
    report = look(devkit)
    broken, no_box = report.problems
    assert "not valid xml: 1 (000000.xml)" in broken
    assert "xmin, ymin, xmax, ymax: 2 (000001.xml 'dog', 000002.xml 'dog')" in no_box
    flat, outside = report.notes
    assert "end before they begin" in flat and "1 (000003.xml 'dog' 11 11 9 30)" in flat
    assert "reach outside" in outside and "1 (000004.xml 'dog' 11 11 101 30)" in outside


def test_numbers_that_are_none(devkit):
    edit(devkit, 0, "<xmin>11</xmin>", "<xmin>nan</xmin>")
    edit(devkit, 1, "<ymax>30</ymax>", "<ymax>inf</ymax>")
    assert "xmin, ymin, xmax, ymax: 2 (000000.xml 'dog', 000001.xml 'dog')" in one(look(devkit).problems)
    with pytest.raises(DataError, match="000000.xml: object 'dog' has box .*nan.*expected numbers xmin"):
        get_detection_dataset(f"voc:{devkit}:2007:test")


def test_difficult_is_zero_or_one(devkit):
    edit(devkit, 0, "<difficult>0</difficult>", "<difficult>1.0</difficult>")
    edit(devkit, 1, "<difficult>0</difficult>", "<difficult> </difficult>")
    assert look(devkit).ok
    rows = get_detection_dataset(f"voc:{devkit}:2007:test").dicts
    assert [row["annotations"][0]["difficult"] for row in rows] == [1, 0, 0, 0, 0, 0, 0, 0]
    for n, text in ((2, "Unspecified"), (3, "2"), (4, "0.5")):
        edit(devkit, n, "<difficult>0</difficult>", f"<difficult>{text}</difficult>")
    text = one(look(devkit).problems)
    assert text.endswith("neither 0 nor 1: 3 (000002.xml 'dog' Unspecified, 000003.xml 'dog' 2, 000004.xml 'dog' 0.5)")
    with pytest.raises(DataError, match="000002.xml: object 'dog' has <difficult>Unspecified</difficult>; expected 0"):
        get_detection_dataset(f"voc:{devkit}:2007:test")


def test_files_in_other_encodings(devkit):
    lists, names = devkit / "VOC2007/ImageSets/Main/test.txt", devkit / "VOC2007/classes.txt"
    # As Windows editors save them.
    for path, text in ((lists, lists.read_text()), (names, "dog\r\ncaf\u00e9\r\n")):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert look(devkit).ok and look(devkit).images == 8
    dataset = get_detection_dataset(f"voc:{devkit}:2007:test")
    assert dataset.classes == ["dog", "café"] and dataset.dicts[0]["image_id"] == "000000"
    names.write_bytes("dog\ncafé\n".encode("latin-1"))
    assert f"{names} is not UTF-8 text (byte 7); save it as UTF-8" in one(look(devkit).problems)
    with pytest.raises(DataError, match="classes.txt is not UTF-8 text"):
        get_detection_dataset(f"voc:{devkit}:2007:test")
    names.unlink()
    lists.write_bytes("000000\nfigée\n".encode("latin-1"))
    assert f"{lists} is not UTF-8 text (byte 10)" in one(look(devkit).problems)
    with pytest.raises(DataError, match="test.txt is not UTF-8 text"):
        get_detection_dataset(f"voc:{devkit}:2007:test")


@pytest.mark.parametrize("encoding", ["gb2312", "nosuch"])
def test_xml_in_an_encoding_that_the_parser_lacks(devkit, encoding):
    path = devkit / "VOC2007/Annotations/000000.xml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>{path.read_text()}')
    assert "not valid xml: 1 (000000.xml)" in one(look(devkit).problems)
    with pytest.raises(DataError, match="000000.xml is not valid xml: .*encoding.*; save it as UTF-8"):
        get_detection_dataset(f"voc:{devkit}:2007:test")


def test_one_pixel_and_the_border_are_fine(devkit):
    # 1-based and inclusive: 100 is the last pixel of 100, and xmax == xmin is one pixel wide.
    edit(devkit, 0, "<annotation>", "<annotation><size><width>100</width><height>100</height></size>")
    edit(devkit, 0, "<xmax>30</xmax>", "<xmax>100</xmax>")
    edit(devkit, 1, "<xmax>30</xmax>", "<xmax>11</xmax>")
    assert look(devkit).ok and not look(devkit).notes


def test_boxes_in_fractions_of_the_image(tmp_path):
    write_voc_tree(tmp_path / "VOC2007", {"a": [(0, (-0.9, -0.8, 0.3, 0.4), 0)]}, ["dog"])
    assert "every box" in one(look(tmp_path).problems) and "expected pixels, counted from 1" in one(
        look(tmp_path).problems
    )


def test_images_without_objects(devkit):
    for n in range(8):
        (devkit / f"VOC2007/Annotations/{n:06d}.xml").write_text("<annotation/>")
    assert "none of the 8 annotations" in one(look(devkit).problems)
    edit(devkit, 0, "<annotation/>", "<annotation><object><name>cat</name></object></annotation>")
    edit(devkit, 0, "</name>", "</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>")
    assert look(devkit).ok and one(look(devkit).notes) == "7 images have no object; training leaves them out"


def test_class_names(devkit):
    edit(devkit, 0, "dog", "dgo")
    text = one(look(devkit).problems)
    assert "class 'dgo' is not among the 20 of VOC; did you mean dog? 1 objects, in 1 (000000.xml)" in text
    # Nothing of VOC's: a set with classes of its own, which works without a list.
    for n in range(8):
        path = devkit / f"VOC2007/Annotations/{n:06d}.xml"
        path.write_text(path.read_text().replace("dog", "screw").replace("dgo", "nut"))
    report = look(devkit)
    assert report.ok and report.classes == 2 and "no classes.txt" in one(report.notes)
    (devkit / "VOC2007/classes.txt").write_text("screw\n")
    assert f"class 'nut' is not among {devkit}/VOC2007/classes.txt" in one(look(devkit).problems)
    (devkit / "VOC2007/classes.txt").write_text("screw\nnut\nbolt\n")
    assert look(devkit).ok and look(devkit).classes == 3


def sized(devkit, width, height):
    for n in range(8):
        edit(devkit, n, "<annotation>", f"<annotation><size><width>{width}</width><height>{height}</height></size>")


def test_sizes_are_compared_with_the_headers(devkit):
    sized(devkit, 100, 100)
    assert look(devkit).sizes_read == 8 and look(devkit).ok
    Image.new("RGB", (90, 80)).save(devkit / "VOC2007/JPEGImages/000003.jpg")
    text = one(look(devkit).problems)
    assert (
        text
        == "of 8 looked at, images of another size than their annotation says: 1 (000003.jpg 90x80, annotated 100x100)"
    )
    # First and last are always among those looked at; the fourth of eight is not among three.
    assert look(devkit, sizes=3).ok and look(devkit, sizes=3).sizes_read == 3
    (devkit / "VOC2007/JPEGImages/000007.jpg").write_bytes(b"no picture")
    assert one(look(devkit, sizes=2).problems) == "of 2 looked at, image files that cannot be opened: 1 (000007.jpg)"


def test_only_headers_are_read(devkit, monkeypatch):
    sized(devkit, 100, 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded pixels"))
    assert look(devkit).sizes_read == 8


def test_images_turned_by_their_exif_tag(devkit):
    sized(devkit, 60, 40)
    exif = Image.Exif()
    for n in range(8):
        exif[0x0112] = 6 if n == 2 else 1  # 6: turn by a quarter
        Image.new("RGB", (60, 40)).save(devkit / f"VOC2007/JPEGImages/{n:06d}.jpg", exif=exif)
    text = one(look(devkit).problems)
    assert "EXIF orientation" in text and "1 (000002.jpg 40x60, annotated 60x40)" in text


def test_masks_are_not_in_voc(devkit):
    assert "MODEL.MASK_ON" in one(look(devkit, masks=True).problems)


def test_wrong_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean voc_2007_test"):
        check_layout("voc_2007_tset")
    with pytest.raises(ConfigError, match="the VOC year as 'x'"):
        check_layout("voc:/data:x:test")


def test_counts_and_spread():
    assert counted(["a"]) == "1 (a)" and counted(list("abcdef")) == "6 (a, b, c, d, e, ...)"
    assert list(spread(3, 5)) == [0, 1, 2] and list(spread(3, None)) == [0, 1, 2]
    assert spread(11, 3) == [0, 5, 10] and spread(10, 1) == [0]
    assert len(spread(1000, 37)) == 37 and np.diff(spread(1000, 37)).max() <= 28
