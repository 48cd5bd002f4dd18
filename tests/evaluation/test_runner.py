"""From the command line to json and table."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from ssl_loc.checkpoint import export_backbone
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.published import misfit, quoted
from ssl_loc.evaluation.runner import comparison, read_results, terminal_table
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError
from ssl_loc.utils.file_io import read_json, write_json

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def run_tool(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    import evaluate

    evaluate.main()


def result(label: str, protocol: str = "knn", version: str = "1", data: str = "d", **metrics: float) -> dict:
    return {
        "protocol": protocol,
        "version": version,
        "metrics": metrics,
        "digest": f"digest of {label}",
        "weights": f"{label}.pth",
        "details": {"label": label, "data": data},
    }


def test_tool_writes_results_and_table(
    photos: tuple[Path, Path], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    images, masks = photos
    run_tool(
        monkeypatch,
        *("--protocol", "grounding", "--weights", f"A={run_folder}", f"random:{run_folder / 'config.yaml'}"),
        *("--data", f"folder:{images}", "--masks", f"folder:{masks}", "--out", str(tmp_path / "out")),
        *("--set", "GROUNDING.THRESHOLD", "0.4", "DEVICE", "cpu"),
    )
    assert "grounding v1 on folder:" in capsys.readouterr().out
    found = read_results([tmp_path / "out"])
    assert [r["details"]["label"] for r in found] == ["A", "random"]
    first = found[0]
    assert (first["protocol"], first["version"], first["seed"]) == ("grounding", "1", 0)
    assert len(first["digest"]) == 16 and first["weights"].endswith("iter_0000003.pth")
    assert first["details"]["options"]["threshold"] == 0.4
    assert "version/torch" in first["details"]["environment"]
    assert (first["details"]["iteration"], first["details"]["uses_labels"]) == (3, False)
    rows = list(csv.reader((tmp_path / "out" / "comparison.csv").open()))
    assert rows[0][:3] == ["weights", "digest", "grounding v1 iou_mean"]
    assert [float(row[2]) for row in rows[1:]] == [r["metrics"]["iou_mean"] for r in found]


@pytest.mark.parametrize(
    ("protocols", "words"),
    [
        ("grounding,knn", "--protocol knn: --data folder:.* does not name a training and a test part"),
        ("grounding,linear", "--protocol linear: --data folder:.* does not name a training and a test part"),
    ],
)
def test_data_of_the_wrong_form_is_refused_before_anything_runs(
    protocols: str, words: str, photos: tuple[Path, Path], run_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    images, masks = photos
    monkeypatch.setattr("ssl_loc.evaluation.grounding.Grounding.__call__", unwanted)
    with pytest.raises(DataError, match=words):
        run_tool(
            monkeypatch,
            *("--protocol", protocols, "--weights", str(run_folder), "--data", f"folder:{images}"),
            *("--masks", f"folder:{masks}", "--out", str(tmp_path / "out"), "--set", "DEVICE", "cpu"),
        )
    assert not (tmp_path / "out").exists()


def unwanted(*_: object) -> None:
    raise AssertionError("a protocol ran")


def test_weights_and_masks_of_the_wrong_form_are_refused_before_anything_runs(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for split in ("train", "val"):
        (tmp_path / "data" / split / "x").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "data" / split / "x" / "a.png")
    export_backbone(run_folder, tmp_path / "backbone.pth")
    monkeypatch.setattr("ssl_loc.evaluation.knn.KNN.__call__", unwanted)
    words = ("--protocol", "knn,grounding", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    with pytest.raises(WeightsError, match="--protocol grounding: .*backbone.pth is an exported backbone"):
        run_tool(monkeypatch, *words, "--weights", str(run_folder), str(tmp_path / "backbone.pth"))
    with pytest.raises(DataError, match="--protocol grounding: "):
        run_tool(monkeypatch, *words, "--weights", str(run_folder))


def test_versions_engines_and_data_never_share_a_column() -> None:
    columns, rows = comparison(
        [
            result("a", top1=1.0),
            result("b", top1=2.0),
            result("b", version="2", top1=3.0),
            result("a", data="e", top1=4.0),
        ]
    )
    assert columns == ["weights", "digest", "knn v1 top1 [d]", "knn v2 top1", "knn v1 top1 [e]"]
    assert rows == [["a", "digest of a", 1.0, None, 4.0], ["b", "digest of b", 2.0, 3.0, None]]
    a, b = result("a", "detection", ap=1.0), result("a", "detection", ap=2.0)
    a["details"]["engine"], b["details"]["engine"] = "torchvision", "detectron2"
    assert comparison([a, b])[1] == [["a", "digest of a", 1.0, 2.0]]
    assert "detection v1 torchvision on d" in terminal_table([a, b])


def test_a_detection_result_is_named_after_its_folder(tmp_path: Path) -> None:
    value = {"protocol": "detection", "version": "1", "metrics": {"bbox/AP": 1.0}, "digest": "x", "weights": "w"}
    write_json(tmp_path / "det_cast" / "result.json", {**value, "details": {"engine": "torchvision"}})
    (found,) = read_results([tmp_path / "det_cast"])
    assert found["details"]["label"] == "det_cast" and found["file"].endswith("det_cast/result.json")
    with pytest.raises(DataError, match="no results in"):
        read_results([tmp_path])
    write_json(tmp_path / "x.json", {"protocol": "knn"})
    with pytest.raises(DataError, match="no result of an evaluation"):
        read_results([tmp_path / "x.json"])


def test_options_are_strict(tmp_path: Path) -> None:
    assert load_options(None, ["KNN.K", "5", "LINEAR.LRS", "[1, 2.0]"]).KNN.K == 5
    with pytest.raises(ConfigError, match=r"GROUNDING.TRESHOLD.*GROUNDING.THRESHOLD.*evaluation/grounding.py"):
        load_options(None, ["GROUNDING.TRESHOLD", "0.4"])
    with pytest.raises(ConfigError, match="KEY VALUE pairs"):
        load_options(None, ["SIZE"])
    with pytest.raises(ConfigError, match="expected int"):
        load_options(None, ["KNN.K", "many"])
    (tmp_path / "o.yaml").write_text("KNN: {K: 20}\n")
    assert load_options(str(tmp_path / "o.yaml"), []).KNN.K == 20
    (tmp_path / "bad.yaml").write_text("KNN: {KAY: 20}\n")
    with pytest.raises(ConfigError, match=r"KNN.KAY in .*bad.yaml.*KNN.K"):
        load_options(str(tmp_path / "bad.yaml"), [])


def test_published_numbers_belong_to_label_protocol_data_and_options(tmp_path: Path) -> None:
    rows = "[[CAST, grounding, iou_mean, 0.41, P], [MoCo, grounding, iou_mean, 0.24, P], [CAST, knn, top1, 9.0, P]]"
    (tmp_path / "p.yaml").write_text(
        f"SIZE: 224\nPUBLISHED_IF: [[DATA, 'coco:*:val2017'], [MASKS, 'folder:*']]\nPUBLISHED: {rows}\n"
    )
    preset = str(tmp_path / "p.yaml")
    (tmp_path / "child.yaml").write_text("_BASE_: p.yaml\nGROUNDING: {PHI: 0.4}\n")
    data = EvalData("coco_2017_val", "folder:maps")
    found = quoted(load_options(preset), data, "cast", "grounding")
    assert found["published"] == {"iou_mean": {"value": 0.41, "source": "P"}}
    assert [row[0] for row in found["references"]] == ["CAST", "MoCo"] and not found["published_left_out"]
    assert quoted(load_options(preset), data, "cast", "svm") == {
        "published": {},
        "references": [],
        "published_left_out": "",
    }

    def why(*words: str, given: EvalData = data, file: str = preset, protocol: str = "grounding") -> str:
        return misfit(load_options(file, words), given, protocol)

    assert why("BATCH_SIZE", "3", "SEED", "5", "KNN.K", "7", "SIZE", "224") == ""
    assert why("SIZE", "64") == "SIZE is 64 now" and why("GROUNDING.PHI", "0.3") == "GROUNDING.PHI is 0.3 now"
    assert why("KNN.K", "7", protocol="knn") == "KNN.K is 7 now"
    assert why(file=str(tmp_path / "child.yaml")) == "GROUNDING.PHI is 0.4 now"
    assert why(given=EvalData("coco:/x:val2017", "folder:m")) == ""
    assert why(given=EvalData("coco_2017_train", "folder:m")) == "--data coco_2017_train, expected coco:*:val2017"
    assert why(given=EvalData("coco_2017_val")) == "--masks ground_truth, expected folder:*"
    assert why(given=EvalData("coco_2017_val", "folder:m", 50)) == "LIMIT 50, expected all images"
    left = quoted(load_options(preset, ["SIZE", "64"]), data, "cast", "grounding")
    assert left["published"] == {} and left["references"] == [] and "SIZE is 64 now" in left["published_left_out"]
    for words, error in (
        (["PUBLISHED", '[["CAST", 0.41]]'], "PUBLISHED has the row"),
        (["PUBLISHED", '[["CAST", "knn", "top1", 1.0, "P"]]'], "PUBLISHED_IF does not say what data"),
        (["PUBLISHED_IF", '[["DATE", "x"]]'], "asks for DATE"),
        (["PUBLISHED_IF", '["DATA"]'], "PUBLISHED_IF has the row"),
    ):
        with pytest.raises(ConfigError, match=error):
            load_options(None, words)


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [("SIZE", -3, 0), ("LIMIT", -1, 0), ("BATCH_SIZE", 0, 1), ("WORKERS", -7, -1), ("SEED", -1, 0)],
)
def test_shared_options_have_a_smallest_value(key: str, value: int, least: int) -> None:
    assert load_options(None, [key, str(least)])[key] == least
    with pytest.raises(ConfigError, match=f"{key} is {value}; expected {least} or more"):
        load_options(None, [key, str(value)])


def test_shipped_presets_load() -> None:
    files = sorted((TOOLS.parent / "configs" / "eval").glob("*.yaml"))
    assert files
    for file in files:
        load_options(str(file))


def test_knn_and_linear_share_features_of_a_backbone(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from PIL import Image

    for split in ("train", "val"):
        for c, name in enumerate("xyz"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = np.full((50, 50, 3), 40 * i, np.uint8)
                pixels[..., c] = 255
                Image.fromarray(pixels).save(folder / f"{i}.png")
    out = tmp_path / "out"
    run_tool(
        monkeypatch,
        *("--protocol", "knn,linear", "--weights", str(run_folder), "--data", str(tmp_path / "data")),
        *("--out", str(out), "--set", "LINEAR.EPOCHS", "5", "KNN.K", "1", "DEVICE", "cpu"),
    )
    knn, linear = (read_json(next((out / "results").glob(f"{name}_*.json"))) for name in ("knn", "linear"))
    # val is a copy of train: every image finds itself.
    assert knn["metrics"]["top1"] == 100.0 and knn["details"]["k"] == 1
    assert knn["details"]["chance"] == pytest.approx(100 / 3)
    assert knn["details"]["train_images"] == linear["details"]["train_images"] == 6
    assert set(linear["metrics"]) == {"top1", "top1_best_epoch"}
