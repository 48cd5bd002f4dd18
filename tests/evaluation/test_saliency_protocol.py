"""tools/evaluate.py --protocol saliency: folders of maps against masks, without weights."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.map_folders import open_maps, open_masks, pictures_by_stem, same_shape
from ssl_loc.evaluation.runner import read_results
from ssl_loc.evaluation.saliency_maps import SaliencyMaps
from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.saliency.metrics import score_map
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError
from ssl_loc.visualization.map_curves import map_curves_figure

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SIZE = (24, 32)


def put(path: Path, grey: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey.astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Masks of six images (one empty), good maps (one of half size, one missing), and noisy ones."""
    masks, good, noisy = (tmp_path / name for name in ("masks", "good", "noisy"))
    rng = np.random.default_rng(0)
    for i in range(6):
        mask = np.zeros(SIZE)
        mask[4 : 10 + i, 6:20] = 255 if i != 5 else 0
        put(masks / "sub" / f"{i}.png", mask)
        saliency = np.clip(0.6 * mask + rng.integers(0, 60, SIZE), 0, 255)
        if i != 4:
            put(good / "sub" / f"{i}.png", saliency[::2, ::2] if i == 3 else saliency)
        put(noisy / "sub" / f"{i}.bmp", np.clip(0.2 * mask + rng.integers(0, 200, SIZE), 0, 255))
    return masks, good, noisy


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    import evaluate as tool

    tool.main()


def test_two_folders_side_by_side(folders, tmp_path: Path, monkeypatch, capsys, caplog) -> None:
    masks, good, noisy = folders
    out = tmp_path / "out"
    words = ("--maps", f"GOOD={good}", noisy, "--masks", f"folder:{masks}", "--out", out)
    evaluate(monkeypatch, "--protocol", "saliency", *words)
    text = capsys.readouterr().out
    assert f"saliency v2 on folder:{masks}" in text and "minus GOOD " in text
    assert (
        [line.split()[:5] for line in text.splitlines() if "+-" in line]
        == [
            ["GOOD*", "4", "1", "0", "1"],  # photos scored, maps missing, unfit, resized
            ["noisy", "5", "0", "0", "0"],
            ["minus", "GOOD", "4", *text.split("minus GOOD")[1].split()[1:3]],
        ]
    )
    assert "* GOOD: scored on a part of the masks only" in text
    first, second = read_results([out])
    assert (first["details"]["label"], second["details"]["label"]) == ("GOOD", "noisy")
    assert first["details"]["images_missing"] == ["sub/4"] and "1 images have no map: sub/4" in caplog.text
    assert (first["details"]["images"], first["details"]["images_empty_mask"]) == (4, 1)
    assert (first["details"]["images_resized"], second["details"]["images_resized"]) == (1, 0)
    assert (second["details"]["images"], second["details"]["images_missing"]) == (5, [])
    # The numbers are those of the metrics room.
    rows = []
    for i in range(5):
        mask = np.array(Image.open(masks / "sub" / f"{i}.png"))
        rows.append(score_map(np.array(Image.open(noisy / "sub" / f"{i}.bmp")), mask))
    assert second["metrics"]["mae"] == pytest.approx(np.mean([r.mae for r in rows]))
    assert second["metrics"]["iou"] == pytest.approx(np.mean([r.iou for r in rows]))
    assert second["details"]["per_image"]["name"] == [f"sub/{i}" for i in range(5)]
    assert second["details"]["per_image"]["mae"] == pytest.approx([r.mae for r in rows], abs=1e-5)
    # The difference is on the images that both have.
    difference = second["details"]["differences"]
    common = [0, 1, 2, 3]
    mine = np.mean([first["details"]["per_image"]["mae"][i] for i in range(4)])
    assert difference["mae"][0] == pytest.approx(np.mean([rows[i].mae for i in common]) - mine, abs=1e-4)
    assert first["details"]["differences"] is None
    assert first["metrics"]["max_f"] > second["metrics"]["max_f"] + 0.2
    assert {*first["details"]["standard_errors"], "images"} == set(first["metrics"])
    assert Image.open(out / "saliency_curves.png").size[0] > 800
    table = list(csv.reader((out / "comparison.csv").open()))
    assert table[0][2] == "saliency v2 max_f"
    assert [row[table[0].index("saliency v2 images")] for row in table[1:]] == ["4.0", "5.0"]


