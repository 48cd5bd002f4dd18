"""The tool: list, draw, check, and what it says when something is missing."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_loc.utils.cli import run_tool

TOOL = Path(__file__).parents[2] / "tools" / "make_saliency.py"


@pytest.fixture
def run(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("make_saliency_tool", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*words):
        """(exit status, stdout, stderr) of the command line."""
        monkeypatch.setattr("sys.argv", [str(TOOL), *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_tool(tool.main)
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "height": 8, "width": 12} for i in (1, 2)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 0, 4, 4], "segmentation": [[4, 0, 8, 0, 8, 4, 4, 4]]}
    content = {"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": [box]}
    (tmp_path / "annotations" / "instances_toy.json").write_text(json.dumps(content))
    for i in (1, 2):
        Image.new("RGB", (12, 8)).save(tmp_path / "toy" / f"{i}.png")
    return tmp_path


def test_draw_check_and_continue(coco, run):
    spec, maps = f"coco:{coco}:toy", coco / "maps"
    draw = (spec, "--method", "ground_truth", "--out", maps)
    status, out, _ = run(*draw)
    assert status == 0
    assert "2 maps of ground_truth (uses labels); 1 empty" in out
    mask = np.zeros((8, 12))
    mask[:4, 4:8] = 255
    assert np.array_equal(np.array(Image.open(maps / "1.png").convert("L")), mask)
    check = (spec, "--check", "--out", maps)
    assert run(*check)[:2] == (1, "empty: 2\n2 images checked: 1 empty\n")
    assert run(*check, "--allow", "empty")[0] == 0
    status, _, error = run(*draw, "--reduce", "4")
    assert status == 2
    assert error.startswith("error: ") and "'masks at 1/4'" in error
    assert run(*draw, "--reduce", "4", "--overwrite")[0] == 0
    assert np.array_equal(np.array(Image.open(maps / "1.png").convert("L")), [[0, 255, 0], [0, 0, 0]])


@pytest.fixture
def photos(tmp_path):
    """Three photos of a bright square on grey noise."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(3):
        image = rng.integers(90, 110, (90, 120, 3))
        image[30:60, 40 + 5 * i : 80] = (220, 60, 40)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photos" / f"{i}.jpg")
    return tmp_path / "photos"


def test_from_photos_to_checked_maps_and_a_sheet_in_one_command(photos, tmp_path, run):
    maps, sheet = tmp_path / "maps", tmp_path / "sheet.png"
    words = (photos, "--method", "rbd", "--out", maps, "--check", "--preview", sheet)
    status, out, _ = run(*words)
    assert (status, out.splitlines()) == (
        0,
        [
            "3 made, 0 kept",
            f"{maps}: 3 maps of rbd (no labels); none empty, full or unreadable",
            f"wrote {sheet}",
            "3 images checked: every map is usable",
        ],
    )
    for i in range(3):
        saliency = np.array(Image.open(maps / f"{i}.png").convert("L")) / 255
        assert saliency[35:55, 45 + 5 * i : 75].mean() > 0.5 + saliency[:20].mean()
    assert Image.open(sheet).width > 900
    assert run(*words)[1].startswith("0 made, 3 kept")
    # Another preset does not go into the same folder; an image lost its map; a sheet is no map.
    status, _, error = run(photos, "--method", "rbd", "--preset", "paper", "--out", maps)
    assert status == 2 and "holds maps of rbd 'matlab'" in error
    (maps / "1.png").unlink()
    assert run(photos, "--check", "--out", maps)[:2] == (1, "missing: 1\n3 images checked: 1 missing\n")
    for words in ((), ("--method", "rbd", "--overwrite")):
        status, out, error = run(photos, "--out", maps, "--preview", maps / "sheet.png", *words)
        assert (status, out) == (2, "")  # said before the work
    assert status == 2 and "outside of the folder of the maps" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "nothing to do; expected --method NAME"),
        (("--method", "rbd"), "--method rbd needs DATASET"),
        (("--check",), "--check needs DATASET"),
        (("PHOTOS", "--method", "rbd", "--shard", "3/3"), "--shard is '3/3'; expected I/N"),
        (("PHOTOS", "--method", "rbd", "--set", "max_side"), "expected KEY VALUE pairs"),
        (("PHOTOS", "--method", "rbd", "--set", "max_sid", "9"), "rbd has no option max_sid"),
        (("PHOTOS", "--method", "rbd", "--reduce", "0"), "--reduce is 0; expected 1 to 16"),
    ],
)
def test_commands_that_cannot_work_are_one_sentence(words, expected, photos, tmp_path, run):
    status, _, error = run(*(photos if word == "PHOTOS" else word for word in words), "--out", tmp_path / "maps")
    assert status == 2 and expected in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (("--method", "rbd", "--threshold", "90"), "--method rbd has no use for --threshold; it takes --preset, "),
        (
            ("--method", "gs", "--estimator", "x", "--uses-labels", "no", "--version", "2"),
            "--estimator, --uses-labels, ",
        ),
        (("--method", "gs", "--objects", "boxes"), "--objects"),
        (("--method", "gs", "--allow", "empty"), "--allow"),
        (
            ("--method", "ground_truth", "--shard", "0/2", "--threshold", "9"),
            "--shard, --threshold; it takes --reduce, ",
        ),
        (("--method", "ground_truth", "--preset", "a", "--workers", "2"), "for --preset, --workers; "),
        (("--method", "precomputed", "--overwrite", "--reduce", "2"), "no use for --reduce, --overwrite; "),
        (
            ("--check", "--workers", "0", "--set", "a", "1"),
            "without --method, the command has no use for --set, --workers",
        ),
        (("--preview", "s.png", "--threshold", "9"), "no use for --threshold; it takes none of the options"),
    ],
)
def test_options_that_would_be_ignored_are_refused(words, ignored, photos, tmp_path, run):
    status, _, error = run(photos, *words, "--out", tmp_path / "maps")
    assert status == 2 and ignored in error and error.count("\n") == 1
    assert not (tmp_path / "maps").exists()


def test_check_honours_the_threshold_of_a_run(photos, tmp_path, run):
    words = (photos, "--method", "gs", "--out", tmp_path / "maps", "--workers", "0", "--check")
    assert run(*words)[0] == 0
    assert run(*words, "--threshold", "255")[:2] == (
        1,
        f"0 made, 3 kept\n{tmp_path}/maps: 3 maps of gs (no labels); none empty, full or unreadable\n"
        "empty: 0\nempty: 1\nempty: 2\n3 images checked: 3 empty\n",
    )
    assert run(*words, "--threshold", "255", "--allow", "empty")[0] == 0


def test_precomputed_maps_are_listed_and_told_what_is_missing(tmp_path, run):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    status, _, error = run("--method", "precomputed", "--out", tmp_path)
    assert (status, error) == (2, "error: --method precomputed needs --estimator; see --help for examples\n")
    assert run("--method", "precomputed", "--out", tmp_path, "--estimator", "usps", "--uses-labels", "no")[0] == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["estimator"], manifest["uses_labels"], manifest["count"]) == ("usps", False, 1)
