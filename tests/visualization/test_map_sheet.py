"""Contact sheets: which images are chosen, and that every kind of map can be drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_loc.data.catalog import get_dataset
from ssl_loc.saliency.manifest import MapEntry, write_manifest
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.visualization.map_sheet import SIDE, caption, choose, write_map_sheet


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Ten tall images; map 3 is black, 4 unreadable, 9 missing; the others are white where the image is red."""
    images, maps = tmp_path / "images", tmp_path / "maps"
    images.mkdir()
    maps.mkdir()
    for i in range(10):
        image = np.zeros((60, 30, 3), np.uint8)
        image[20:40, :, 0] = 255
        Image.fromarray(image).save(images / f"{i}.png")
        if i != 9:
            Image.fromarray(image[..., 0] * np.uint8(i != 3)).save(maps / f"{i}.png")
    (maps / "4.png").write_bytes(b"broken")
    write_manifest(maps, estimator="toy", uses_labels=False)
    return images, maps


def test_flagged_ones_come_first_and_the_others_are_spread(folders: tuple[Path, Path]) -> None:
    images, maps = folders
    records = get_dataset(f"folder:{images}").records
    manifest = write_manifest(maps, estimator="toy", uses_labels=False)
    assert [r.key for r in choose(records, manifest, 5)] == ["3", "4", "0", "5", "8"]
    assert [r.key for r in choose(records, manifest, 100)] == ["3", "4", *"0125678"]


def test_the_sheet_shows_image_beside_map(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, maps = folders
    dataset = get_dataset(f"folder:{images}")
    manifest = write_manifest(maps, estimator="toy", uses_labels=False)
    written = write_map_sheet(dataset, manifest, tmp_path / "sheet.png")
    assert written.line() == f"wrote {tmp_path / 'sheet.png'}"
    sheet = np.array(Image.open(written.path).convert("RGB"))
    # Third cell of the first row is image 0: its middle is red, its map beside it white; both are half as wide as high.
    left, middle = 8 + 2 * (2 * SIDE + 16), 8 + SIDE // 2
    assert sheet[middle, left + SIDE // 4].tolist() == [255, 0, 0]
    assert sheet[middle, left + SIDE // 2 + 1 + SIDE // 4].tolist() == [255, 255, 255]
    assert sheet[10, left + SIDE // 4].tolist() == sheet[10, left + SIDE // 2 + 1 + SIDE // 4].tolist() == [0, 0, 0]
    assert sheet[middle, left + SIDE - 3].tolist() == [255, 255, 255]  # the map, to its end ...
    assert sheet[10, left + SIDE - 3].tolist() == [0, 0, 0]
    assert sheet[10, left + SIDE + 3].tolist() == [255, 255, 255]  # ... and paper behind it


def test_a_sheet_of_some_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, maps = folders
    manifest = write_manifest(maps, estimator="toy", uses_labels=False)
    out = tmp_path / "sheet.png"
    assert write_map_sheet(get_dataset(f"folder:{images}"), manifest, out, 5).line() == f"wrote {out} (5 of 9 shown)"


def test_captions() -> None:
    entry = MapEntry(10, 10, 0.123, 0.256, 0, 255, 1, 1, [])
    assert caption("a", entry) == "a  mean 0.12  area 26%"
    flagged = entry._replace(flags=["empty", "timeout"])
    assert caption("a/very/long/name/of/an/image", flagged).endswith("area 26%  empty  timeout")


def test_what_cannot_be_drawn(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, maps = folders
    dataset = get_dataset(f"folder:{images}")
    manifest = write_manifest(maps, estimator="toy", uses_labels=False)
    for bad in (maps / "sheet.png", tmp_path / "sheet.txt"):
        with pytest.raises(ConfigError, match="expected a picture .* outside of the folder of the maps"):
            write_map_sheet(dataset, manifest, bad)
    manifest.maps = {}
    with pytest.raises(DataError, match="no image of .* has a map"):
        write_map_sheet(dataset, manifest, tmp_path / "sheet.png")