def test_maps_of_another_shape_are_left_out_and_named(folders, tmp_path: Path, caplog) -> None:
    masks, _, noisy = folders
    data = EvalData("", f"folder:{masks}")
    plain = SaliencyMaps(samples=10)(open_maps(str(noisy)), data)
    turned = tmp_path / "turned"
    for i in range(6):
        grey = np.array(Image.open(noisy / "sub" / f"{i}.bmp"))
        put(turned / "sub" / f"{i}.png", np.rot90(grey) if i in (1, 2) else grey)
    result = SaliencyMaps(samples=10)(open_maps(str(turned)), data)
    assert result.details["images_unfit"] == ["sub/1", "sub/2"] and result.details["masks"] == 6
    assert "2 maps have another shape than their masks: sub/1, sub/2; they are left out" in caplog.text
    assert result.details["per_image"]["name"] == ["sub/0", "sub/3", "sub/4"]  # the mask of 5 is empty
    expected = [plain.details["per_image"]["mae"][i] for i in (0, 3, 4)]
    assert result.metrics["mae"] == pytest.approx(np.mean(expected), abs=1e-5)
    for i in range(6):
        put(turned / "sub" / f"{i}.png", np.zeros((32, 32)))
    with pytest.raises(DataError, match="all 6 maps have another shape than their masks.*turn or resize them"):
        SaliencyMaps(samples=10)(open_maps(str(turned)), data)


@pytest.mark.parametrize(
    ("size", "same"),
    [
        ((300, 400), True),
        ((150, 200), True),
        ((75, 100), True),
        ((192, 256), True),  # to a longer side of 256
        ((43, 57), True),  # a 7th, rounded: 42.9 x 57.1
        ((600, 800), True),
        ((400, 300), False),
        ((300, 300), False),
        ((256, 256), False),
        ((280, 400), False),
        ((297, 400), False),  # some rows cut off
    ],
)
def test_shapes(size: tuple[int, int], same: bool) -> None:
    assert same_shape(size, (300, 400)) is same_shape((300, 400), size) is same


def test_stretching_is_an_option(folders, tmp_path: Path) -> None:
    masks, _, _ = folders
    pale = tmp_path / "pale"
    for i in range(6):
        put(pale / "sub" / f"{i}.png", np.array(Image.open(masks / "sub" / f"{i}.png")) * 0.4 + 51)
    data = EvalData("", f"folder:{masks}")
    plain, stretched = (SaliencyMaps(stretch=s, samples=10)(open_maps(str(pale)), data) for s in (False, True))
    # Inside 102 + 51 of 255, outside 51: wrong by .4 and by .2.
    assert 0.2 < plain.metrics["mae"] < 0.4
    assert (stretched.metrics["mae"], stretched.metrics["iou"]) == (0.0, 1.0)
    assert stretched.details["options"]["stretch"] is True
    with pytest.raises(ConfigError, match="SALIENCY.BOOTSTRAP is 1"):
        SaliencyMaps(samples=1)


def test_a_perfect_map_and_its_curve(folders, tmp_path: Path) -> None:
    masks, _, _ = folders
    result = SaliencyMaps(samples=10)(open_maps(f"truth={masks}"), EvalData("", f"folder:{masks}")).to_dict()
    assert (result["metrics"]["max_f"], result["metrics"]["iou"], result["metrics"]["mae"]) == (1.0, 1.0, 0.0)
    assert result["details"]["curve"]["recall"] == [1.0] * 256
    result["details"]["label"] = "truth"
    left, right = map_curves_figure([result]).axes
    assert left.get_lines()[0].get_label() == "truth: max F 1.000"
    assert np.allclose(right.get_lines()[0].get_ydata()[1:], 1.0)
    with pytest.raises(DataError, match="no result holds a curve"):
        map_curves_figure([{"metrics": {"top1": 1}, "details": {}}])


