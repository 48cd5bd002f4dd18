"""A dry run finds all problems at once, writes nothing, and foretells the numbers of the run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.detection_recipe import CONFIGS, NARROW, tiny_recipe
from helpers.voc_cases import write_voc_tree
from PIL import Image

from ssl_loc.checkpoint.files import BACKBONE_FORMAT, BACKBONE_VERSION, write_torch_file
from ssl_loc.transfer.dry_run import NOTE, OK, PROBLEM, DryRun, dry_run, print_dry_run
from ssl_loc.transfer.recipe import edited
from ssl_loc.transfer.run import random_trunk, run_transfer

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "finetune_det.py"
ENGINES = [
    "torchvision",
    pytest.param(
        "detectron2",
        marks=[
            pytest.mark.detectron2,
            pytest.mark.skipif(
                importlib.util.find_spec("detectron2") is None,
                reason="detectron2 is not installed; its dry run builds its detector",
            ),
        ],
    ),
]


def texts(report: DryRun, state: str, part: str) -> list[str]:
    return [line.text for line in report.lines if (line.state, line.part) == (state, part)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["C4", "mask"])
def test_nothing_to_say_about_a_run_that_works(names, tmp_path, engine, kind):
    out = tmp_path / "out"
    report = dry_run(tiny_recipe(kind, names, out), "random", engine)
    assert not report.problems and not out.exists()
    parts = [line.part for line in report.lines if line.state == OK]
    assert parts == ["engine", "recipe", "weights", "detector", "data", "data", "output"]
    assert "trunk tensors loaded bit-equal" in texts(report, OK, "detector")[0]
    assert str(report).endswith("nothing was trained or written: nothing stands in the way")


def test_numbers(names, tmp_path):
    # 6 images, one of them empty; 3 iterations of 2 images are 6/5 epochs; the step at 2 is at 4/5.
    recipe = tiny_recipe("FPN", names, tmp_path, "SOLVER.BASE_LR", 0.02, "MODEL.DEVICE", "cpu")
    numbers = dry_run(recipe, "random", "torchvision").numbers
    assert numbers["training images"] == "5 of 6 (with objects)" and numbers["test images"] == "3"
    assert numbers["iterations"] == "3 = 1.2 epochs" and numbers["x 0.1 at"] == "2 (0.8 epochs)"
    assert numbers["batch"] == "2 in one process" and numbers["learning rate"].startswith("0.02 (0.01 per image")
    assert numbers["warm-up"] == "1 iterations = 2 images" and numbers["device"] == "cpu"
    assert numbers["statistics of norms"].startswith("from 2 batches = 4 images")
    whole = edited(recipe, {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False})
    assert dry_run(whole, "random", "torchvision").numbers["training images"] == "6"


def test_numbers_of_several_processes(names, tmp_path):
    # Meant for one process with 2 images; four processes take 8 at four times the rate in a quarter of the steps.
    keys = ("SOLVER.REFERENCE_WORLD_SIZE", 1, "SOLVER.MAX_ITER", 400, "SOLVER.STEPS", (200,), "SOLVER.BASE_LR", 0.02)
    report = dry_run(tiny_recipe("C4", names, tmp_path, *keys), "random", "torchvision", processes=4)
    assert report.numbers["batch"] == "8 = 4 x 2" and report.numbers["learning rate"].startswith("0.08 ")
    assert report.numbers["iterations"] == "100 = 160 epochs"
    assert "IMS_PER_BATCH 2 -> 8" in texts(report, NOTE, "recipe")[0]
    report = dry_run(tiny_recipe("C4", names, tmp_path), "random", "torchvision", processes=4)
    assert "which 4 processes cannot share equally" in texts(report, PROBLEM, "recipe")[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_all_problems_in_one_list(names, tmp_path, engine):
    changes = {
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.ROI_HEADS.NUM_CLASSES": 3,
        "TEST.AUG.ENABLED": True,
        "DATASETS.TEST": (names["voc_test"], "coco:/nowhere:val"),
        "OUTPUT_DIR": str(tmp_path / "file" / "out"),
        "TRANSFER.EVALUATOR": "theirs",
    }
    (tmp_path / "file").write_text("")
    recipe = edited(tiny_recipe("C4", names, tmp_path), changes)
    backbone = exported(recipe, tmp_path)
    report = dry_run(recipe, str(backbone), engine)
    assert any("TEST.AUG.ENABLED True" in text for text in texts(report, PROBLEM, "recipe"))
    assert any("MODEL.PIXEL_STD is [1.0, 1.0, 1.0]" in text for text in texts(report, PROBLEM, "weights"))
    data = texts(report, PROBLEM, "data")
    for name in (names["voc_train"], names["voc_test"]):
        assert any(f"NUM_CLASSES is 3 but {name} has 2 classes" in text for text in data)
    assert any("TRANSFER.EVALUATOR is 'theirs'" in text for text in data)
    assert sum("coco:/nowhere:val: no /nowhere/" in text for text in data) == 2
    assert "is a file; expected a folder" in texts(report, PROBLEM, "output")[0]
    assert texts(report, NOTE, "detector") == ["not built, because of the problems above"]
    assert str(report).count(PROBLEM) == len(report.problems) == 8
    assert "8 problems to solve first" in str(report) and "test images" not in report.numbers


def exported(recipe, folder):
    """A backbone file of the recipe's trunk, with ordinary pixel statistics."""
    plain = edited(recipe, {"MODEL.PIXEL_STD": [58.395, 57.12, 57.375]})
    trunk = random_trunk(plain)
    path = folder / "backbone.pth"
    meta = {**trunk.meta, "digest": trunk.digest}
    write_torch_file(path, {"format": BACKBONE_FORMAT, "version": BACKBONE_VERSION, "model": trunk.state, "meta": meta})
    return path


