"""Published datasets from trees with their real layout: labels and boxes by hand, both splits agree, order, names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import release_trees as trees

from ssl_loc.data.catalog import ROOT_VARIABLE, get_dataset, resolve_path_form
from ssl_loc.data.datasets.folder import load_class_folder
from ssl_loc.data.image_check import image_sizes
from ssl_loc.data.image_io import read_image, read_size
from ssl_loc.data.labelled import load_splits
from ssl_loc.data.mapper import Mapper
from ssl_loc.data.records import RecordTable


def rows(spec: str, annotations: bool = True) -> list[tuple[str, int, list[list[float]] | None]]:
    found = get_dataset(spec, annotations=annotations).records
    return [(r.key, r.label, None if r.boxes is None else r.boxes.tolist()) for r in found]


@pytest.mark.parametrize("inside", ["", "CUB_200_2011"])
def test_cub_by_image_id_with_labels_from_zero(tmp_path: Path, inside: str) -> None:
    trees.cub(tmp_path)
    where = f"cub:{tmp_path / inside}"
    assert rows(f"{where}:train") == [
        ("001.Albatross/A_0009_34", 0, [[1.5, 2.0, 11.5, 22.5]]),
        ("002.Auklet/B_0001_1", 1, [[0, 0, 40, 32]]),  # image 10 comes after image 2
    ]
    assert rows(f"{where}:test") == [("001.Albatross/A_0046_18", 0, [[60, 27, 385, 331]])]
    dataset = get_dataset(f"{where}:train")
    assert dataset.metadata["classes"] == ["001.Albatross", "002.Auklet"]
    assert all(r.boxes is None for r in dataset.records)
    assert all(Path(r.path).is_file() for r in dataset.records)


def test_boxes_are_not_opened_unless_asked_for(tmp_path: Path) -> None:
    (trees.cub(tmp_path) / "bounding_boxes.txt").unlink()
    assert len(get_dataset(f"cub:{tmp_path}:train")) == 2


def test_nabirds_leaves_get_contiguous_numbers_that_both_splits_share(tmp_path: Path) -> None:
    trees.nabirds(tmp_path)
    assert rows(f"nabirds:{tmp_path}:train") == [
        ("0299/0b20bb", 0, [[3, 4, 23, 14]]),
        ("0817/ff10aa", 1, [[3, 4, 23, 14]]),
    ]
    assert [(key, label) for key, label, _ in rows(f"nabirds:{tmp_path}:test")] == [
        ("0817/77c0cc", 1),
        ("1010/a1d0dd", 2),
    ]
    names = get_dataset(f"nabirds:{tmp_path}:test").metadata["classes"]
    # Two leaves share a name, which alone would make them one class.
    assert names == ["Snow Goose (White)", "Oak Titmouse (817)", "Oak Titmouse (1010)"]


@pytest.mark.parametrize("labelled", ["cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"])
def test_cars_kit_counts_from_one(tmp_path: Path, labelled: str) -> None:
    trees.cars_kit(tmp_path, labelled)
    where = f"cars:{tmp_path}"
    assert rows(f"{where}:train") == [("00001", 0, [[0, 0, 40, 32]]), ("00002", 2, [[38, 115, 569, 375]])]
    assert rows(f"{where}:test") == [("00001", 1, [[29, 51, 246, 147]])]
    assert rows(f"{where}:test", annotations=False) == [("00001", 1, None)]
    classes = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"]
    assert get_dataset(f"{where}:test").metadata["classes"] == classes


def test_cars_single_list(tmp_path: Path) -> None:
    trees.cars_flat(tmp_path)
    where = f"cars:{tmp_path}"
    assert rows(f"{where}:train") == [
        ("000001", 0, [[111, 6, 853, 717]]),
        ("000003", 1, [[6, 3, 277, 180]]),
    ]
    assert rows(f"{where}:test") == [("000002", 1, [[47, 23, 441, 202]])]


def test_aircraft_variants_in_the_order_of_their_list(tmp_path: Path) -> None:
    trees.aircraft(tmp_path)
    where = f"aircraft:{tmp_path}"
    assert rows(f"{where}:trainval") == [("0034309", 1, [[2, 3, 50, 28]]), ("1025794", 2, [[9, 4, 20, 15]])]
    assert rows(f"{where}:test") == [("0034958", 0, [[0, 0, 60, 50]])]
    assert [key for key, _, _ in rows(f"{where}:val")] == ["0034309"]
    assert get_dataset(f"{where}:test").metadata["classes"] == ["707-320", "F-16A/B", "Falcon 2000"]


def test_the_banner_of_aircraft_is_left_out_wherever_the_photo_is_read(tmp_path: Path) -> None:
    trees.aircraft(tmp_path)
    (record,) = get_dataset(f"aircraft:{tmp_path}:test").records
    assert record.trim_bottom == 20
    image = read_image(record.path, record.trim_bottom)
    whole = read_image(record.path)
    assert whole.shape == (50, 60, 3)
    assert (image == whole[:30]).all()
    assert image.shape == (30, 60, 3)
    assert read_size(record.path, record.trim_bottom) == (30, 60)
    table = RecordTable.pack([record])
    assert image_sizes(table).tolist() == [[30, 60]]
    sample = Mapper(table, []).sample(0)
    assert (sample.image.permute(1, 2, 0).numpy() == whole[:30]).all()
    # The same in what is trained on.
    for split in ("train", "val", "trainval"):
        records = get_dataset(f"aircraft:{tmp_path}:{split}").records
        assert {record.trim_bottom for record in records} == {20}
        assert {Mapper(records, []).sample(i).height for i in range(len(records))} == {30}
    (kept,) = get_dataset(f"aircraft_with_banner:{tmp_path}:test").records
    assert (kept.trim_bottom, Mapper(RecordTable.pack([kept]), []).sample(0).height) == (0, 50)


def test_inat_numbers_are_those_of_the_categories_by_id(tmp_path: Path) -> None:
    trees.inat2018(tmp_path)
    assert rows(f"inat2018:{tmp_path}:train") == [
        ("Aves/2761/b", 1, None),
        ("Aves/2820/a", 2, None),
        ("Plantae/7477/c", 0, None),
    ]
    # No image of Anas acuta: the others keep their numbers.
    assert [label for _, label, _ in rows(f"inat2018:{tmp_path}:val")] == [2, 0]
    assert get_dataset(f"inat2018:{tmp_path}:val").metadata["classes"] == ["Acer rubrum", "Anas acuta", "Anas crecca"]


def test_imagenet_equals_its_class_folders(tmp_path: Path) -> None:
    trees.imagenet(tmp_path)
    for split in ("train", "val"):
        same = load_class_folder(str(tmp_path / split))
        assert rows(f"imagenet:{tmp_path}:{split}") == [(r.key, r.label, None) for r in same.records]
    assert get_dataset(f"imagenet:{tmp_path}:val").metadata["classes"] == ["n01440764", "n02086240"]


def test_places_from_its_lists(tmp_path: Path) -> None:
    trees.places_lists(tmp_path)
    assert rows(f"places205:{tmp_path}:val") == [
        ("a/abbey/gsun_5", 0, None),
        ("h/hotel/outdoor/gsun_6", 1, None),
        ("o/office/gsun_4", 2, None),
    ]
    assert get_dataset(f"places205:{tmp_path}:train").metadata["classes"] == ["a/abbey", "h/hotel/outdoor", "o/office"]


def test_places_from_folders_whose_last_names_repeat(tmp_path: Path) -> None:
    for place in ("h/hotel/outdoor", "c/cafe/outdoor", "a/abbey"):
        trees.picture(tmp_path / "train" / place / "x.jpg")
    assert rows(f"places205:{tmp_path}:train") == [
        ("a/abbey/x", 0, None),
        ("c/cafe/outdoor/x", 1, None),
        ("h/hotel/outdoor/x", 2, None),
    ]


NAMES = {
    "cub_train": "cub:{root}/cub:train",
    "cub_test": "cub:{root}/cub:test",
    "cars_train": "cars:{root}/cars:train",
    "cars_test": "cars:{root}/cars:test",
    "aircraft_trainval": "aircraft:{root}/aircraft:trainval",
    "aircraft_test": "aircraft:{root}/aircraft:test",
    "aircraft_with_banner_test": "aircraft_with_banner:{root}/aircraft:test",
    "nabirds_train": "nabirds:{root}/nabirds:train",
    "nabirds_test": "nabirds:{root}/nabirds:test",
    "inat2018_train": "inat2018:{root}/inat2018:train",
    "inat2018_val": "inat2018:{root}/inat2018:val",
    "imagenet_train": "imagenet:{root}/imagenet:train",
    "imagenet_val": "imagenet:{root}/imagenet:val",
    "places205_train": "places205:{root}/places205:train",
    "places205_val": "places205:{root}/places205:val",
}


@pytest.mark.parametrize("name", NAMES)
def test_catalog_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert resolve_path_form(name) == NAMES[name].format(root=tmp_path)


def test_a_subset_is_named_as_such(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trees.cub(tmp_path)
    get_dataset(f"cub:{tmp_path}:train")
    said = [r.getMessage() for r in caplog.records]
    assert any("has 2 images, the published CUB-200-2011 5994" in text for text in said)
    assert any("has 2 classes, the published CUB-200-2011 200" in text for text in said)


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (trees.cub, "cub:{0}:train,cub:{0}:test"),
        (trees.nabirds, "nabirds:{0}:train,nabirds:{0}:test"),
        (trees.cars_kit, "cars:{0}:train,cars:{0}:test"),
        (trees.aircraft, "aircraft:{0}:trainval,aircraft:{0}:test"),
        (trees.inat2018, "inat2018:{0}:train,inat2018:{0}:val"),
        (trees.imagenet, "imagenet:{0}:train,imagenet:{0}:val"),
        (trees.places_lists, "places205:{0}:train,places205:{0}:val"),
    ],
)
def test_both_parts_have_one_numbering(tmp_path: Path, make: Callable[[Path], Path], spec: str) -> None:
    make(tmp_path)
    train, test = load_splits(spec.format(tmp_path))
    assert train.classes == test.classes
    # Renumbering by name changes nothing: the numbers were those of the training part already.
    assert test.label_map == list(range(len(test.classes)))
    assert test.labels().tolist() == test.records.labels.tolist()
    assert tuple(test.image(0).shape[1:]) == ((30, 60) if make is trees.aircraft else (32, 40))
