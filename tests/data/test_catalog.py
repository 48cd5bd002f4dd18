"""The catalog: names, path forms, and sentences for what is not there."""

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data import catalog
from ssl_loc.data.catalog import Dataset, get_dataset, register_dataset, resolve_path_form, split_path_form
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.utils.errors import DataError


def picture(path, size=(6, 4), colour=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_LOC_DATASETS", str(tmp_path))
    return tmp_path


def test_names_are_path_forms_under_the_root(root):
    assert resolve_path_form("coco_2017_train") == f"coco:{root}/coco:train2017"
    assert resolve_path_form("voc_2012_trainval") == f"voc:{root}/VOCdevkit:2012:trainval"
    assert split_path_form("coco_2017_val") == ("coco", [f"{root}/coco", "val2017"])
    assert split_path_form("voc:/a:b/c:2007:test") == ("voc", ["/a:b/c", "2007", "test"])
    assert split_path_form("unheard of") is None
    picture(root / "coco" / "train2017" / "7.png")
    dataset = get_dataset("coco_2017_train")
    assert dataset.name == "coco_2017_train"
    assert [r.key for r in dataset.records] == ["7"]


def test_default_root_is_the_folder_datasets(monkeypatch):
    monkeypatch.delenv("SSL_LOC_DATASETS", raising=False)
    assert str(catalog.dataset_root()) == "datasets"


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("coco_2017_train", ["{root}/coco/train2017", "DIR/annotations/instances_train2017.json", "$SSL_LOC_DATASETS"]),
        ("voc_2007_trainval", ["{root}/VOCdevkit/VOC2007", "ImageSets/Main/trainval.txt", "$SSL_LOC_DATASETS"]),
        ("folder:/no/such/place", ["/no/such/place", "at any depth", "DATA.TRAIN"]),
        ("coco_2017_trian", ["did you mean coco_2017_train", "folder:DIR", "voc:DEVKIT:YEAR:SPLIT"]),
        ("coco:/data", ["coco:DIR:SPLIT"]),
        ("coco:/data:", ["coco:DIR:SPLIT"]),
    ],
)
def test_a_missing_dataset_ends_in_one_sentence_that_helps(root, spec, parts):
    with pytest.raises(DataError) as error:
        get_dataset(spec)
    for part in parts:
        assert part.format(root=root) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bare_folder_is_answered_with_its_path_form(tmp_path):
    with pytest.raises(DataError, match=f"folder:{tmp_path}"):
        get_dataset(str(tmp_path))


def test_a_function_can_be_registered_with_metadata():
    records = [Record("a.png", label=1, key="a"), Record("b.png", key="b")]
    register_dataset("test_two", lambda: iter(records), classes=["x", "y"])
    register_dataset("test_made", lambda: Dataset("?", RecordTable.pack(records), {"kind": "mine"}))
    try:
        dataset = get_dataset("test_two")
        assert [r.path for r in dataset.records] == ["a.png", "b.png"]
        assert dataset.metadata == {"kind": "custom", "classes": ["x", "y"]}
        assert get_dataset("test_made").metadata["kind"] == "mine"
        assert np.array_equal(dataset.records.labels, [1, -1])
    finally:
        for name in ("test_two", "test_made"):
            del catalog.DATASET_REGISTRY._obj_map[name]
            del catalog._METADATA[name]


@pytest.mark.parametrize("name", catalog.DATASET_REGISTRY.names())
def test_every_name_says_where_it_looked_and_is_a_path_form(root, name):
    assert split_path_form(name) is not None
    with pytest.raises(DataError) as error:
        get_dataset(name)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", catalog.SCHEME_REGISTRY.names())
def test_every_path_form_says_where_it_looked(tmp_path, scheme):
    words = ["2007" if word == "YEAR" else str(tmp_path / "nowhere") for word in catalog._ARGUMENTS[scheme][:-1]]
    spec = ":".join([scheme, *words, "train" if words else str(tmp_path / "nowhere")])
    for annotations in (False, True):
        with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
            get_dataset(spec, annotations=annotations)