def test_a_datasets_objects_are_masks_too(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "height": 24, "width": 32} for i in (1, 2)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [6, 4, 14, 6], "iscrowd": 0, "area": 84}
    box["segmentation"] = [[6, 4, 20, 4, 20, 10, 6, 10]]
    content = {"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": [box]}
    (tmp_path / "annotations" / "instances_toy.json").write_text(json.dumps(content))
    saliency = np.zeros(SIZE)
    saliency[4:10, 6:20] = 255
    for i in (1, 2):
        put(tmp_path / "toy" / f"{i}.png", np.zeros((*SIZE, 3)))
        put(tmp_path / "maps" / f"{i}.png", saliency)
    result = SaliencyMaps(samples=10)(open_maps(str(tmp_path / "maps")), EvalData(f"coco:{tmp_path}:toy"))
    assert result.metrics["iou"] == 1.0
    assert (result.details["images"], result.details["images_empty_mask"]) == (1, 1)


def test_data_restricts_the_masks_by_name(folders, tmp_path: Path) -> None:
    masks, _, _ = folders
    for i in (1, 3, 9):
        put(tmp_path / "photos" / "sub" / f"{i}.png", np.zeros((*SIZE, 3)))
    assert open_masks(EvalData(f"folder:{tmp_path / 'photos'}", f"folder:{masks}")).names == ["sub/1", "sub/3"]
    names = open_masks(EvalData("", f"folder:{masks}")).names
    assert open_masks(EvalData("", f"folder:{masks}", limit=2)).names == [names[0], names[-1]]


def test_maps_say_where_they_come_from(folders) -> None:
    _, good, _ = folders
    before = open_maps(str(good))
    assert (before.label, before.meta) == ("good", {})
    write_manifest(good, estimator="rbd", uses_labels=False, version="3")
    after = open_maps(str(good))
    assert (after.meta["mask_source"]["estimator"], after.meta["uses_labels"]) == ("rbd", False)
    assert after.digest == before.digest
    put(good / "sub" / "9.png", np.ones(SIZE))
    assert open_maps(str(good)).digest != before.digest


def test_what_does_not_fit_is_refused_before_anything_runs(
    folders, run_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    masks, good, _ = folders
    out = ("--out", tmp_path / "out")
    with pytest.raises(WeightsError, match="--protocol knn: .* is a folder of maps; this protocol needs a network"):
        evaluate(monkeypatch, "--protocol", "saliency,knn", "--maps", good, "--masks", f"folder:{masks}", *out)
    with pytest.raises(WeightsError, match="--protocol grounding: .* is a folder of maps"):
        evaluate(monkeypatch, "--protocol", "grounding", "--maps", good, "--masks", f"folder:{masks}", *out)
    words = ("--weights", run_folder, "--data", "folder:x", "--masks", f"folder:{masks}", "--set", "DEVICE", "cpu")
    with pytest.raises(WeightsError, match="is no folder of maps; this protocol takes --maps DIR"):
        evaluate(monkeypatch, "--protocol", "saliency", *words, *out)
    with pytest.raises(ConfigError, match="--weights needs --data"):
        evaluate(monkeypatch, "--protocol", "knn", "--weights", run_folder, *out)
    with pytest.raises(ConfigError, match="expected --masks folder:DIR"):
        evaluate(monkeypatch, "--protocol", "saliency", "--maps", good, *out)
    with pytest.raises(ConfigError, match="--masks is 'boxes'"):
        evaluate(monkeypatch, "--protocol", "saliency", "--maps", good, "--masks", "boxes", *out)
    assert not (tmp_path / "out").exists()


def test_names_that_do_not_agree(folders, tmp_path: Path) -> None:
    masks, good, _ = folders
    put(tmp_path / "other" / "x.png", np.ones(SIZE))
    with pytest.raises(DataError, match="has no map for any of 6 masks"):
        SaliencyMaps()(open_maps(str(tmp_path / "other")), EvalData("", f"folder:{masks}"))
    with pytest.raises(DataError, match="has no mask for any image of"):
        open_masks(EvalData(f"folder:{tmp_path / 'other'}", f"folder:{masks}"))
    with pytest.raises(DataError, match="no pictures in"):
        pictures_by_stem(tmp_path / "nowhere")
    put(tmp_path / "other" / "x.bmp", np.ones(SIZE))
    with pytest.raises(DataError, match="differ in their suffix only"):
        pictures_by_stem(tmp_path / "other")
