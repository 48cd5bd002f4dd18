"""The torchvision engine end to end on drawn data: trains, resumes, evaluates, fails with a sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import CONFIGS, QUICK, tiny_recipe

from ssl_loc.checkpoint.files import tensor_digest
from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.recipe import Recipe, load_recipe
from ssl_loc.transfer.run import open_trunk, random_trunk, run_transfer
from ssl_loc.transfer.torchvision_engine import engine
from ssl_loc.utils.errors import ConfigError, DataError, UserError, WeightsError

ROOT = Path(__file__).parents[2]


def final(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "model_final.pth", weights_only=True)


@pytest.mark.parametrize("kind", ["C4", "FPN", "mask"])
def test_three_iterations_and_evaluation(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    low = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.EVAL_PERIOD", 2)
    recipe = tiny_recipe(kind, names, tmp_path, *low)
    result = run_transfer(recipe, "random", "torchvision")
    assert result is not None and result.details["engine"] == "torchvision"
    assert 0 <= result.metrics["bbox/AP"] <= result.metrics["bbox/AP50"] <= 100
    assert ("segm/AP" in result.metrics) == (kind == "mask")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3] and all(math.isfinite(row["total_loss"]) for row in rows)
    assert "bbox/AP50" in rows[1] and "bbox/AP50" not in rows[0]
    losses = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} | ({"loss_mask"} if kind == "mask" else set())
    assert losses <= rows[0].keys()
    assert rows[0]["total_loss"] == pytest.approx(sum(rows[0][name] for name in losses), rel=1e-5)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["digest"] == random_trunk(recipe).digest and stored["metrics"] == result.metrics
    assert stored["details"]["recipe"]["SOLVER"]["MAX_ITER"] == 3 and stored["details"]["engine_version"]
    assert load_recipe(tmp_path / "recipe.yaml").to_dict() == recipe.to_dict()
    files = (tmp_path / "inference").glob("*.json")
    saved = json.loads(next(path for path in files if not path.name.endswith("_scores.json")).read_text())
    assert len(saved["images"]) == 3 and any(image["scores"] for image in saved["images"])
    # The saved detector alone gives the same numbers.
    again = run_transfer(
        tiny_recipe(kind, names, tmp_path / "eval", *low),
        str(tmp_path / "model_final.pth"),
        "torchvision",
        eval_only=True,
    )
    assert again is not None and again.metrics == pytest.approx(result.metrics, nan_ok=True)


def test_resume_gives_the_same_bits(names: dict[str, str], tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    # An evaluation in between must not change what training does.
    run(tiny_recipe("FPN", names, straight, "TEST.EVAL_PERIOD", 1))
    broken.mkdir()
    shutil.copy(straight / "model_0000001.pth", broken)
    (broken / "last_checkpoint").write_text("model_0000001.pth\n")
    run(tiny_recipe("FPN", names, broken), resume=True)
    a, b = final(straight), final(broken)
    assert a["iteration"] == b["iteration"] == 3
    assert all(torch.equal(a["model"][key], value) for key, value in b["model"].items())
    assert len((broken / "metrics.jsonl").read_text().splitlines()) == 1


def run(recipe: Recipe, resume: bool = False) -> dict[str, Any]:
    job = TransferJob(recipe, Path(recipe.OUTPUT_DIR), trunk=open_trunk(recipe, "random"), resume=resume)
    return engine.run_job(job)


def test_workers_change_nothing(names: dict[str, str], tmp_path: Path) -> None:
    for count in (0, 2):
        run(tiny_recipe("C4", names, tmp_path / str(count), "DATALOADER.NUM_WORKERS", count))
    a, b = final(tmp_path / "0"), final(tmp_path / "2")
    assert all(torch.equal(a["model"][key], value) for key, value in b["model"].items())


def test_images_without_objects_train_without_nan(names: dict[str, str], tmp_path: Path) -> None:
    keep = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", "DATASETS.TRAIN", (names["coco_test"],))
    recipe = tiny_recipe("mask", names, tmp_path, *keep, "SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 1)
    run(recipe)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(math.isfinite(value) for row in rows for value in row.values())


def test_divergence_names_losses_iteration_and_files(names: dict[str, str], tmp_path: Path) -> None:
    recipe = tiny_recipe(
        "FPN", names, tmp_path, "SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", 6, "SOLVER.WARMUP_ITERS", 0
    )
    with pytest.raises(UserError, match=r"loss_\w+.* at iteration \d .*train_00\d.jpg.*SOLVER.BASE_LR"):
        run(recipe)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_sentence(workers: int, tmp_path: Path) -> None:
    names = draw_detection_data(tmp_path / "data")
    for path in (tmp_path / "data/VOCdevkit/VOC2007/JPEGImages").glob("train_*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^image \S+train_00\d.jpg cannot be read") as error:
        run(tiny_recipe("C4", names, tmp_path / "out", "DATALOADER.NUM_WORKERS", workers))
    assert "\n" not in str(error.value)


def test_wrong_checkpoints_and_classes_end_in_a_sentence(names: dict[str, str], tmp_path: Path) -> None:
    recipe = tiny_recipe("C4", names, tmp_path)
    with pytest.raises(WeightsError, match="no weight file .*export_backbone.py"):
        run_transfer(recipe, str(tmp_path / "absent.pth"), "torchvision")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="other.pth"):
        run_transfer(recipe, str(tmp_path / "other.pth"), "torchvision")
    with pytest.raises(WeightsError, match="without tensors .* expected a detector .the model_final.pth"):
        run_transfer(recipe, str(tmp_path / "other.pth"), "torchvision", eval_only=True)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="broken.pth is not a torch file"):
        run_transfer(recipe, str(tmp_path / "broken.pth"), "torchvision", eval_only=True)
    with pytest.raises(ConfigError, match="NUM_CLASSES is 7 but .* has 2 classes"):
        run_transfer(tiny_recipe("C4", names, tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 7), "random", "torchvision")
    with pytest.raises(ConfigError, match="KEYPOINT_ON"):
        run_transfer(tiny_recipe("C4", names, tmp_path, "MODEL.KEYPOINT_ON", True), "random", "torchvision")


def test_folders_and_files_of_another_kind_say_what_to_give(names: dict[str, str], tmp_path: Path) -> None:
    def refused(weights: Path, words: str, eval_only: bool) -> None:
        with pytest.raises(WeightsError, match=words):
            run_transfer(recipe, str(weights), "torchvision", eval_only)

    recipe = tiny_recipe("C4", names, tmp_path / "out")
    run_folder = tmp_path / "pretrained"
    run_folder.mkdir()
    refused(run_folder, "pretrained holds no run .*expected a run's OUTPUT_DIR or a .pth file", False)
    refused(run_folder, "pretrained is a folder; --eval-only expects the file .*pretrained/model_final.pth", True)
    trunk = random_trunk(recipe)
    content = {"format": "ssl_loc.backbone", "version": 1, "model": trunk.state, "meta": {}}
    torch.save(content, tmp_path / "trunk.pth")
    words = "is a backbone exported by .*; expected a detector .the model_final.pth .*; leave out --eval-only"
    refused(tmp_path / "trunk.pth", words, True)
    content = {"model": {"backbone.stem.conv1.weight": torch.zeros(1)}, "about": {"engine": "detectron2"}}
    torch.save(content, tmp_path / "d2.pth")
    words = "d2.pth is a detector .* on the detectron2 engine, and a run is continued .*; give --engine detectron2"
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/last_checkpoint").write_text("../d2.pth\n")
    with pytest.raises(WeightsError, match=words):
        run(recipe, resume=True)
    (tmp_path / "out/last_checkpoint").unlink()
    trunk.state["conv1.weight"][0] = math.nan
    digest = tensor_digest(trunk.state)
    torch.save(
        {"format": "ssl_loc.backbone", "version": 1, "model": trunk.state, "meta": {**trunk.meta, "digest": digest}},
        tmp_path / "nan.pth",
    )
    refused(tmp_path / "nan.pth", r"nan.pth holds NaN or infinite values in 1 tensor.s.: conv1.weight \(147 of", False)


def test_a_detector_of_another_recipe_is_refused(names: dict[str, str], tmp_path: Path) -> None:
    run(tiny_recipe("C4", names, tmp_path))
    other = tiny_recipe("C4", names, tmp_path / "o", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    with pytest.raises(WeightsError, match="roi_heads.box_head.norm.weight is not part of this detector"):
        run_transfer(other, str(tmp_path / "model_final.pth"), "torchvision", eval_only=True)


def test_the_tool_teaches_and_fails_in_one_sentence(tmp_path: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "finetune_det.py")]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([*tool, "--help"], capture_output=True, text=True, check=True, env=here).stdout
    assert "examples:" in shown and "--eval-only" in shown and "voc:DEVKIT:YEAR:SPLIT" in shown
    wrong = ["--config-file", str(CONFIGS / QUICK["C4"]), "--weights", "random", "SOLVER.BASE_LRR", "1"]
    failed = subprocess.run([*tool, *wrong], capture_output=True, text=True, env=here)
    assert failed.returncode == 2 and failed.stderr.startswith("error: unknown recipe key SOLVER.BASE_LRR")
    assert "Traceback" not in failed.stderr
