"""Features are taken once, kept, found again, and never mixed up."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_loc.evaluation import feature_cache
from ssl_loc.evaluation import features as module
from ssl_loc.evaluation.data import LabelledSplit
from ssl_loc.evaluation.feature_cache import FeatureCache, checksum
from ssl_loc.evaluation.features import FeatureOptions, eval_transform, extract, extract_split, worker_count
from ssl_loc.evaluation.weights import Weights, open_weights
from ssl_loc.utils.errors import ConfigError, DataError

COUNT = 7


@pytest.fixture
def split(tmp_path: Path) -> LabelledSplit:
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return LabelledSplit.load(f"class_folder:{tmp_path / 'photos'}")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went through a trunk."""
    sizes: list[int] = []
    original = module.pool_images

    def count(trunk, images, pools):
        sizes.append(len(images))
        return original(trunk, images, pools)

    monkeypatch.setattr(module, "pool_images", count)
    return sizes


def open_run(run_folder: Path) -> Weights:
    return open_weights(str(run_folder), "cpu")


def test_values_are_those_of_the_trunk_batch_by_batch(split: LabelledSplit, run_folder: Path) -> None:
    weights = open_run(run_folder)
    options = FeatureOptions(size=48, batch_size=3)
    x, y = extract_split(weights, split, options)
    trunk = weights.trunk()
    images = torch.stack([eval_transform(split.image(i), 48) for i in range(COUNT)])
    torch.testing.assert_close(x, trunk.features(images))
    assert y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    maps = trunk.backbone((images.float() - trunk.mean) / trunk.std)
    grid, gap = extract(weights, split, options, ["res4:2", "gap"])
    torch.testing.assert_close(grid, F.adaptive_avg_pool2d(maps["res4"], 2).flatten(1))
    assert torch.equal(gap, x)
    with pytest.raises(ConfigError, match=r"pooling is 'res9:1'.*a level of res2"):
        extract(weights, split, options, ["res9:1"])


