"""DATA.MASKS: what is checked when the loader is built, what is dropped, what is said."""

import logging

import numpy as np
import pytest
from PIL import Image

from ssl_loc.config.defaults import base_cfg
from ssl_loc.data import image_check
from ssl_loc.data.image_check import image_sizes, usable_images
from ssl_loc.data.masks import build_masks
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.utils.errors import ConfigError, DataError

SIZE = (8, 12)


@pytest.fixture
def photos(tmp_path):
    """Five photos; maps: a fine, b empty, c full, d missing, e turned by 90 degrees."""
    (tmp_path / "maps").mkdir()
    one = np.zeros(SIZE, dtype=np.uint8)
    one[2:5, 3:9] = 200
    maps = {"a": one, "b": np.full(SIZE, 90), "c": np.full(SIZE, 255), "e": one.T}
    for key, values in maps.items():
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "maps" / f"{key}.png")
    write_manifest(tmp_path / "maps", estimator="toy", uses_labels=False)
    for key in "abcde":
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"{key}.png")
    return tmp_path


def table(root, keys):
    return RecordTable.pack(Record(str(root / f"{key}.png"), key=key) for key in keys)


def config(root, **keys):
    cfg = base_cfg()
    cfg.DATA.MASKS.SOURCE = "folder"
    cfg.DATA.MASKS.ROOT = str(root / "maps")
    for key, value in keys.items():
        cfg.DATA.MASKS[key] = value
    return cfg


def build(root, keys, **options):
    records = table(root, keys)
    return records, *build_masks(config(root, **options), records, image_sizes(records))


def test_good_maps(photos):
    records, source, keep = build(photos, "ac")
    assert keep.tolist() == [0, 1]
    expected = np.zeros(SIZE)
    expected[2:5, 3:9] = 255
    assert np.array_equal(source.load(0, records[0], SIZE), expected)
    assert source.load(1, records[1], SIZE).min() == 255  # a full mask is usable
    assert source.info == {
        "source": "folder",
        "estimator": "toy",
        "preset": "",
        "uses_labels": False,
        "version": "",
        "threshold": 128,
    }


def test_bad_maps_stop_at_build_with_counts_and_names(photos):
    with pytest.raises(DataError) as error:
        build(photos, "acde")
    assert str(error.value) == (
        f"2 of 4 images have no usable map in {photos / 'maps'} (1 missing: d; 1 wrong size: e); expected ROOT/<path "
        "of the image without suffix>.png. Make or list them with tools/make_saliency.py, or set DATA.MASKS.ON_BAD "
        "skip_att to train these images without a mask"
    )


def test_bad_maps_can_be_skipped_but_are_counted(photos, caplog):
    caplog.set_level(logging.INFO)
    records, source, keep = build(photos, "ade", ON_BAD="skip_att")
    assert keep.tolist() == [0, 1, 2]
    assert source.load(0, records[0], SIZE) is not None
    assert source.load(1, records[1], SIZE) is None
    assert source.load(2, records[2], SIZE) is None
    assert "2 of 3 images are trained without a mask" in caplog.text
    assert "1 missing: d" in caplog.text and "1 wrong size: e" in caplog.text


def test_unreadable_map_stops_the_build_in_one_sentence(photos):
    (photos / "maps" / "d.png").write_bytes(b"no picture")
    write_manifest(photos / "maps", estimator="toy", uses_labels=False)
    with pytest.raises(DataError) as error:
        build(photos, "acd")
    assert str(error.value) == (
        f"1 of 3 images have no usable map in {photos / 'maps'} (1 unreadable: d); expected "
        "ROOT/<path of the image without suffix>.png. Make or list them with tools/make_saliency.py, or set "
        "DATA.MASKS.ON_BAD skip_att to train these images without a mask"
    )


