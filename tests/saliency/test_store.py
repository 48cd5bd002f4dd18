"""The store: which sizes fit, what the check finds, how masks are read and reduced."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.saliency.store import MapStore, check_maps, first_names, fits, reduce_mask
from ssl_loc.utils.errors import DataError


@pytest.mark.parametrize(
    ("map_size", "image_size", "expected"),
    [
        ((480, 640), (480, 640), True),
        ((120, 160), (480, 640), True),
        ((107, 160), (427, 640), True),  # 427 / 4 = 106.75, rounded up
        ((106, 160), (427, 640), True),  # ... and down
        ((8, 10), (480, 640), True),  # 1/60 and 1/64: 480 // 60 = 8, 640 / 60 -> 10 or 11
        ((640, 480), (480, 640), False),  # turned
        ((480, 639), (480, 640), False),
        ((320, 427), (480, 640), False),  # 2/3 is no integer fraction
        ((224, 224), (480, 640), False),
        ((960, 1280), (480, 640), False),
        ((1, 1), (2, 2), True),
        ((0, 0), (2, 2), False),
    ],
)
def test_which_sizes_fit(map_size, image_size, expected):
    assert fits(map_size, image_size) is expected


def test_fits_equals_the_slow_definition():
    image = (13, 29)
    for h in range(1, 15):
        for w in range(1, 31):
            slow = (h, w) == image or any(
                h in {max(1, 13 // n), -(-13 // n)} and w in {max(1, 29 // n), -(-29 // n)} for n in range(2, 31)
            )
            assert fits((h, w), image) == slow, (h, w)


def test_the_check_names_every_kind_of_problem(tmp_path):
    def put(key, array):
        Image.fromarray(np.asarray(array, dtype=np.uint8)).save(tmp_path / f"{key}.png")

    good = np.zeros((4, 6), dtype=np.uint8)
    good[1:3, 2:5] = 255
    for key in ("good", "turned", "changed", "gone"):
        put(key, good)
    put("empty", np.zeros((4, 6)))
    put("full", np.full((2, 3), 255))
    put("faint", np.full((4, 6), 100))
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    manifest = write_manifest(tmp_path, estimator="toy", uses_labels=False)
    put("late", good)
    put("changed", np.eye(60) * 255)
    (tmp_path / "gone.png").unlink()
    names = ("good", "turned", "changed", "gone", "never", "empty", "full", "faint", "broken", "late")
    sizes = dict.fromkeys(names, (4, 6)) | {"turned": (6, 4)}
    report = check_maps(manifest, sizes, 128)
    assert report.checked == 10
    assert report.found() == {
        "missing": ["gone", "never"],
        "unlisted": ["late"],
        "unreadable": ["broken"],
        "changed": ["changed"],
        "wrong size": ["turned"],
        "empty": ["empty", "faint"],
        "full": ["full"],
    }
    assert report.bad_keys == {"gone", "never", "late", "broken", "changed", "turned"}
    assert "2 missing: gone, never" in report.lines()
    # Another threshold than the manifest's, and an image whose size could not be read.
    assert check_maps(manifest, {"faint": (4, 6), "turned": None}, 60).found() == {"full": ["faint"]}
    assert check_maps(manifest, {"faint": (4, 6)}, 100).found() == {"empty": ["faint"]}  # "greater than", not "from"


def test_edited_maps_of_the_same_size_in_bytes_are_found_and_copied_ones_are_not(tmp_path):
    good = np.zeros((16, 16), dtype=np.uint8)
    good[4:12, 4:12] = 200
    for key in ("copied", "edited", "same"):
        (tmp_path / f"{key}.png").write_bytes(_stored_png(good))
    manifest = write_manifest(tmp_path, estimator="toy", uses_labels=False)
    (tmp_path / "edited.png").write_bytes(_stored_png(np.where(np.arange(16) < 8, good, 0).astype(np.uint8)))
    assert (tmp_path / "edited.png").stat().st_size == manifest.maps["edited"].bytes
    os.utime(tmp_path / "edited.png", ns=(7, 7))
    os.utime(tmp_path / "copied.png", ns=(7, 7))
    sizes = dict.fromkeys(manifest.maps, (16, 16))
    assert check_maps(manifest, sizes, 128, measure=True).found() == {"changed": ["edited"]}
    assert check_maps(manifest, sizes, 128).found() == {}


def _stored_png(values):
    """A PNG without compression: its size does not depend on its contents."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()


def test_masks_are_binarised_and_reduced(tmp_path):
    values = np.zeros((8, 12), dtype=np.uint8)
    values[:4, :4] = 129
    values[4:, 4:] = 128
    Image.fromarray(values).save(tmp_path / "m.png")
    expected = (values > 128) * 255
    assert np.array_equal(MapStore(tmp_path, 128).load("m", (8, 12)), expected)
    assert np.array_equal(MapStore(tmp_path, 127).load("m", (8, 12)), (values > 127) * 255)
    quarter = MapStore(tmp_path, 128, reduce=4).load("m", (8, 12))
    assert quarter.tolist() == [[255, 0, 0], [0, 0, 0]]
    # A stored half-size map serves a larger image as it is, and is reduced no further than asked.
    assert MapStore(tmp_path, 128, reduce=2).load("m", (16, 24)).shape == (8, 12)
    assert MapStore(tmp_path, 128, reduce=4).load("m", (16, 24)).shape == (4, 6)
    with pytest.raises(DataError, match=r"m.png is 12 x 8 px, its image 8 x 12; expected the same size"):
        MapStore(tmp_path, 128).load("m", (12, 8))
    with pytest.raises(DataError, match="leaves its root"):
        MapStore(tmp_path, 128).load("../../m", (8, 12))


@pytest.mark.parametrize("reduce", [2, 3, 5, 16])
def test_reduction_is_the_area_mean_and_loses_nothing(reduce):
    mask = np.zeros((48, 80), dtype=np.uint8)
    mask[17, 33] = 255  # the smallest object there is
    small = reduce_mask(mask, mask.shape, reduce)
    assert small.shape == (-(-48 // reduce), -(-80 // reduce))
    assert small.max() > 0
    if 48 % reduce == 0 and 80 % reduce == 0:
        cells = mask.reshape(48 // reduce, reduce, 80 // reduce, reduce).mean(axis=(1, 3))
        assert np.abs(small - cells).max() <= 0.5
    assert reduce_mask(mask, mask.shape, 1) is mask


def test_long_lists_are_cut():
    assert first_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert first_names(["a"]) == "a"