def test_one_extraction_serves_every_later_one(
    split: LabelledSplit, run_folder: Path, tmp_path: Path, counted: list[int]
) -> None:
    options = FeatureOptions(size=48, batch_size=4, cache=str(tmp_path / "cache"))
    first = extract_split(open_run(run_folder), split, options)[0]
    assert counted == [4, 3]
    weights = open_run(run_folder)
    second = extract_split(weights, split, options)[0]
    assert torch.equal(first, second) and counted == [4, 3]
    # Mapped from disk; writing into it changes nothing there.
    second.zero_()
    assert torch.equal(extract_split(open_run(run_folder), split, options)[0], first)
    # The exported trunk is the same trunk; other sizes, transforms, poolings and images are not the same features.
    from ssl_loc.checkpoint import export_backbone

    export_backbone(run_folder, tmp_path / "backbone.pth")
    exported = open_weights(str(tmp_path / "backbone.pth"), "cpu")
    assert torch.equal(extract_split(exported, split, options)[0], first) and counted == [4, 3]
    for other in (replace(options, size=40), replace(options, transform="square"), replace(options, pool="res5:2")):
        extract_split(open_run(run_folder), split, other)
    assert len(counted) == 2 + 3 * 2
    stat = os.stat(split.records[2].path)
    os.utime(split.records[2].path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    extract_split(open_run(run_folder), split, options)
    assert len(counted) == 2 + 4 * 2


def test_weights_that_differ_in_one_number_have_features_of_their_own(
    split: LabelledSplit, run_folder: Path, tmp_path: Path, counted: list[int]
) -> None:
    options = FeatureOptions(size=48, cache=str(tmp_path / "cache"))
    extract_split(open_run(run_folder), split, options)
    weights = open_run(run_folder)
    name = next(name for name in weights.state if name.endswith("layer4.1.bn2.running_var"))
    weights.state[name] = weights.state[name].clone()
    weights.state[name][0] *= 1.001
    extract_split(weights, split, options)
    assert len(counted) == 2 and len(list((tmp_path / "cache").glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "json", "other key"])
def test_damaged_files_are_noticed_and_made_anew(
    damage: str, split: LabelledSplit, run_folder: Path, tmp_path: Path, counted: list[int], caplog
) -> None:
    options = FeatureOptions(size=48, cache=str(tmp_path / "cache"))
    good = extract_split(open_run(run_folder), split, options)[0].clone()
    (data,) = (tmp_path / "cache").glob("*.npy")
    (about,) = (tmp_path / "cache").glob("*.json")
    content = bytearray(data.read_bytes())
    if damage == "flip":
        content[-5] ^= 1
        data.write_bytes(content)
    elif damage == "cut":
        data.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        data.write_bytes(b"")
    elif damage == "json":
        about.write_text("{")
    else:
        about.write_text(about.read_text().replace('"center"', '"square"'))
    assert torch.equal(extract_split(open_run(run_folder), split, options)[0], good)
    assert len(counted) == 2
    assert ("features are damaged" in caplog.text) == (damage != "other key")


def test_a_stop_in_the_middle_leaves_nothing_that_counts(
    split: LabelledSplit, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FeatureOptions(size=48, batch_size=2, cache=str(tmp_path / "cache"))
    original, calls = module.pool_images, []

    def stop(trunk, images, pools):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(trunk, images, pools)

    monkeypatch.setattr(module, "pool_images", stop)
    with pytest.raises(KeyboardInterrupt):
        extract_split(open_run(run_folder), split, options)
    assert list((tmp_path / "cache").iterdir()) == []


def test_unreadable_image_and_full_disk_are_said(
    split: LabelledSplit, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = FeatureOptions(size=48, cache=str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ConfigError, match=r"7 x 32 features need .* give another folder with --cache DIR"):
        extract_split(open_run(run_folder), split, options)
    Path(split.records[3].path).write_bytes(b"no picture")
    for workers in (0, 1):
        with pytest.raises(DataError, match=f"cannot decode image {split.records[3].path}"):
            extract_split(open_run(run_folder), split, replace(options, workers=workers, cache=""))


def test_broken_weights_do_not_become_numbers(split: LabelledSplit, run_folder: Path) -> None:
    weights = open_run(run_folder)
    name = next(name for name in weights.state if name.endswith("layer4.1.bn2.weight"))
    weights.state[name] = torch.full_like(weights.state[name], float("nan"))
    with pytest.raises(DataError, match="not finite"):
        extract_split(weights, split, FeatureOptions(size=48))


def test_checksum_of_a_large_array_is_that_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    values = np.random.default_rng(0).normal(size=(37, 11)).astype(np.float32)
    expected = zlib.crc32(values.tobytes())
    monkeypatch.setattr("ssl_loc.evaluation.feature_cache._BLOCK", 100)
    assert checksum(values) == expected


def test_empty_folder_and_foreign_key(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    cache = FeatureCache(tmp_path / "nothing")
    assert cache.load({"a": 1}) is None
    with cache.writer({"a": 1}, 2) as writer:
        writer.put(torch.ones(1, 3))
        writer.put(torch.zeros(1, 3))
    found = cache.load({"a": 1})
    assert found is not None and found.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert cache.load({"a": 2}) is None
    assert "the folder holds" in caplog.text


def put(cache: FeatureCache, value: float) -> None:
    with cache.writer({"a": 1}, 1) as writer:
        writer.put(torch.full((1, 3), value))


def test_two_writers_of_the_same_features(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    # One begins, the other does everything in between: with the same numbers, then with others.
    for other in (1.0, 2.0):
        with cache.writer({"a": 1}, 1) as writer:
            put(cache, other)
            assert cache.read_back({"a": 1}).tolist() == [[other] * 3]
            writer.put(torch.ones(1, 3))
        assert cache.read_back({"a": 1}).tolist() == [[1.0] * 3]
    assert len(list(tmp_path.iterdir())) == 2  # what was replaced is gone, and no temporary file is left
    # A description that is read just before another process replaces both files.
    original = feature_cache.read_json

    def late(path: Path) -> object:
        known = original(path)
        monkeypatch.setattr(feature_cache, "read_json", original)
        put(cache, 3.0)
        return known

    monkeypatch.setattr(feature_cache, "read_json", late)
    found = cache.load({"a": 1})
    assert found is not None and found.tolist() == [[3.0] * 3] and "damaged" not in caplog.text


def test_worker_count() -> None:
    assert worker_count(3, 10) == 3 and worker_count(-1, 100) == 0
    assert 1 <= worker_count(-1, 100_000) <= 8
