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


def test_precomputed_maps_are_listed_and_told_what_is_missing(tmp_path, run):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "a.png")
    status, _, error = run("--method", "precomputed", "--out", tmp_path)
    assert (status, error) == (2, "error: --method precomputed needs --estimator; see --help for examples\n")
    assert run("--method", "precomputed", "--out", tmp_path, "--estimator", "usps", "--uses-labels", "no")[0] == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["estimator"], manifest["uses_labels"], manifest["count"]) == ("usps", False, 1)
