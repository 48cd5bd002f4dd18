"""The mapper: what it hands on, and what it does with files that cannot be read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_loc.data import mapper as mapper_module
from ssl_loc.data.mapper import Mapper
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.utils.errors import DataError


class Noted:
    """A pipeline that changes nothing and notes one draw."""

    needs = frozenset()

    def __call__(self, view, streams, context):
        noted = {"draw": float(streams("crop").random()), "earlier": len(context.earlier)}
        return replace(view, extra=noted)


def table(tmp_path, count, broken=()):
    records = []
    for i in range(count):
        path = tmp_path / f"{i}.png"
        if i in broken:
            path.write_bytes(b"rubbish")
        else:
            Image.new("RGB", (6, 4), (i, 2 * i, 3 * i)).save(path)
        records.append(Record(str(path), key=str(i), boxes=np.array([[0, 1, 2, 3]], dtype=np.float32)))
    return RecordTable.pack(records)


def test_a_sample_is_the_stored_pixels_without_a_copy(tmp_path, monkeypatch):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    monkeypatch.setattr(mapper_module, "read_image", lambda path, trim_bottom: pixels)
    sample = Mapper(table(tmp_path, 2), []).sample(1)
    assert np.array_equal(sample.image.numpy(), pixels.transpose(2, 0, 1))
    assert sample.image.data_ptr() == pixels.ctypes.data
    assert (sample.label, sample.index, sample.path) == (-1, 1, str(tmp_path / "1.png"))
    assert sample.boxes.tolist() == [[0, 1, 2, 3]]
    assert sample.saliency is None


def test_draws_depend_on_seed_epoch_index_and_view_only(tmp_path):
    records = table(tmp_path, 3)

    def draws(seed, epoch, index):
        return [v.extra["draw"] for v in Mapper(records, [Noted(), Noted()], seed=seed)[(epoch, index)].views]

    first = draws(0, 0, 0)
    assert draws(0, 0, 0) == first
    values = {*first, *draws(1, 0, 0), *draws(0, 1, 0), *draws(0, 0, 1)}
    assert len(values) == 8
    # The second view can look at the first.
    assert [v.extra["earlier"] for v in Mapper(records, [Noted(), Noted()])[(0, 0)].views] == [0, 1]


def test_a_corrupt_image_is_named_and_the_next_is_taken(tmp_path, caplog):
    mapper = Mapper(table(tmp_path, 4, broken=(3, 0)), [Noted()])
    image = mapper[(2, 3)]  # 3 and 0 are broken: 1 is next
    assert (image.sample_index, image.path, image.passed_over) == (1, str(tmp_path / "1.png"), 2)
    assert caplog.text.count("the next image is taken instead") == 2
    assert str(tmp_path / "3.png") in caplog.text and str(tmp_path / "0.png") in caplog.text
    # The image taken instead is augmented as itself.
    assert image.views[0].extra["draw"] == mapper[(2, 1)].views[0].extra["draw"]
    assert mapper[(2, 1)].passed_over == 0


def test_too_many_in_a_row_stop_the_run(tmp_path):
    records = table(tmp_path, 8, broken=range(1, 6))
    assert Mapper(records, [Noted()], max_bad_images=5)[(0, 1)].passed_over == 5
    with pytest.raises(DataError, match=r"5 images in a row cannot be read.*MAX_BAD_IMAGES allows \(4\).*1\.png"):
        Mapper(records, [Noted()], max_bad_images=4)[(0, 1)]
    with pytest.raises(DataError, match=r"cannot decode image .*1\.png"):  # none allowed: the reader's own words
        Mapper(records, [Noted()], max_bad_images=0)[(0, 1)]


def test_a_dataset_of_corrupt_images_ends(tmp_path):
    with pytest.raises(DataError, match="3 images in a row"):
        Mapper(table(tmp_path, 3, broken=range(3)), [Noted()], max_bad_images=10)[(0, 0)]


def test_masks_come_as_tensors(tmp_path):
    class Masks:
        info = {}

        def load(self, index, record, size):
            assert (record.key, size) == (str(index), (4, 6))
            return np.full((2, 3), 255, dtype=np.uint8) if index else None

    mapper = Mapper(table(tmp_path, 2), [Noted()], Masks())
    assert mapper.sample(0).saliency is None
    assert torch.equal(mapper.sample(1).saliency, torch.full((2, 3), 255, dtype=torch.uint8))