@pytest.mark.parametrize(
    ("highest", "advice"),
    [
        (0, "the highest is 0, so the maps are black: make them again (tools/make_saliency.py)"),
        (1, "the highest is 1; the maps hold 0 and 1, not 0 and 255: set DATA.MASKS.THRESHOLD 0"),
        (90, "the highest is 90; lower it: set DATA.MASKS.THRESHOLD 45"),
    ],
)
def test_maps_that_are_all_empty_name_the_threshold(photos, highest, advice):
    for key in "ab":
        values = np.zeros(SIZE, dtype=np.uint8)
        values[2:5, 3:9] = highest
        Image.fromarray(values).save(photos / "maps" / f"{key}.png")
    write_manifest(photos / "maps", estimator="toy", uses_labels=False)
    with pytest.raises(DataError) as error:
        build(photos, "ab")
    assert str(error.value) == (
        f"no image of DATA.TRAIN is left to train on: every map in {photos / 'maps'} is empty, since no grey value is "
        f"above DATA.MASKS.THRESHOLD (128); {advice}"
    )
    if highest:  # the advice works
        assert build(photos, "ab", THRESHOLD=highest // 2)[2].tolist() == [0, 1]
    assert build(photos, "ab", EMPTY="skip_att")[2].tolist() == [0, 1]


def test_empty_masks_are_dropped_or_skipped(photos, caplog):
    _, source, keep = build(photos, "bac")
    assert keep.tolist() == [1, 2]
    assert "1 of 3 images have an empty mask and are dropped (DATA.MASKS.EMPTY): b" in caplog.text
    assert len(source.usable) == 2 and source.usable.all()
    records, source, keep = build(photos, "bac", EMPTY="skip_att")
    assert keep.tolist() == [0, 1, 2]
    assert source.load(0, records[0], SIZE) is None
    assert "kept without a mask" in caplog.text
    # A lower threshold: the grey map is full instead of empty.
    assert build(photos, "bac", THRESHOLD=80)[2].tolist() == [0, 1, 2]


def test_a_map_that_breaks_after_the_check(photos, caplog):
    records, source, _ = build(photos, "a")
    lenient = build(photos, "a", ON_BAD="skip_att")[1]
    (photos / "maps" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot decode map .*a.png"):
        source.load(0, records[0], SIZE)
    assert lenient.load(0, records[0], SIZE) is None
    assert "trained without a mask" in caplog.text


def test_masks_at_reduced_resolution(photos):
    records, source, _ = build(photos, "a", REDUCE=2)
    mask = source.load(0, records[0], SIZE)
    assert mask.shape == (4, 6)
    # Columns 3..8 and rows 2..4 at half size: quarters of 255 where a cell is cut.
    assert (
        np.abs(mask - np.array([[0] * 6, [0, 127.5, 255, 255, 127.5, 0], [0, 64, 127.5, 127.5, 64, 0], [0] * 6])).max()
        <= 1
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"SOURCE": "foder"}, "DATA.MASKS.SOURCE is 'foder'.*did you mean folder"),
        ({"ON_BAD": "ignore"}, "DATA.MASKS.ON_BAD is 'ignore'.*error, skip_att"),
        ({"EMPTY": "keep"}, "DATA.MASKS.EMPTY is 'keep'.*drop, skip_att"),
        ({"REDUCE": 0}, "DATA.MASKS.REDUCE is 0; expected 1 to 16"),
        ({"THRESHOLD": 255}, "DATA.MASKS.THRESHOLD is 255; expected a grey value, 0 to 254"),
        ({"ROOT": ""}, "DATA.MASKS.ROOT is empty; set it"),
        ({"SOURCE": "ground_truth"}, "'ground_truth' but the dataset of DATA.TRAIN has no boxes or masks"),
        ({"ROOT": "/no/maps"}, "no saliency manifest at /no/maps/manifest.json.*--method precomputed"),
    ],
)
def test_wrong_settings_are_one_sentence(photos, keys, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build(photos, "a", **keys)


def test_two_images_cannot_share_a_map(photos):
    records = RecordTable.pack([Record("x/a.png", key="a"), Record("x/a.jpg", key="a")])
    with pytest.raises(DataError, match=r"x/a.png and x/a.jpg would share the map 'a.png'"):
        build_masks(config(photos), records, np.full((2, 2), 8))


def test_ground_truth_drops_images_without_objects(photos, caplog):
    box = np.array([[3, 2, 9, 5]], dtype=np.float32)
    none = np.zeros((0, 4), dtype=np.float32)
    records = RecordTable.pack([Record("n.png", key="n", boxes=none), Record("a.png", key="a", boxes=box)])
    source, keep = build_masks(config(photos, SOURCE="ground_truth"), records, np.full((2, 2), 8))
    assert keep.tolist() == [1]
    assert "1 of 2 images have an empty mask and are dropped (DATA.MASKS.EMPTY): n" in caplog.text
    expected = np.zeros(SIZE)
    expected[2:5, 3:9] = 255
    assert np.array_equal(source.load(0, records[1], SIZE), expected)
    assert source.load(0, records[0], SIZE) is None
    assert source.info["uses_labels"] is True


def test_tiny_and_unreadable_images_are_named(tmp_path, caplog):
    for name, size in (("ok", (2, 2)), ("thin", (1, 50)), ("flat", (50, 1))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    records = table(tmp_path, ["ok", "thin", "bad", "flat", "gone"])
    sizes = image_sizes(records)
    assert sizes.tolist() == [[2, 2], [50, 1], [-1, -1], [1, 50], [-1, -1]]
    # Unreadable ones stay: the mapper passes over them, and stops when there are too many.
    assert usable_images(records, sizes).tolist() == [0, 2, 4]
    assert "2 images with a side below 2 px are left out" in caplog.text and "thin.png" in caplog.text
    assert "2 of 5 images cannot be read" in caplog.text and "bad.png" in caplog.text


def test_processes_share_the_header_check(tmp_path, monkeypatch):
    for i in range(5):
        Image.new("RGB", (10 + i, 20 + i)).save(tmp_path / f"{i}.png")
    records = table(tmp_path, "01234")
    alone = image_sizes(records)
    monkeypatch.setattr(image_check.comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):  # what each process would contribute
        monkeypatch.setattr(image_check.comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(image_check.comm, "all_gather_object", lambda value: parts.append(value) or [])
        image_sizes(records)
    opened = [part for part in parts if isinstance(part, np.ndarray)]
    assert [len(part) for part in opened] == [3, 2]
    both = lambda value: opened if isinstance(value, np.ndarray) else [value, value]  # noqa: E731
    monkeypatch.setattr(image_check.comm, "all_gather_object", both)
    assert np.array_equal(image_sizes(records), alone)
    monkeypatch.setattr(image_check.comm, "all_gather_object", lambda value: [value, (4, "0", "3")])
    with pytest.raises(DataError, match=r"process 1 sees 4 images \(0 .. 3\), process 0 5 \(0 .. 4\)"):
        image_sizes(records)
