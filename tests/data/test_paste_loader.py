"""Pasted views from the loader: the same bits whatever the workers, restarts and processes; what build refuses."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.augment import make_cfg
from PIL import Image

from ssl_loc.config import CfgNode
from ssl_loc.data.build import PretrainLoader, build_mapper, build_pretrain_loader
from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.saliency.windows import Window, WindowList, write_windows
from ssl_loc.structures import Views
from ssl_loc.utils.errors import ConfigError, DataError

COUNT = 9
SIZE = (30, 40)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "maps").mkdir()
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
        grey = np.zeros(SIZE, dtype=np.uint8)
        grey[5 : 15 + i, 8:20], grey[5 : 15 + i, 20:30] = 255, 100
        Image.fromarray(grey).save(tmp_path / "maps" / f"{i}.png")
    write_manifest(tmp_path / "maps", estimator="test", preset="", uses_labels=False, version="1")
    return tmp_path


def config(photos: Path, views: list[list[Any]], masks: str = "folder", **data: Any) -> CfgNode:
    cfg = make_cfg(views, 16)
    cfg.DATA.TRAIN, cfg.DATA.NUM_WORKERS, cfg.DEVICE = f"folder:{photos / 'images'}", 0, "cpu"
    cfg.DATA.MASKS.SOURCE, cfg.DATA.MASKS.ROOT = masks, str(photos / "maps")
    cfg.SOLVER.IMS_PER_BATCH = 4
    for key, value in data.items():
        cfg.DATA[key] = value
    return cfg


def pasting(photos: Path) -> list[list[Any]]:
    found = WindowList(settings={"side": 9, "max_mean": 0.1, "max_max": 0.2})
    for i in range(3):
        found.windows[str(i)] = Window(31, 2 + i, 40, 11 + i, 0.0, 0.0)
        found.paths[str(i)] = str(photos / "images" / f"{i}.png")
    write_windows(found, photos / "windows.json")
    return [
        [{"CopyPaste": {"BACKGROUND": f"windows:{photos / 'windows.json'}"}}, "RandomResizedCrop", "RandomFlip"],
        [{"SaliencySwap": {"BACKGROUND_SETS": ["train", f"dataset:folder:{photos / 'images'}"]}}, "RandomFlip"],
    ]


def batches(loader: PretrainLoader, count: int) -> list[Views]:
    return list(islice(loader, count))


def same(a: Views, b: Views) -> None:
    assert a.masks is not None and b.masks is not None
    for x, y in zip([*a.images, *a.masks], [*b.images, *b.masks], strict=True):
        assert torch.equal(x, y)
    assert set(a.extra) == set(b.extra) and all(torch.equal(a.extra[name], b.extra[name]) for name in a.extra)


def test_workers_and_restarts_change_nothing(photos: Path) -> None:
    cfg = config(photos, pasting(photos))
    plain = batches(build_pretrain_loader(cfg), 5)
    pasted = torch.cat([batch.extra["pasted"] for batch in plain])
    assert 0 < pasted[:, 0].sum() < 20 and pasted[:, 1].sum() == 20
    cfg.DATA.NUM_WORKERS = 2
    for a, b in zip(plain, batches(build_pretrain_loader(cfg), 5), strict=True):
        same(a, b)
    cfg.DATA.NUM_WORKERS = 0
    for a, b in zip(plain[3:], batches(build_pretrain_loader(cfg, 3), 2), strict=True):
        same(a, b)


def test_processes_split_the_batch(photos: Path) -> None:
    cfg = config(photos, pasting(photos))
    parts = [batches(build_pretrain_loader(cfg, rank=rank, world_size=2), 2) for rank in range(2)]
    for t, whole in enumerate(batches(build_pretrain_loader(cfg), 2)):
        for v in range(2):
            assert torch.equal(torch.cat([part[t].images[v] for part in parts]), whole.images[v])
            assert torch.equal(torch.cat([part[t].masks[v] for part in parts]), whole.masks[v])  # type: ignore[index]


def test_the_map_keeps_its_grey_values_where_they_are_asked_for(photos: Path) -> None:
    cfg = config(photos, [["CopyPaste", "RandomResizedCrop"]])
    sample = build_mapper(cfg).sample(2)
    assert sample.graded is not None and set(sample.graded.unique().tolist()) == {0, 100, 255}
    assert sample.saliency is not None and torch.equal(sample.saliency == 255, sample.graded == 255)
    cfg.DATA.MASKS.REDUCE = 5
    sample = build_mapper(cfg).sample(2)
    assert sample.graded is not None and sample.graded.shape == (6, 8) == sample.saliency.shape  # type: ignore[union-attr]
    assert build_mapper(config(photos, [["SaliencyConstrainedCrop"]])).sample(2).graded is None


def test_an_unreadable_donor_is_counted_in_the_batch(photos: Path) -> None:
    (photos / "others").mkdir()
    for i in range(4):
        Image.new("RGB", (9, 9), (i, i, i)).save(photos / "others" / f"{i}.png")
    for i in range(2):
        (photos / "others" / f"{i}.png").write_bytes(b"rubbish")
    view = [{"CopyPaste": {"PROB": 1.0, "BACKGROUND": f"dataset:folder:{photos / 'others'}"}}, "RandomResizedCrop"]
    loader = build_pretrain_loader(config(photos, [view, view]))
    counts = torch.cat([batch.extra["donors_passed_over"] for batch in batches(loader, 10)])
    assert counts.shape == (40, 2) and 0.5 < counts.mean() < 1.7  # failures before a success: 1 on average


def test_backgrounds_from_several_sets(photos: Path) -> None:
    """All pictures of all sets alike: 8 others of the own set and 4 of another folder, all white."""
    (photos / "others").mkdir()
    for i in range(4):
        Image.new("RGB", SIZE[::-1], (255, 255, 255)).save(photos / "others" / f"{i}.png")
    sets = ["train", f"dataset:folder:{photos / 'others'}"]
    view = [{"CopyPaste": {"PROB": 1.0, "BACKGROUND": "sets", "BACKGROUND_SETS": sets}}, "CenterCrop"]
    mapper = build_mapper(config(photos, [view]))
    assert mapper.donors is not None and set(mapper.donors.sources) == set(sets)
    white, pasted = 0, 0
    for epoch in range(10):
        for i in range(COUNT):
            (made,) = mapper[(epoch, i)].views
            if made.extra["pasted"]:
                pasted += 1
                white += bool((made.image.amin(0) == 255).float().mean() > 0.2)
    share = 4 / (COUNT - 1 + 4)
    assert abs(white / pasted - share) < 4 * (share * (1 - share) / pasted) ** 0.5


def test_labels_used_for_boxes_are_reported(photos: Path) -> None:
    cfg = config(photos, [["SaliencySwap"]])
    assert build_pretrain_loader(cfg).mask_info["uses_labels"] is False
    with pytest.raises(
        DataError, match=r"needs ground-truth boxes but DATA.TRAIN .* has none.*BOX_SOURCE threshold_cc"
    ):
        build_mapper(config(photos, [[{"SaliencySwap": {"BOX_SOURCE": "gt_box"}}]], "none"))


def test_annotated_boxes_are_swapped_and_reported_as_labels(photos: Path) -> None:
    (photos / "coco" / "annotations").mkdir(parents=True)
    (photos / "images").rename(photos / "coco" / "split")
    images = [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in range(COUNT)]
    objects = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1,
            "bbox": [4, 6, 20, 15],
            "area": 300,
            "iscrowd": 0,
            "segmentation": [],
        }
        for i in range(COUNT)
    ]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "thing"}]}
    (photos / "coco" / "annotations" / "instances_split.json").write_text(json.dumps(content))
    cfg = config(photos, [[{"SaliencySwap": {"BOX_SOURCE": "gt_box"}}, "RandomFlip"]], "none")
    cfg.DATA.TRAIN = f"coco:{photos / 'coco'}:split"
    loader = build_pretrain_loader(cfg)
    assert loader.mask_info["uses_labels"] is True and loader.mask_info["boxes"] == "ground_truth"
    (batch,) = batches(loader, 1)
    # 4, 6, 24, 21 of 40 x 30 px in a view of 16 x 16, rounded outwards; or its mirror image.
    for found in batch.extra["paste_box"][:, 0].tolist():
        assert found in ([1, 3, 10, 12], [6, 3, 15, 12])
    assert bool(batch.has_mask.all())
    # Annotations of another dataset are read only where its objects are to be covered.
    for mode, known in (("auto", False), ("same", True)):
        swap = {"BOX_SOURCE": "gt_box", "MODE": mode, "BACKGROUND_SETS": [f"dataset:{cfg.DATA.TRAIN}"]}
        cfg.AUGMENT.VIEWS = [[{"SaliencySwap": swap}]]
        donors = build_mapper(cfg).donors
        assert donors is not None
        assert (donors.sources[f"dataset:{cfg.DATA.TRAIN}"].sample(0).boxes is not None) == known
        batches(build_pretrain_loader(cfg), 1)


def test_missing_masks_are_refused_at_build_unless_off(photos: Path) -> None:
    for entry in ("CopyPaste", "SaliencySwap"):
        with pytest.raises(ConfigError, match="needs saliency masks but DATA.MASKS.SOURCE is 'none'"):
            build_mapper(config(photos, [[entry, "RandomResizedCrop"]], "none"))
        build_mapper(config(photos, [[{entry: {"PROB": 0.0}}, "RandomResizedCrop"]], "none"))


def test_donors_that_are_not_there_stop_at_build(photos: Path) -> None:
    for background, words in (
        ("dataset:imagenette_train", "no dataset is called 'imagenette_train'"),
        (f"windows:{photos / 'maps' / 'manifest.json'}", "is no list of windows; make one with tools/make_windows.py"),
    ):
        view = [{"CopyPaste": {"BACKGROUND": background}}, "RandomResizedCrop"]
        with pytest.raises(DataError, match=words):
            build_mapper(config(photos, [view]))