def test_every_unsupported_key_of_the_torchvision_engine_is_listed(names, tmp_path):
    changes = {
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full",
    }
    report = dry_run(edited(tiny_recipe("FPN", names, tmp_path), changes), "random", "torchvision")
    found = texts(report, PROBLEM, "recipe")
    assert len(found) == 3 and all(any(key in text for text in found) for key in changes)


@pytest.mark.parametrize(("weights", "words"), [("missing.pth", "tools/export_backbone.py"), (".", "holds no run")])
def test_weights_that_are_no_file(names, tmp_path, weights, words):
    report = dry_run(tiny_recipe("C4", names, tmp_path), str(tmp_path / weights), "torchvision")
    assert len(report.problems) == 1 and words in texts(report, PROBLEM, "weights")[0]
    # The data is looked at all the same.
    assert len(texts(report, OK, "data")) == 2 and "iterations" in report.numbers


def test_another_trunk_than_the_recipe_says(names, tmp_path):
    recipe = tiny_recipe("C4", names, tmp_path)
    backbone = exported(recipe, tmp_path)
    report = dry_run(edited(recipe, {"MODEL.RESNETS.DEPTH": 50}), str(backbone), "torchvision")
    assert any("DEPTH" in text for text in texts(report, PROBLEM, "weights"))


def test_evaluation_only(names, tmp_path):
    recipe = tiny_recipe("C4", names, tmp_path / "run", "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    run_transfer(recipe, "random", "torchvision")
    detector = str(tmp_path / "run" / "model_final.pth")
    report = dry_run(recipe, detector, "torchvision", eval_only=True)
    assert len(report.problems) == 1 and "tensors of the detector are filled" in texts(report, OK, "detector")[0]
    assert len(texts(report, OK, "data")) == 1 and set(report.numbers) == {"test images"}
    assert "holds a fine-tuning (a finished one" in texts(report, PROBLEM, "output")[0]
    recipe = edited(recipe, {"OUTPUT_DIR": str(tmp_path / "evaluation")})
    report = dry_run(recipe, "random", "torchvision", eval_only=True)
    assert "no detector checkpoint random" in texts(report, PROBLEM, "weights")[0]
    # Weights of another kind, and a recipe of another size.
    backbone = exported(recipe, tmp_path)
    report = dry_run(recipe, str(backbone), "torchvision", eval_only=True)
    assert "leave out --eval-only" in texts(report, PROBLEM, "detector")[0]
    other = edited(recipe, {"MODEL.ROI_HEADS.NUM_CLASSES": 4})
    assert len(dry_run(other, detector, "torchvision", eval_only=True).problems) == 2


def test_sets_of_different_classes_cannot_be_trained_on_together(names, tmp_path):
    recipe = tiny_recipe("C4", names, tmp_path)
    devkit, year = tmp_path / "VOCdevkit", "2012"
    write_voc_tree(devkit / f"VOC{year}", {"a": [(0, (1, 1, 20, 20), 0)]}, ["screw"], split="train")
    both = edited(recipe, {"DATASETS.TRAIN": (names["voc_train"], f"voc:{devkit}:{year}:train")})
    found = texts(dry_run(both, "random", "torchvision"), PROBLEM, "data")
    assert any("datasets trained on together need equal classes" in text for text in found)


def test_a_broken_first_image_is_found(names, tmp_path):
    write_voc_tree(tmp_path / "VOC2007", {"a": [(0, (1, 1, 20, 20), 0)]}, ["dog"], split="test")
    path = tmp_path / "VOC2007/JPEGImages/a.jpg"
    Image.effect_noise((100, 100), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])  # the header is whole, the pixels are not
    recipe = tiny_recipe("C4", names, tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 20)
    report = dry_run(edited(recipe, {"DATASETS.TEST": (f"voc:{tmp_path}:2007:test",)}), "random", "torchvision")
    assert any("a.jpg cannot be read" in text for text in texts(report, PROBLEM, "data"))


def test_exit_status(names, tmp_path, capsys, monkeypatch):
    recipe = tiny_recipe("C4", names, tmp_path)
    assert print_dry_run(recipe, "random", "torchvision", False, 0) == 0
    assert "nothing stands in the way" in capsys.readouterr().out
    # Under torchrun the first process speaks, for all of them.
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert print_dry_run(recipe, "random", "torchvision", False, 0) == 1
    assert "which 4 processes cannot share" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert print_dry_run(recipe, "random", "torchvision", False, 0) == 0 and capsys.readouterr().out == ""


