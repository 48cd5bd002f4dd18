"""Donors: which images may be drawn, how often, and what happens where one cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.augment import SampleList, make_sample
from PIL import Image

from ssl_loc.data.donors import Donors, WindowDonors, check_donor_set
from ssl_loc.data.rng import Streams
from ssl_loc.saliency.windows import Window, WindowList, write_windows
from ssl_loc.structures import Sample
from ssl_loc.utils.errors import ConfigError, DataError


def numbered(count: int, unreadable: tuple[int, ...] = ()) -> SampleList:
    """Images of 2 x 2 px that show their position."""
    return SampleList(
        [
            None if i in unreadable else Sample(torch.full((3, 2, 2), i, dtype=torch.uint8), index=i)
            for i in range(count)
        ]
    )


def drawn(donors: Donors, names: list[str], index: int, count: int) -> list[tuple[str, int]]:
    found = (donors.draw(names, Streams(0, 0, i)("donor"), index) for i in range(count))
    return [(donor.source, donor.sample.index) for donor in found]


def test_every_other_image_is_drawn_alike() -> None:
    donors = Donors({"train": numbered(4), "dataset:x": numbered(2)})
    found = drawn(donors, ["dataset:x", "train"], 2, 5000)
    others = [("dataset:x", 0), ("dataset:x", 1), ("train", 0), ("train", 1), ("train", 3)]
    assert set(found) == set(others)
    for one in others:
        assert abs(found.count(one) / 5000 - 1 / 5) < 0.025  # 4.4 standard deviations of a binomial share


def test_an_image_is_its_own_donor_only_where_it_is_alone() -> None:
    assert drawn(Donors({"train": numbered(1)}), ["train"], 0, 3) == [("train", 0)] * 3
    assert set(drawn(Donors({"train": numbered(2)}), ["train"], 0, 9)) == {("train", 1)}
    # The same position of another set is another image.
    assert ("dataset:x", 0) in drawn(Donors({"dataset:x": numbered(2)}), ["dataset:x"], 0, 20)


def test_an_unreadable_donor_is_named_counted_and_replaced_by_the_same_one(caplog: pytest.LogCaptureFixture) -> None:
    donors = Donors({"train": numbered(6, unreadable=(1, 2, 3))})
    first = [donors.draw(["train"], Streams(0, 0, i)("donor"), 5) for i in range(60)]
    again = [donors.draw(["train"], Streams(0, 0, i)("donor"), 5) for i in range(60)]
    assert {donor.sample.index for donor in first} == {0, 4}
    assert [donor.sample.index for donor in first] == [donor.sample.index for donor in again]
    # Three of five fail, so the number of failures before a success is geometric with mean .6 / .4.
    counts = [donor.passed_over for donor in first]
    assert counts == [donor.passed_over for donor in again] and abs(np.mean(counts) - 1.5) < 1
    assert "cannot read image 2.jpg; another donor is taken instead" in caplog.text


def test_too_many_unreadable_donors_stop_the_run() -> None:
    donors = Donors({"train": numbered(3, unreadable=(0, 1, 2))}, max_bad_images=4)
    with pytest.raises(DataError, match=r"5 donors in a row cannot be read.*MAX_BAD_IMAGES allows \(4\): train \d"):
        donors.draw(["train"], Streams(0, 0, 0)("donor"), 0)
    with pytest.raises(DataError, match="'dataset:x' has no image"):
        Donors({"dataset:x": numbered(0)})


def test_small_sets_are_decoded_once_and_memory_is_bounded() -> None:
    class Counting(SampleList):
        calls = 0

        def sample(self, index: int) -> Sample:
            self.calls += 1
            return super().sample(index)

    source = Counting([make_sample(8, 8, seed=i) for i in range(3)])
    kept = Donors({"train": source}, cache_bytes=3 * 192)
    drawn(kept, ["train"], 0, 30)
    assert source.calls == 2  # image 0 asks, so 1 and 2 are donors
    source.calls = 0
    small = Donors({"train": source}, cache_bytes=192)
    drawn(small, ["train"], 0, 30)
    assert 2 < source.calls < 30 and small._kept_bytes <= 192 and len(small._kept) == 1


def windows_file(folder: Path, window: Window) -> str:
    pixels = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    Image.fromarray(pixels).save(folder / "a.png")
    settings = {"side": 4, "max_mean": 0.1, "max_max": 0.2}
    found = WindowList({"a": window}, {"a": str(folder / "a.png")}, settings=settings)
    write_windows(found, folder / "windows.json")
    return str(folder / "windows.json")


def test_a_window_is_its_part_of_the_photo(tmp_path: Path) -> None:
    path = windows_file(tmp_path, Window(3, 2, 7, 6, 0.0, 0.0))
    sample = WindowDonors.read(path).sample(0)
    want = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)[2:6, 3:7]
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), want) and sample.path.endswith("a.png")


def test_windows_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    path = windows_file(tmp_path, Window(9, 2, 13, 6, 0.0, 0.0))
    with pytest.raises(DataError, match=r"window 9, 2, 13, 6 of .*leaves .*a.png \(12 x 10 px\)"):
        WindowDonors.read(path).sample(0)
    write_windows(WindowList(settings={"side": 4, "max_mean": 0.1, "max_max": 0.2}), tmp_path / "none.json")
    with pytest.raises(DataError, match="lists no window"):
        WindowDonors.read(str(tmp_path / "none.json"))


@pytest.mark.parametrize("name", ["gray", "dataset:", "windows:", "Train"])
def test_a_set_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"KEY names the donors '{name}'; expected train, dataset:NAME"):
        check_donor_set("KEY", name)
    assert check_donor_set("KEY", "dataset:folder:/data") == "dataset:folder:/data"
