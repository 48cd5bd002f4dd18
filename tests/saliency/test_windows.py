"""Quiet windows: a slow search, the limits, and what the list says of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.saliency.windows import Window, list_windows, quietest_window, read_windows
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.json_rows import json_with_rows

TOOL = Path(__file__).parents[2] / "tools" / "make_windows.py"


def test_the_window_equals_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        grey = rng.integers(0, 256, (int(rng.integers(3, 12)), int(rng.integers(3, 15)))).astype(np.uint8)
        side = int(rng.integers(1, 14))
        used = min(side, *grey.shape)
        spots = [(y, x) for y in range(grey.shape[0] - used + 1) for x in range(grey.shape[1] - used + 1)]
        y, x = min(spots, key=lambda p: grey[p[0] : p[0] + used, p[1] : p[1] + used].sum())  # the first of equals
        inside = grey[y : y + used, x : x + used] / 255
        want = Window(
            x, y, x + used, y + used, pytest.approx(inside.mean(), abs=1e-5), pytest.approx(inside.max(), abs=1e-5)
        )
        assert quietest_window(grey, side) == want


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """40 x 30: quiet on the right; quiet but for bright dots; no map; a half-size map; a turned map."""
    images, maps = tmp_path / "images", tmp_path / "maps"
    images.mkdir()
    maps.mkdir()
    right = np.zeros((30, 40), np.uint8)
    right[:, :15] = 255
    dots = np.zeros((30, 40), np.uint8)
    dots[::5, ::5] = 100
    half = right[::2, ::2]
    for name, grey in {"a": right, "b": dots, "c": np.full((30, 40), 255, np.uint8), "d": half, "e": None}.items():
        Image.new("RGB", (40, 30)).save(images / f"{name}.png")
        if grey is not None:
            Image.fromarray(grey).save(maps / f"{name}.png")
    Image.fromarray(right.T.copy()).save(maps / "e.png")  # turned: not its image's
    write_manifest(maps, estimator="toy", uses_labels=False, version="2")
    (maps / "c.png").unlink()
    return images, maps


def run(*words: object) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(TOOL), *map(str, words)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_tool_lists_what_is_quiet_and_counts_the_rest(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, maps = folders
    out = tmp_path / "windows.json"
    sheet = tmp_path / "sheet.png"
    status, text = run(images, "--maps", maps, "--out", out, "--side", 20, "--preview", sheet)
    assert status == 0
    assert "2 of 5 images have a quiet window of 20 px; 2 have no usable map (c, e)" in text
    found = read_windows(out)
    assert found.windows["a"] == (15, 0, 35, 20, 0.0, 0.0)
    assert found.windows["d"][:4] == (17, 0, 37, 20)  # bilinear from half the size: the edge reaches a pixel further
    assert (found.salient, found.missing) == (1, ["c", "e"])  # b: its mean is .016, its maximum .39
    assert found.settings == {"side": 20, "max_mean": 0.02, "max_max": 0.2}
    assert (found.maps["estimator"], found.maps["version"], found.maps["uses_labels"]) == ("toy", "2", False)
    assert found.paths["a"] == str(images / "a.png")
    assert Image.open(sheet).size[0] > 100


def test_commands_that_give_nothing_say_why_and_write_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, maps = folders
    out = tmp_path / "windows.json"
    status, text = run(images, "--maps", maps, "--out", out, "--side", 30)
    assert status == 2
    # Of a, b and d the dots are the quietest; c and e have no usable map.
    assert (
        "none of 3 images has a window of 30 px with mean saliency up to 0.02 and maximum up to 0.2; the quie" in text
    )
    assert "side of the images is 30 px: take smaller windows, --side 10, or raise --max-mean and --max-max" in text
    for sheet in (tmp_path / "sheet.doc", maps / "sheet.png"):
        status, text = run(images, "--maps", maps, "--out", out, "--side", 20, "--preview", sheet)
        assert status == 2 and "expected a picture" in text
    (tmp_path / "others").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "others" / "z.png")
    status, text = run(tmp_path / "others", "--maps", maps, "--out", out)
    assert status == 2
    assert "lists 5 maps of toy (a, b, c, d, e), none of them of the 1 images of" in text and "(z); expected" in text
    assert not out.exists()


def test_limits_and_small_images(folders: tuple[Path, Path]) -> None:
    images, maps = folders
    rows = [("b", "b", (30, 40))]
    assert list(list_windows(rows, maps, max_max=0.4, progress=False).windows) == ["b"]
    assert list_windows(rows, maps, max_max=0.4, max_mean=0.001, progress=False).salient == 1
    whole = list_windows([("a", "a", (30, 40))], maps, max_mean=1, max_max=1, progress=False).windows["a"]
    assert whole[:4] == (10, 0, 40, 30)  # the largest square of a smaller image
    with pytest.raises(ConfigError, match="expected side >= 1"):
        list_windows(rows, maps, side=0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text("{}")
    with pytest.raises(DataError, match="is no list of windows"):
        read_windows(tmp_path / "w.json")


@pytest.mark.parametrize("rows", [{}, {"a/b": [1, 2.5, "x\n"], "ü": []}])
@pytest.mark.parametrize("head", [{}, {"format": "f", "list": [1], "node": {}}])
def test_rows_read_back(head: dict, rows: dict) -> None:
    text = json_with_rows(head, "rows", rows)
    assert json.loads(text) == {**head, "rows": rows}
    assert text.count("\n") >= len(rows)
