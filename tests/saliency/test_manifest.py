"""The manifest: numbers by hand, resuming, and files that are no manifests."""

import json
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from ssl_loc.saliency import manifest as manifest_module
from ssl_loc.saliency.manifest import claim_folder, read_manifest, write_manifest
from ssl_loc.saliency.map_io import read_map, write_map
from ssl_loc.utils.errors import DataError


def put(root, key, rows):
    path = root / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(path)


@pytest.fixture
def maps(tmp_path):
    put(tmp_path, "a/half", [[0, 255, 129, 128]])
    put(tmp_path, "empty", [[0, 128], [0, 0]])
    put(tmp_path, "full", [[129], [255]])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    return tmp_path


def listed(root, **options):
    return write_manifest(root, estimator="toy", preset="p", uses_labels=False, version="3", **options)


def test_numbers_by_hand(maps, caplog):
    listed(maps)
    found = read_manifest(maps)
    assert found.info() == {"estimator": "toy", "preset": "p", "uses_labels": False, "version": "3", "threshold": 128}
    assert list(found.maps) == ["a/half", "broken", "empty", "full"]
    half = found.maps["a/half"]
    assert (half.height, half.width, half.low, half.high, half.flags) == (1, 4, 0, 255, [])
    assert half.mean == pytest.approx((255 + 129 + 128) / 4 / 255, abs=1e-6)
    assert half.share == 0.5
    assert half.bytes == (maps / "a" / "half.png").stat().st_size
    assert [found.maps[k].flags for k in ("broken", "empty", "full")] == [["unreadable"], ["empty"], ["full"]]
    assert "broken.png" in caplog.text
    assert json.loads((maps / "manifest.json").read_text())["count"] == 4


def test_threshold_decides_empty_and_full(maps):
    assert listed(maps, threshold=127).maps["empty"].flags == []
    assert listed(maps, threshold=200).maps["full"].flags == []
    assert listed(maps, threshold=255).maps["a/half"].flags == ["empty"]


def test_unchanged_maps_are_not_read_again(maps, monkeypatch):
    listed(maps)
    put(maps, "a/half", [[0, 0, 0, 255]])
    os.utime(maps / "a" / "half.png", ns=(1, 1))
    read = []
    original = manifest_module.read_map
    monkeypatch.setattr(manifest_module, "read_map", lambda path: read.append(path) or original(path))
    assert listed(maps).maps["a/half"].share == 0.25
    assert read == [maps / "a" / "half.png"]


def test_a_folder_keeps_one_kind_of_map(tmp_path):
    identity = {"estimator": "rbd", "preset": "fast", "uses_labels": False, "version": "1"}
    claim_folder(tmp_path / "m", **identity)
    claim_folder(tmp_path / "m", **identity)
    assert read_manifest(tmp_path / "m").maps == {}
    with pytest.raises(DataError, match="holds maps of rbd 'fast' version '1', not of rbd 'slow' version '1'"):
        claim_folder(tmp_path / "m", **{**identity, "preset": "slow"})
    claim_folder(tmp_path / "m", **{**identity, "preset": "slow"}, overwrite=True)
    assert read_manifest(tmp_path / "m").preset == "slow"


def test_what_is_no_manifest_is_said(tmp_path):
    with pytest.raises(DataError, match="no saliency manifest at .*--method precomputed"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match="no maps in"):
        listed(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="is no saliency manifest"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "ssl_loc.saliency", "format_version": 99}')
    with pytest.raises(DataError, match="format version 99, expected 1"):
        read_manifest(tmp_path)


def test_binary_maps_are_written_with_one_bit(tmp_path):
    mask = np.zeros((50, 70), dtype=np.uint8)
    mask[10:20, 30:60] = 255
    write_map(tmp_path / "m.png", mask)
    assert Image.open(tmp_path / "m.png").mode == "1"
    assert np.array_equal(read_map(tmp_path / "m.png"), mask)
    mask[0, 0] = 7
    write_map(tmp_path / "m.png", mask)
    assert np.array_equal(read_map(tmp_path / "m.png"), mask)
    with pytest.raises(TypeError, match="expected uint8"):
        write_map(tmp_path / "m.png", mask.astype(float))


def _claim(root, barrier, name, answers):
    barrier.wait()
    try:
        claim_folder(root, estimator=name, preset="", uses_labels=False, version="1")
        answers.put(name)
    except DataError as error:
        answers.put(str(error))


def test_of_two_processes_that_claim_a_folder_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for i in range(12):
        barrier, answers = context.Barrier(2), context.SimpleQueue()
        both = [context.Process(target=_claim, args=(tmp_path / str(i), barrier, name, answers)) for name in "ab"]
        for process in both:
            process.start()
        got = [answers.get() for _ in both]
        for process in both:
            process.join()
        winner = read_manifest(tmp_path / str(i)).estimator
        assert winner in got and sum(answer in "ab" for answer in got) == 1, got


def test_a_folder_that_changes_hands_loses_its_maps_first(maps, monkeypatch):
    (maps / "broken.png").unlink()
    listed(maps)
    other = {"estimator": "rbd", "preset": "", "uses_labels": False, "version": "1"}
    with pytest.raises(DataError, match="holds maps of toy 'p' version '3', which --overwrite with --shard cannot"):
        claim_folder(maps, **other, overwrite=True, whole=False)
    put(maps, "stranger", [[0, 255]])
    with pytest.raises(DataError, match=r"1 PNG files that its manifest does not describe \(stranger.png, ...\)"):
        claim_folder(maps, **other, overwrite=True)
    (maps / "stranger.png").unlink()
    assert len(list(maps.rglob("*.png"))) == 3

    # Interrupted on the way: what is left belongs to its old maker.
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "_write", lambda manifest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            claim_folder(maps, **other, overwrite=True)
    assert read_manifest(maps).estimator == "toy" and not list(maps.rglob("*.png"))
    claim_folder(maps, **other, overwrite=True)
    assert read_manifest(maps).estimator == "rbd"
