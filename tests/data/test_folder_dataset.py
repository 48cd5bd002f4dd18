"""Folders of images: any nesting, labels only where asked for."""

import pytest
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.utils.errors import DataError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def keys(spec):
    return [record.key for record in get_dataset(spec).records]


def test_flat_and_nested_any_case_sorted_without_labels(tmp_path):
    for name in ("z.JPG", "b/two.png", "b/c/one.x.jpeg", "a.webp"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    picture(tmp_path / ".cache" / "hidden.png")
    picture(tmp_path / "._mac.png")
    dataset = get_dataset(f"folder:{tmp_path}")
    assert [r.key for r in dataset.records] == ["a", "b/c/one.x", "b/two", "z"]
    assert [r.label for r in dataset.records] == [-1] * 4
    assert dataset.records[1].path == str(tmp_path / "b/c/one.x.jpeg")


def test_links_are_followed_and_circles_end(tmp_path):
    picture(tmp_path / "real" / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(data)
    assert keys(f"folder:{data}") == ["link/a"]


def test_class_folder_labels_by_parent_name(tmp_path):
    for name in ("dog/1.png", "cat/1.png", "cat/2.png", "more/dog/9.png"):
        picture(tmp_path / name)
    dataset = get_dataset(f"class_folder:{tmp_path}")
    assert dataset.metadata["classes"] == ["cat", "dog"]
    assert [(r.key, r.label) for r in dataset.records] == [("cat/1", 0), ("cat/2", 0), ("dog/1", 1), ("more/dog/9", 1)]


def test_class_folder_refuses_loose_images(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    picture(tmp_path / "loose.png")
    with pytest.raises(DataError, match=r"loose.png outside of any class folder.*Use folder:"):
        get_dataset(f"class_folder:{tmp_path}")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(DataError, match=f"no images at {tmp_path}.*jpeg"):
        get_dataset(f"folder:{tmp_path}")
