"""Sets made from photos: every pixel of every setting can be told from the colours the photos were drawn in."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data import background_sets
from ssl_loc.data.background_sets import SetOptions, draw_grounds, write_background_set
from ssl_loc.data.background_settings import SETTINGS, box_of, tile_over, without_partner
from ssl_loc.data.foregrounds import Foreground, Masks, find_foregrounds, read_foreground
from ssl_loc.data.records import Record
from ssl_loc.data.rng import Streams
from ssl_loc.utils.errors import ConfigError, DataError

CLASSES = ("ant", "bee", "cow")
SIDE, PHOTOS = 16, 3
THING = np.s_[4:12, 6:10]
PNG = SetOptions(side=SIDE, image_format="png")


def thing_colour(c: int, i: int) -> tuple[int, int, int]:
    return (200 + c, 10 * i, 0)


def ground_colour(c: int, i: int) -> tuple[int, int, int]:
    return (c, 10 * i, 200)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    """Photos whose object and ground have one colour each, different in every photo; their maps."""
    images, maps = tmp_path / "photos", tmp_path / "maps"
    for (c, name), i in itertools.product(enumerate(CLASSES), range(PHOTOS)):
        for folder in (images, maps):
            (folder / name).mkdir(parents=True, exist_ok=True)
        image = np.empty((SIDE, SIDE, 3), np.uint8)
        image[:] = ground_colour(c, i)
        image[THING] = thing_colour(c, i)
        grey = np.zeros((SIDE, SIDE), np.uint8)
        grey[THING] = 255
        Image.fromarray(image).save(images / name / f"{i}.png")
        Image.fromarray(grey).save(maps / name / f"{i}.png")
    return images, maps


def make(photos: tuple[Path, Path], out: Path, options: SetOptions = PNG) -> background_sets.Report:
    masks = Masks(f"folder:{photos[1]}")
    return write_background_set(out, f"class_folder:{photos[0]}", masks, options, progress=False)


def picture(out: Path, setting: str, c: int, i: int) -> np.ndarray:
    return np.asarray(Image.open(out / setting / "val" / CLASSES[c] / f"{i}.png"))


def two_colours(thing: tuple[int, ...], ground: tuple[int, ...]) -> np.ndarray:
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    image[:] = ground
    image[THING] = thing
    return image


def test_every_setting_shows_what_it_says(photos, tmp_path) -> None:
    out = tmp_path / "out"
    report = make(photos, out)
    assert report.classes == dict.fromkeys(CLASSES, PHOTOS) and not report.left_out
    black = (0, 0, 0)
    for c, i in itertools.product(range(3), range(PHOTOS)):
        thing, ground = thing_colour(c, i), ground_colour(c, i)
        assert np.array_equal(picture(out, "original", c, i), two_colours(thing, ground))
        assert np.array_equal(picture(out, "only_fg", c, i), two_colours(thing, black))
        assert np.array_equal(picture(out, "no_fg", c, i), two_colours(black, ground))
        assert np.array_equal(picture(out, "only_bg_b", c, i), two_colours(black, ground))
        assert np.array_equal(picture(out, "only_bg_t", c, i), two_colours(ground, ground))
        for setting, allowed in (("mixed_same", [c]), ("mixed_next", [(c + 1) % 3]), ("mixed_rand", [0, 1, 2])):
            image = picture(out, setting, c, i)
            other, number = int(image[0, 0, 0]), int(image[0, 0, 1]) // 10
            assert np.array_equal(image, two_colours(thing, ground_colour(other, number)))
            assert other in allowed and (other, number) != (c, i)
            assert report.grounds[f"{CLASSES[c]}/{i}"][setting] == f"{CLASSES[other]}/{number}"
        mask = np.load(out / "fg_mask" / "val" / CLASSES[c] / f"{i}.npy")
        assert mask.dtype == bool and np.array_equal(mask, two_colours((1, 1, 1), black)[..., 0] > 0)
    assert sorted(p.name for p in out.iterdir()) == sorted([*SETTINGS, "fg_mask", "backgrounds.json"])


def test_the_command_makes_a_set_from_class_folders(photos, tmp_path, monkeypatch, capsys) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_backgrounds.py"))
    words = [str(photos[0]), "--masks", f"folder:{photos[1]}", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["make_backgrounds.py", *words, "--side", str(SIDE), "--format", "png"])
    tool["main"]()
    assert "8 settings of 9 foregrounds, 3 classes; 0 photos left out" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*/val/*/*.png"))) == 8 * 9


def test_random_backgrounds_come_from_all_classes_alike() -> None:
    usable = {name: [Foreground(str(i), name, Record(f"{name}{i}")) for i in range(n)] for name, n in
              (("a", 2), ("b", 40), ("c", 2))}  # fmt: skip
    me = usable["a"][0]
    drawn = [draw_grounds(me, usable, Streams(0, 0, i))["mixed_rand"].label for i in range(600)]
    # A third each, however many photos a class has: 200 +- 5 standard deviations (11.5).
    assert all(abs(drawn.count(name) - 200) < 58 for name in "abc")
    assert {draw_grounds(me, usable, Streams(0, 0, i))["mixed_same"].name for i in range(50)} == {"1"}


def test_a_stopped_run_goes_on_and_a_seed_changes_the_backgrounds(photos, tmp_path, monkeypatch) -> None:
    whole = make(photos, tmp_path / "whole")
    written = []
    original = background_sets._write

    def stopping(base, foreground, *rest):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(foreground.name)
        original(base, foreground, *rest)

    monkeypatch.setattr(background_sets, "_write", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(photos, tmp_path / "parts")
    assert not json.loads((tmp_path / "parts" / "backgrounds.json").read_text())["complete"]
    monkeypatch.setattr(background_sets, "_write", lambda *a: written.append(a[1].name) or original(*a))
    assert make(photos, tmp_path / "parts") == whole
    assert len(written) == 9  # none twice
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    assert len(files) == 9 * 9 + 1
    assert make(photos, tmp_path / "seed1", SetOptions(SIDE, seed=1, image_format="png")).grounds != whole.grounds


def test_folders_of_another_kind_are_refused(photos, tmp_path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not empty and holds no backgrounds.json"):
        make(photos, tmp_path / "other")
    make(photos, tmp_path / "out")
    with pytest.raises(DataError, match="made otherwise.*options"):
        make(photos, tmp_path / "out", SetOptions(SIDE, seed=1, image_format="png"))
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[2:9, 2:9] = 255
    Image.fromarray(grey).save(photos[1] / "ant" / "0.png")
    with pytest.raises(DataError, match="made otherwise.*photos"):
        make(photos, tmp_path / "out")


def test_photos_without_a_usable_foreground_are_named(photos, tmp_path) -> None:
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(photos[1] / "ant" / "1.png")
    full = np.full((SIDE, SIDE), 255, np.uint8)
    full[0] = 0
    Image.fromarray(full).save(photos[1] / "bee" / "0.png")
    (photos[0] / "cow" / "0.png").unlink()
    (photos[0] / "cow" / "1.png").unlink()
    report = make(photos, tmp_path / "out")
    assert report.classes == {"ant": 2, "bee": 2}
    assert list(report.left_out.values()) == [["ant/1"], ["bee/0"], ["cow/2"]]
    assert [line.split(":")[0] for line in report.lines()] == [
        "1 without a foreground of 1% of the picture",
        "1 with a foreground whose box fills more than 90% of the picture",
        "1 alone in their class",
    ]
    (photos[0] / "bee" / "1.png").unlink()
    with pytest.raises(DataError, match="1 classes have 2 usable photos"):
        make(photos, tmp_path / "few")
    (photos[1] / "ant" / "0.png").unlink()
    with pytest.raises(DataError, match="cannot read map .*ant/0.png"):
        make(photos, tmp_path / "missing")


def test_at_most_so_many_per_class(photos, tmp_path) -> None:
    report = make(photos, tmp_path / "out", SetOptions(SIDE, per_class=2, image_format="png"))
    assert report.classes == dict.fromkeys(CLASSES, 2)
    assert {Path(name).name for name in report.grounds} == {"0", "2"}  # spread, not the first ones


def test_the_fill_repeats_the_largest_strip() -> None:
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    # Above the box is one row of 5, below one of 5, left 2 columns of 6, right none: 12 pixels to the left.
    filled = tile_over(image, (2, 1, 5, 5))
    expected = image.copy()
    expected[1:5, 2:4] = image[1:5, :2]
    expected[1:5, 4] = image[1:5, 0]
    assert np.array_equal(filled, expected)
    # Two rows of 5 above beat the taller column of 6 to the left.
    expected = image.copy()
    expected[2:4, 1:] = image[:2, 1:]
    expected[4, 1:] = image[0, 1:]
    assert np.array_equal(tile_over(image, (1, 2, 5, 5)), expected)
    assert not tile_over(image, (0, 0, 5, 6)).any()


def test_settings_take_the_tight_box_of_the_mask() -> None:
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    mask = np.zeros((6, 5), bool)
    mask[1, 2] = mask[4, 4] = True
    assert box_of(mask) == (2, 1, 5, 5)
    assert np.array_equal(without_partner(image, mask)["only_bg_t"], tile_over(image, (2, 1, 5, 5)))
    assert not without_partner(image, mask)["only_bg_b"][1:5, 2:].any()


def test_the_middle_of_a_long_photo_with_its_mask(tmp_path) -> None:
    image = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    image[:, SIDE : 2 * SIDE] = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    grey = np.zeros((SIDE, 3 * SIDE), np.uint8)
    grey[2:5, SIDE - 4 : SIDE + 6] = 255
    (tmp_path / "maps").mkdir()
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "maps" / "a.png")
    foreground = Foreground("a", "x", Record(str(tmp_path / "a.png"), 0, "a"))
    square, mask = read_foreground(foreground, Masks(f"folder:{tmp_path / 'maps'}"), SIDE)
    assert np.array_equal(square, image[:, SIDE : 2 * SIDE])
    assert np.array_equal(mask, grey[:, SIDE : 2 * SIDE] > 0)


def voc(root: Path) -> str:
    """Two photos: a large dog before a small cat, and a cat whose larger neighbour is difficult."""
    base = root / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    (base / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n")
    objects = {
        "000001": [("cat", (1, 1, 4, 4), 0), ("dog", (3, 5, 12, 14), 0)],
        "000002": [("dog", (1, 1, 16, 16), 1), ("cat", (5, 5, 8, 10), 0)],
    }
    for name, found in objects.items():
        Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(base / "JPEGImages" / f"{name}.jpg")
        rows = "".join(
            f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
            f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
            for kind, b, hard in found
        )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        (base / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{rows}</annotation>")
    return f"voc:{root}:2007:test"


def test_the_largest_object_stands_for_a_voc_photo(tmp_path) -> None:
    spec = voc(tmp_path / "devkit")
    cat, dog = find_foregrounds(spec, Masks())
    assert (cat.label, cat.name, dog.label, dog.name) == ("cat", "000002", "dog", "000001")
    _, mask = read_foreground(dog, Masks(), SIDE)
    expected = np.zeros((SIDE, SIDE), bool)
    expected[4:14, 2:12] = True  # 1-based, the last pixel included
    assert np.array_equal(mask, expected)
    # A map is cut to the object.
    (tmp_path / "maps").mkdir()
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[:8] = 255
    Image.fromarray(grey).save(tmp_path / "maps" / "000001.png")
    _, mask = read_foreground(dog, Masks(f"folder:{tmp_path / 'maps'}"), SIDE)
    expected[8:] = False
    assert np.array_equal(mask, expected)


def test_the_largest_object_of_a_coco_photo_has_its_polygon(tmp_path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / "val" / "a.jpg")
    polygons = {1: [2, 2, 6, 2, 6, 6, 2, 6], 2: [4, 4, 14, 4, 14, 12, 4, 12]}
    annotations = [
        {"id": k, "image_id": 7, "category_id": k, "iscrowd": 0, "segmentation": [p], "area": 1,
         "bbox": [p[0], p[1], p[2] - p[0], p[5] - p[1]]} for k, p in polygons.items()
    ]  # fmt: skip
    (tmp_path / "annotations" / "instances_val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.jpg", "width": SIDE, "height": SIDE}],
                "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "pan"}],
                "annotations": annotations,
            }
        )
    )
    (found,) = find_foregrounds(f"coco:{tmp_path}:val", Masks())
    assert found.label == "pan"
    _, mask = read_foreground(found, Masks(), SIDE)
    assert mask[5:11, 5:13].all() and not mask[:4].any() and not mask[13:].any()


def test_what_cannot_work_is_said(photos, tmp_path) -> None:
    with pytest.raises(DataError, match="no boxes or masks; expected --masks folder:DIR"):
        find_foregrounds(f"class_folder:{photos[0]}", Masks())
    with pytest.raises(DataError, match="photos without a class"):
        find_foregrounds(f"folder:{photos[0]}", Masks(f"folder:{photos[1]}"))
    with pytest.raises(ConfigError, match="--masks is 'maps'"):
        Masks("maps")
    with pytest.raises(DataError, match="no folder"):
        Masks(f"folder:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="1 photos per class"):
        SetOptions(per_class=1)
    with pytest.raises(DataError, match="jpg or png"):
        SetOptions(image_format="gif")
    (photos[0] / "ant" / "0.jpg").write_bytes((photos[0] / "ant" / "0.png").read_bytes())
    with pytest.raises(DataError, match="would both be ant/0"):
        find_foregrounds(f"class_folder:{photos[0]}", Masks(f"folder:{photos[1]}"))