def test_the_tool(names, tmp_path):
    words = ["--config-file", str(CONFIGS / "quick/voc_R18_C4.yaml"), "--weights", "random", "--dry-run"]
    words += ["--engine", "torchvision", "OUTPUT_DIR", str(tmp_path / "out"), "TRANSFER.BACKBONE.KWARGS", str(NARROW)]
    words += ["DATASETS.TRAIN", f"('{names['voc_train']}',)", "DATASETS.TEST", f"('{names['voc_test']}',)"]
    words += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "8"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, env=env)
    assert done.returncode == 1 and "NUM_CLASSES is 20" in done.stdout and not (tmp_path / "out").exists()


def test_options_are_looked_at(names, tmp_path):
    out = tmp_path / "out"
    recipe = tiny_recipe("C4", names, out, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "(2,)")
    for seeds in ("0", "1,1", "abc"):
        report = dry_run(recipe, "random", "torchvision", seeds=seeds)
        assert f"--seeds is '{seeds}'" in texts(report, PROBLEM, "seeds")[0]
    report = dry_run(recipe, "random", "torchvision", seeds="4,6")
    assert texts(report, OK, "seeds") == ["4 (new), 6 (new)"] and not out.exists()
    # The step at 2 is never reached in 2 iterations.
    assert "SOLVER.STEPS (2,): the run ends at SOLVER.MAX_ITER 2 before" in texts(report, NOTE, "recipe")[0]
    report = dry_run(recipe, "random", "torchvision", processes=-3)
    assert texts(report, PROBLEM, "processes") == ["--num-gpus is -3; expected 1 or more (0: one process)"]
    assert len(report.problems) == 1
    twice = edited(recipe, {"DATASETS.TEST": (names["voc_test"],) * 2})
    assert "more than once" in texts(dry_run(twice, "random", "torchvision"), PROBLEM, "recipe")[0]
    nowhere = edited(recipe, {"OUTPUT_DIR": "/proc/x"})
    assert "/proc cannot be written into" in texts(dry_run(nowhere, "random", "torchvision"), PROBLEM, "output")[0]


def test_runs_that_are_there_are_looked_at(names, tmp_path):
    recipe = tiny_recipe("C4", names, tmp_path / "out", "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    run_transfer(recipe, "random", "torchvision")
    assert "continue it with --resume" in texts(dry_run(recipe, "random", "torchvision"), PROBLEM, "output")[0]
    report = dry_run(recipe, "random", "torchvision", resume=True)
    assert not report.problems and texts(report, OK, "output")[0].endswith("(the run there is continued)")
    changed = edited(recipe, {"SOLVER.BASE_LR": 0.5})
    assert "BASE_LR" in texts(dry_run(changed, "random", "torchvision", resume=True), PROBLEM, "output")[0]
    (tmp_path / "other").mkdir()
    backbone = exported(edited(recipe, {"SEED": 99}), tmp_path / "other")
    report = dry_run(recipe, str(backbone), "torchvision", resume=True)
    assert "began with trunk" in texts(report, PROBLEM, "output")[0]
    report = dry_run(recipe, "random", "torchvision", seeds="1,")
    assert "holds a single run" in texts(report, PROBLEM, "seeds")[0]


def test_a_later_image_that_is_cut_off_is_found(names, tmp_path):
    objects = {name: [(0, (1, 1, 20, 20), 0)] for name in "abc"}
    write_voc_tree(tmp_path / "VOC2007", objects, ["dog"], split="test")
    for name in "abc":
        path = tmp_path / f"VOC2007/JPEGImages/{name}.jpg"
        Image.effect_noise((100, 100), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    recipe = tiny_recipe("C4", names, tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 20)
    report = dry_run(edited(recipe, {"DATASETS.TEST": (f"voc:{tmp_path}:2007:test",)}), "random", "torchvision")
    assert any("c.jpg cannot be read" in text for text in texts(report, PROBLEM, "data"))


def test_classes_in_another_order_are_found(names, tmp_path):
    _, devkit, _, _ = names["voc_test"].split(":")
    shutil.copytree(devkit, tmp_path / "VOCdevkit")
    (tmp_path / "VOCdevkit/VOC2007/classes.txt").write_text("disc\nbox\n")
    other = f"voc:{tmp_path / 'VOCdevkit'}:2007:test"
    recipe = tiny_recipe("C4", names, tmp_path / "out", "SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    report = dry_run(edited(recipe, {"DATASETS.TEST": (other,)}), "random", "torchvision")
    assert [text for text in texts(report, PROBLEM, "data") if "class 1 is 'box' there and 'disc' here" in text]
    run_transfer(recipe, "random", "torchvision")
    changes = {"DATASETS.TEST": (other,), "OUTPUT_DIR": str(tmp_path / "evaluation")}
    report = dry_run(edited(recipe, changes), str(tmp_path / "out/model_final.pth"), "torchvision", eval_only=True)
    assert "class 1 is 'box' there and 'disc' here" in texts(report, PROBLEM, "detector")[0]
