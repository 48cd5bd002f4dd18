"""Runs over a folder: same bytes however they are run, nothing lost, every trouble named, counted and bounded."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.saliency_estimators import ANSWER, DIE, FAIL, HANG, NAN, RAISE, Obedient, draw_images
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.image_io import read_image, read_size
from ssl_loc.data.map_making import write_estimated_maps
from ssl_loc.saliency import manifest as manifest_module
from ssl_loc.saliency.build import SALIENCY_REGISTRY
from ssl_loc.saliency.manifest import read_manifest
from ssl_loc.saliency.map_io import read_map
from ssl_loc.saliency.runner import MapWorker, RunOptions, items_of, run_estimator, shard_of
from ssl_loc.saliency.store import reduce_mask
from ssl_loc.utils.errors import ConfigError, DataError


def run(images: Path, root: Path, preset: str = "", read=read_image, **how):
    items = items_of(get_dataset(f"folder:{images}").records)
    options = RunOptions(**{"processes": 0, "progress": False, **how})
    return run_estimator(Obedient(preset), items, str(root), read=read, read_size=read_size, options=options)


def pixels(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(root.glob("*.png"))}


def described(root: Path) -> dict[str, list]:
    """The manifest without the times of the files."""
    content = json.loads((root / "manifest.json").read_text())
    at = content["fields"].index("mtime_ns")
    return {key: row[:at] + row[at + 1 :] for key, row in content["maps"].items()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_images(tmp_path / "images", [ANSWER] * 8)


def test_maps_are_the_estimators_rounded_to_8_bit(images: Path, tmp_path: Path) -> None:
    manifest, report = run(images, tmp_path / "maps")
    assert (report.made, report.kept, report.bad, report.interrupted) == (8, 0, {}, False)
    for i in range(8):
        red = read_image(images / f"{i}.png")[..., 0]
        assert np.array_equal(read_map(tmp_path / "maps" / f"{i}.png"), red)
        entry = manifest.maps[str(i)]
        assert (entry.height, entry.width) == red.shape
        assert entry.mean == pytest.approx(red.mean() / 255, abs=1e-6)
        assert entry.share == pytest.approx((red > 128).mean(), abs=1e-6)
    assert (manifest.estimator, manifest.preset, manifest.version) == ("obedient", "plain", "7")
    assert read_manifest(tmp_path / "maps") == manifest


def test_processes_shards_and_restarts_change_no_byte(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "one")
    run(images, tmp_path / "two", processes=2)
    for i in (2, 0, 1):
        _, report = run(images, tmp_path / "shards", shard=(i, 3))
    assert report.made == 3  # 1, 4, 7
    (tmp_path / "again").mkdir()
    run(images, tmp_path / "again", shard=(1, 2))
    run(images, tmp_path / "again")
    for other in ("two", "shards", "again"):
        assert pixels(tmp_path / other) == pixels(tmp_path / "one")
        assert described(tmp_path / other) == described(tmp_path / "one")


def test_a_second_run_makes_what_is_missing_and_opens_no_map(images: Path, tmp_path: Path, monkeypatch) -> None:
    maps = tmp_path / "maps"
    monkeypatch.setattr(manifest_module, "read_map", lambda path: pytest.fail(f"{path} was opened"))
    run(images, maps)
    times = {p.name: p.stat().st_mtime_ns for p in maps.glob("*.png")}
    (maps / "3.png").unlink()
    manifest, report = run(images, maps)
    assert (report.made, report.kept, len(manifest.maps)) == (1, 7, 8)
    assert [n for n, t in times.items() if (maps / n).stat().st_mtime_ns != t] == ["3.png"]
    _, report = run(images, maps, overwrite=True)
    assert (report.made, report.kept) == (8, 0)


def test_a_folder_with_other_contents_is_refused(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "maps")
    with pytest.raises(DataError, match="holds maps of obedient 'plain' version '7', not of obedient 'other'"):
        run(images, tmp_path / "maps", preset="other")
    draw_images(tmp_path / "holiday", [ANSWER])
    with pytest.raises(DataError, match=r"holds PNG files \(0.png, ...\) that no manifest describes"):
        run(images, tmp_path / "holiday")
    with SALIENCY_REGISTRY.temporarily("obedient", Obedient):
        for inside in (images, images / "maps"):
            with pytest.raises(DataError, match="lies inside the folder of the images"):
                write_estimated_maps(get_dataset(f"folder:{images}"), inside, method="obedient", processes=0)


def test_images_without_an_answer_get_a_black_map_and_a_flag(tmp_path: Path, caplog) -> None:
    orders = [ANSWER, HANG, FAIL, ANSWER, DIE, NAN, ANSWER, RAISE, ANSWER]
    images, maps = draw_images(tmp_path / "images", orders), tmp_path / "maps"
    (images / "junk.png").write_bytes(b"no picture")
    manifest, report = run(images, maps, processes=2, time_limit=1.5)
    assert report.made == 4
    found = {kind: sorted(keys) for kind, keys in report.bad.items()}
    assert found == {"timeout": ["1"], "failed": ["2", "5", "7"], "died": ["4"], "unreadable": ["junk"]}
    assert "failed: " in caplog.text and "2.png (SolveFailed: no answer)" in caplog.text
    flags = {key: entry.flags for key, entry in manifest.maps.items() if entry.flags}
    black = {"2": "failed", "5": "failed", "7": "failed", "1": "timeout", "4": "died"}
    assert flags == {key: ["empty", kind] for key, kind in black.items()}
    assert all(not read_map(manifest.path(key)).any() for key in black)
    assert read_map(manifest.path("1")).shape == (21, 29)
    assert list(manifest.unreadable_images) == ["junk"] and "junk.png" in manifest.unreadable_images["junk"]
    assert sorted(p.name for p in maps.iterdir() if not p.name.startswith(".")) == sorted(
        [f"{i}.png" for i in range(9)] + ["manifest.json"]
    )

    # Flags outlive a second run, and can be asked for again once the cause is gone.
    again, report = run(images, maps)
    assert (report.made, report.kept, again.maps) == (0, 9, manifest.maps)
    draw_images(images, [ANSWER] * 9)
    (images / "junk.png").unlink()
    mended, report = run(images, maps, retry=True)
    assert (report.made, report.kept) == (5, 4)
    assert not any(entry.flags for entry in mended.maps.values())


def test_unreadable_images_are_forgotten_once_they_have_a_map(images: Path, tmp_path: Path) -> None:
    good = (images / "0.png").read_bytes()
    (images / "0.png").write_bytes(good[:40])
    manifest, _ = run(images, tmp_path / "maps")
    assert list(manifest.unreadable_images) == ["0"]
    (images / "0.png").write_bytes(good)
    manifest, report = run(images, tmp_path / "maps")
    assert (report.made, manifest.unreadable_images) == (1, {})


def test_nothing_is_remembered_of_maps_that_were_replaced_by_others(images: Path, tmp_path: Path) -> None:
    (images / "junk.png").write_bytes(b"no picture")
    assert list(run(images, tmp_path / "maps")[0].unreadable_images) == ["junk"]
    (images / "junk.png").unlink()
    manifest, report = run(images, tmp_path / "maps", preset="other", overwrite=True)
    assert (report.made, manifest.preset, manifest.unreadable_images) == (8, "other", {})


def test_an_interrupted_overwrite_leaves_no_map_of_the_former_maker(images: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    run(images, maps)
    old = {p.name: p.stat().st_mtime_ns for p in maps.glob("*.png")}

    def read(path: str) -> np.ndarray:
        if path.endswith("2.png"):
            raise KeyboardInterrupt
        return read_image(path)

    with pytest.raises(DataError, match="--overwrite with --shard cannot replace"):
        run(images, maps, preset="other", overwrite=True, shard=(0, 2))
    manifest, report = run(images, maps, preset="other", overwrite=True, read=read)
    assert report.interrupted and sorted(manifest.maps) == ["0", "1"]
    manifest, report = run(images, maps, preset="other")
    assert (report.made, report.kept, len(manifest.maps)) == (6, 2, 8)
    assert not [name for name, made in old.items() if (maps / name).stat().st_mtime_ns == made]


def test_values_are_rounded_not_cut(tmp_path: Path) -> None:
    values = np.array([[0.4, 0.6, 127.6, 254.6]], dtype=np.float32) / 255
    MapWorker(Obedient(), str(tmp_path), read_image).store("x", values)
    assert read_map(tmp_path / "x.png").tolist() == [[0, 1, 128, 255]]


def test_too_many_bad_images_stop_the_run_and_keep_the_others(tmp_path: Path, caplog) -> None:
    images = draw_images(tmp_path / "images", [ANSWER] * 4 + [FAIL] * 20)
    with pytest.raises(DataError, match=r"11 images have no map, more than the 10 that --max-bad allows \(11 failed: "):
        run(images, tmp_path / "maps")
    assert caplog.text.count("failed: ") == 11
    _, report = run(images, tmp_path / "maps", max_bad=1.0)
    assert report.kept == 14  # in the order of names 0, 1, 10 .. 19, 2, 20: three good ones and the eleven


def test_max_bad_is_a_bound_across_runs(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", [FAIL] * 3 + [ANSWER] * 7)
    with pytest.raises(DataError, match="1 images have no map, more than the 0 that --max-bad allows"):
        run(images, tmp_path / "maps", max_bad=0.0)
    with pytest.raises(DataError, match=r"2 images .* the 1 that .*; 1 of earlier runs, which --retry makes again\)"):
        run(images, tmp_path / "maps", max_bad=0.1)
    _, report = run(images, tmp_path / "maps", max_bad=0.3)
    assert (report.made, report.kept, report.bad) == (7, 2, {"failed": ["2"]})
    assert RunOptions(max_bad=0.29).allowed(100) == 29
    assert (RunOptions().allowed(100), RunOptions().allowed(1000)) == (10, 50)


def test_maps_that_cannot_be_used_are_made_again(images: Path, tmp_path: Path, caplog) -> None:
    maps = tmp_path / "maps"
    run(images, maps)
    good = pixels(maps)
    (maps / "3.png").write_bytes(good["3.png"][:30])
    Image.new("L", (7, 5), 200).save(maps / "5.png")
    manifest, report = run(images, maps)
    assert (report.made, report.kept, manifest.maps["3"].flags) == (1, 7, [])
    assert "1 maps in " in caplog.text and "are made again (unreadable): 3" in caplog.text
    _, report = run(images, maps, retry=True)
    assert (report.made, report.kept) == (1, 7)
    assert "are made again (wrong size): 5" in caplog.text
    assert pixels(maps) == good


def test_ctrl_c_keeps_what_is_done(images: Path, tmp_path: Path) -> None:
    def read(path: str) -> np.ndarray:
        if path.endswith("5.png"):
            raise KeyboardInterrupt
        return read_image(path)

    manifest, report = run(images, tmp_path / "maps", read=read)
    assert (report.made, report.interrupted, sorted(manifest.maps)) == (5, True, list("01234"))
    manifest, report = run(images, tmp_path / "maps")
    assert (report.made, report.kept, len(manifest.maps)) == (3, 5, 8)


def test_maps_of_a_killed_run_are_described_from_its_journal(images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ssl_loc.saliency.runner.write_manifest", lambda *a, **k: None)
    maps = tmp_path / "maps"
    run(images, maps)
    monkeypatch.undo()
    assert read_manifest(maps).maps == {}  # only claimed
    with open(maps / ".maps-0-of-1.jsonl", "a") as stream:
        stream.write('["8", [1, 2')  # cut off
    monkeypatch.setattr(manifest_module, "read_map", lambda path: pytest.fail(f"{path} was opened"))
    manifest, report = run(images, maps)
    assert (report.made, report.kept, len(manifest.maps)) == (0, 8, 8)


def test_reduced_maps_are_area_means(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "maps", reduce=3, preset="other")
    red = read_image(images / "4.png")[..., 0]
    assert np.array_equal(read_map(tmp_path / "maps" / "4.png"), reduce_mask(red, red.shape, 3))


def test_options_are_part_of_what_the_folder_holds(images: Path, tmp_path: Path) -> None:
    dataset = get_dataset(f"folder:{images}")
    with SALIENCY_REGISTRY.temporarily("obedient", Obedient):
        how = {"method": "obedient", "processes": 0, "progress": False}
        manifest, _ = write_estimated_maps(dataset, tmp_path / "maps", reduce=2, **how)
        assert manifest.preset == "plain at 1/2"
        with pytest.raises(ConfigError, match="has no option size; its options: none"):
            write_estimated_maps(dataset, tmp_path / "maps", options={"size": 3}, **how)
        with pytest.raises(ConfigError, match="--reduce is 17"):
            write_estimated_maps(dataset, tmp_path / "maps", reduce=17, **how)
        for bad in (0, float("nan"), float("inf"), 1e9):
            with pytest.raises(ConfigError, match=f"--time-limit is {bad}; expected seconds"):
                write_estimated_maps(dataset, tmp_path / "maps", time_limit=bad, **how)
        for share in (-1.0, 7.0, float("nan")):
            with pytest.raises(ConfigError, match=f"--max-bad is {share}; expected a share"):
                write_estimated_maps(dataset, tmp_path / "maps", max_bad=share, **how)
        with pytest.raises(ConfigError, match="--workers is -1; expected a number"):
            write_estimated_maps(dataset, tmp_path / "maps", **{**how, "processes": -1})
        Image.new("RGB", (8, 8)).save(images / "0.bmp")
        with pytest.raises(DataError, match="would share the map '0.png'"):
            write_estimated_maps(get_dataset(f"folder:{images}"), tmp_path / "maps", **how)


def test_shards_are_written_i_of_n() -> None:
    assert shard_of("0/1") == (0, 1) and shard_of("3/4") == (3, 4)
    for bad in ("4/4", "1", "a/b", "-1/4", "1/0", ""):
        with pytest.raises(ConfigError, match="--shard is"):
            shard_of(bad)


def test_nothing_is_logged_for_good_images(images: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    run(images, tmp_path / "maps")
    assert caplog.text == ""
