"""Masks from a dataset's objects: boxes by pixel centre, polygons, run-length crowds, their union."""

import json

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.ground_truth import has_objects, rasterize, write_ground_truth_maps
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.saliency.map_io import read_map
from ssl_loc.utils.errors import DataError


def boxes(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def test_boxes_fill_the_pixels_whose_centre_they_hold():
    record = Record("x", boxes=boxes([1, 0, 3, 2], [2.6, 1.4, 99, 2.5]))
    assert (rasterize(record, (4, 5)) // 255).tolist() == [
        [0, 1, 1, 0, 0],
        [0, 1, 1, 1, 1],  # the second box starts right of the centre of column 2
        [0, 0, 0, 0, 0],  # ... and ends on the centre of row 2, which is outside (half-open)
        [0, 0, 0, 0, 0],
    ]
    assert rasterize(Record("x", boxes=boxes([-5, -5, 1, 1])), (2, 2)).tolist() == [[255, 0], [0, 0]]


def test_union_of_polygons_and_a_crowd():
    crowd = {"size": [4, 6], "counts": [20, 4]}  # the last column, counted down the columns
    square = [np.array([1, 1, 3, 1, 3, 3, 1, 3])]
    record = Record("x", boxes=boxes([1, 1, 3, 3], [5, 0, 6, 4]), segments=[square, crowd])
    expected = np.zeros((4, 6), dtype=np.uint8)
    expected[1:3, 1:3] = 255
    expected[:, 5] = 255
    assert np.array_equal(rasterize(record, (4, 6)), expected)
    packed = RecordTable.pack([record])[0]
    assert np.array_equal(rasterize(packed, (4, 6)), expected)
    # Asked for boxes, or without segments: the boxes (here the same).
    assert np.array_equal(rasterize(record, (4, 6), prefer="boxes"), expected)
    assert rasterize(Record("x", boxes=boxes(), segments=[]), (4, 6)).max() == 0


def test_a_polygon_is_not_its_box():
    triangle = Record("x", boxes=boxes([0, 0, 8, 8]), segments=[[np.array([0, 0, 8, 0, 0, 8])]])
    area = (rasterize(triangle, (8, 8)) > 0).sum()
    assert 24 <= area <= 40  # 32 up to the pixels that the diagonal cuts
    assert (rasterize(triangle, (8, 8), prefer="boxes") > 0).sum() == 64


def test_a_run_length_mask_of_another_size_is_refused():
    record = Record("x", boxes=boxes([0, 0, 1, 1]), segments=[{"size": [4, 6], "counts": [0, 24]}])
    with pytest.raises(DataError, match=r"size \[4, 6\], its image \[6, 4\]"):
        rasterize(record, (6, 4))


def test_what_counts_as_an_object():
    assert has_objects(Record("x", boxes=boxes([0, 0, 1, 1])))
    assert not has_objects(Record("x"))
    assert not has_objects(Record("x", boxes=boxes()))
    assert not has_objects(Record("x", boxes=boxes([3, 3, 3, 9])))


def test_writing_continues_where_it_stopped(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 6} for i in range(3)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [i, 0, 2, 2]} for i in range(3)]
    content = {"images": images, "categories": [{"id": 1, "name": "c"}], "annotations": objects}
    (tmp_path / "annotations" / "instances_s.json").write_text(json.dumps(content))
    for i in range(3):
        Image.new("RGB", (6, 4)).save(tmp_path / "s" / f"{i}.png")
    dataset = get_dataset(f"coco:{tmp_path}:s", annotations=True)
    manifest = write_ground_truth_maps(dataset, tmp_path / "m", progress=False)
    assert manifest.uses_labels and manifest.estimator == "ground_truth"
    assert [entry.share for entry in manifest.maps.values()] == [pytest.approx(4 / 24, abs=1e-6)] * 3
    (tmp_path / "m" / "1.png").unlink()
    Image.fromarray(np.full((4, 6), 255, dtype=np.uint8)).save(tmp_path / "m" / "2.png")
    write_ground_truth_maps(dataset, tmp_path / "m", progress=False)
    assert read_map(tmp_path / "m" / "1.png")[0].tolist() == [0, 255, 255, 0, 0, 0]
    assert read_map(tmp_path / "m" / "2.png").min() == 255  # kept: it was there
    (tmp_path / "m" / "0.png").write_bytes(b"no picture")
    manifest = write_ground_truth_maps(dataset, tmp_path / "m", progress=False)
    assert read_map(tmp_path / "m" / "0.png")[0].tolist() == [255, 255, 0, 0, 0, 0]
    assert manifest.maps["0"].flags == []
    with pytest.raises(DataError, match="has no boxes or masks; expected one with annotations"):
        write_ground_truth_maps(get_dataset(f"folder:{tmp_path}/s"), tmp_path / "n", progress=False)
