"""A detector trained on one engine opens on the other, in detectron2 itself, and gives the same AP."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe
from torch import Tensor

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.detector_check import FUNCTION_KEYS, open_detector
from ssl_loc.transfer.detector_convert import convert_detector
from ssl_loc.transfer.detector_file import read_detector
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import Recipe, edited
from ssl_loc.transfer.run import run_transfer
from ssl_loc.utils.errors import ConfigError, WeightsError

HERE, WHY = Detectron2Engine().available()
needs_detectron2 = pytest.mark.skipif(not HERE, reason=WHY)
ROOT = Path(__file__).parents[2]
KINDS = ("C4", "mask")
# Long enough that AP is not 0, and the same for both engines.
LENGTH = (
    *("SOLVER.MAX_ITER", 120, "SOLVER.STEPS", (100,), "SOLVER.WARMUP_ITERS", 10, "SOLVER.BASE_LR", 0.02),
    *("SOLVER.CHECKPOINT_PERIOD", 0, "TEST.PRECISE_BN.NUM_ITER", 5, "TRANSFER.LOG_PERIOD", 50),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return draw_detection_data(tmp_path_factory.mktemp("shapes"), train=24, test=8)


class Trained:
    """Detectors that learned for a few seconds, one per (engine, kind), made when first asked for."""

    def __init__(self, names: dict[str, str], folder: Path) -> None:
        self.names, self.folder = names, folder
        self.metrics: dict[tuple[str, str], dict[str, float]] = {}

    def recipe(self, kind: str, out: Path, *overrides: Any) -> Recipe:
        return tiny_recipe(kind, self.names, out, *LENGTH, *overrides)

    def __call__(self, engine: str, kind: str) -> tuple[Path, dict[str, float]]:
        out = self.folder / f"{engine}_{kind}"
        if (engine, kind) not in self.metrics:
            result = run_transfer(self.recipe(kind, out), "random", engine)
            assert result is not None
            self.metrics[engine, kind] = result.metrics
        return out / "model_final.pth", self.metrics[engine, kind]


@pytest.fixture(scope="module")
def trained(names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(names, tmp_path_factory.mktemp("trained"))


def headline(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.split("/")[-1] in ("AP", "AP50", "AP75")}


def elsewhere(recipe: Recipe) -> Recipe:
    """The recipe with another OUTPUT_DIR: an evaluation does not overwrite a training."""
    return edited(recipe, {"OUTPUT_DIR": f"{recipe.OUTPUT_DIR}_evaluated"})


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("first", "second"), [("torchvision", "detectron2"), ("detectron2", "torchvision")])
def test_the_other_engine_gives_the_same_ap(
    first: str, second: str, kind: str, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = trained(first, kind)
    caplog.set_level(logging.INFO, "ssl_loc")
    result = run_transfer(trained.recipe(kind, tmp_path), str(path), second, eval_only=True)
    assert result is not None and result.details["engine"] == second
    assert before["bbox/AP50"] > 2 and (kind == "C4" or before["segm/AP50"] > 2)
    assert headline(result.metrics) == pytest.approx(headline(before), abs=0.1)
    lines = [r.getMessage() for r in caplog.records if "every one used" in r.getMessage()]
    assert len(lines) == 1 and f"written by the {first} engine and converted: " in lines[0]


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("kind", [*KINDS, "C4 mask"])
def test_plain_detectron2_opens_a_converted_detector(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    """With the yaml beside it; its trunk (a full ResNet-18) is detectron2's own: nothing missing, nothing over."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import ssl_loc.transfer.detectron2_engine.heads  # noqa: F401  (registers the head with the extra norm)

    recipe = full_width(kind, names, tmp_path)
    first = run_transfer(recipe, "random", "torchvision")
    source, out = tmp_path / "model_final.pth", tmp_path / "d2.pth"
    done = convert_detector(source, "detectron2", out)
    assert done.config is not None and done.dropped == 0
    cfg = get_cfg()
    cfg.merge_from_file(str(done.config))
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.WEIGHTS == str(out) and "TRANSFER" not in cfg
    model = build_model(cfg)
    checkpointer = DetectionCheckpointer(model)
    found = checkpointer._load_model(checkpointer._torch_load(cfg.MODEL.WEIGHTS))
    assert (found.missing_keys, found.unexpected_keys, found.incorrect_shapes) == ([], [], [])
    assert same(model.state_dict(), read_detector(source).state_for("detectron2"))
    # And back: our file again, but for rows of the background class that nothing reads.
    convert_detector(out, "torchvision", tmp_path / "back.pth")
    before, after = read_detector(source), read_detector(tmp_path / "back.pth")
    assert before.model.keys() == after.model.keys() and before.about["recipe"] == after.about["recipe"]
    again = run_transfer(elsewhere(recipe), str(tmp_path / "back.pth"), "torchvision", eval_only=True)
    assert again is not None and first is not None and again.metrics == pytest.approx(first.metrics, nan_ok=True)


def full_width(kind: str, names: dict[str, str], out: Path) -> Recipe:
    one = ("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.PRECISE_BN.NUM_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 0)
    trunk = ("TRANSFER.BACKBONE.KWARGS", {"depth": 18, "width": 64, "layers": []})
    width = ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    # res5 runs on every proposal and, with masks, on every detection.
    few = ("MODEL.RPN.POST_NMS_TOPK_TEST", 8, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 8, "TEST.DETECTIONS_PER_IMAGE", 4)
    return tiny_recipe(kind, names, out, *one, *trunk, *width, *few)


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_of_detectron2s_own_trainer_opens_here(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    """DefaultTrainer knows nothing of us: {"model", "optimizer", ...} without a word about the recipe."""
    from detectron2.engine import DefaultTrainer
    from detectron2.modeling import build_model

    recipe = full_width(kind, names, tmp_path / "ours")
    cfg = plain_config(recipe, tmp_path / "d2")
    DefaultTrainer(cfg).train()
    path = tmp_path / "d2" / "model_final.pth"
    file = read_detector(path)
    assert file.engine == "detectron2" and file.about == {} and file.arch == ("C4" if kind == "C4" else "FPN")
    assert file.backbone()["kwargs"]["depth"] == 18
    result = run_transfer(recipe, str(path), "torchvision", eval_only=True)
    theirs = run_transfer(recipe, str(path), "detectron2", eval_only=True)
    assert result is not None and theirs is not None
    assert headline(result.metrics) == pytest.approx(headline(theirs.metrics), abs=0.1)
    # Converted to ours and back: what detectron2 trained, bit by bit.
    convert_detector(path, "torchvision", tmp_path / "tv.pth")
    model = build_model(cfg)
    model.load_state_dict(read_detector(tmp_path / "tv.pth").state_for("detectron2"), strict=True)
    assert same(model.state_dict(), torch.load(path, weights_only=True)["model"])


def plain_config(recipe: Recipe, out: Path) -> Any:
    """What a user of detectron2 would write down for ``recipe``."""
    from ssl_loc.transfer.datasets import get_detection_datasets
    from ssl_loc.transfer.detectron2_engine.data import catalog_name, register
    from ssl_loc.transfer.detectron2_engine.engine import make_config
    from ssl_loc.transfer.run import random_trunk

    out.mkdir()
    trunk = random_trunk(recipe)
    cfg = make_config(TransferJob(recipe, out, trunk=trunk), recipe, trunk.meta["backbone"]).clone()
    for split in (recipe.DATASETS.TRAIN, recipe.DATASETS.TEST):
        register(get_detection_datasets(split), catalog_name(list(split)))
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.SOLVER.CHECKPOINT_PERIOD = str(out), 5
    return cfg


@pytest.mark.parametrize("kind", ["C4", "FPN", "mask", "C4 mask"])
def test_there_and_back_without_detectron2(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    recipe = tiny_recipe(kind, names, tmp_path, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    result = run_transfer(recipe, "random", "torchvision")
    source = tmp_path / "model_final.pth"
    done = convert_detector(source, "detectron2", tmp_path / "d2.pth")
    assert done.tensors == len(read_detector(source).model)
    # detectron2's form of the file is evaluated by the torchvision engine, and gives what it gave.
    for name in ("d2.pth", "back.pth"):
        if name == "back.pth":
            convert_detector(tmp_path / "d2.pth", "torchvision", tmp_path / name)
        again = run_transfer(elsewhere(recipe), str(tmp_path / name), "torchvision", eval_only=True)
        assert result is not None and again is not None
        assert again.metrics == pytest.approx(result.metrics, nan_ok=True)
    # The yaml beside it has detectron2's keys only.
    assert done.config is not None and "TRANSFER" not in yaml.safe_load(done.config.read_text())


def test_pyramid_levels_follow_the_strides(names: dict[str, str], tmp_path: Path) -> None:
    """With a stem of stride 2 the finest level has stride 2 and is called 1 in detectron2."""
    trunk = {"depth": 18, "width": 8, "layers": [1, 1, 1, 1], "stem": "small"}
    levels = ("MODEL.RPN.IN_FEATURES", ["p1", "p2", "p3", "p4", "p5"], "MODEL.ROI_HEADS.IN_FEATURES", ["p1", "p2"])
    recipe = tiny_recipe("FPN", names, tmp_path, "TRANSFER.BACKBONE.KWARGS", trunk, *levels, "SOLVER.MAX_ITER", 1)
    run_transfer(recipe, "random", "torchvision")
    file = read_detector(tmp_path / "model_final.pth")
    assert file.first_level() == 1 and "backbone.fpn_lateral1.weight" in file.state_for("detectron2")
    convert_detector(file.path, "detectron2", tmp_path / "d2.pth")
    written = read_detector(tmp_path / "d2.pth")
    assert written.first_level() == 1 and written.state_for("torchvision").keys() == file.model.keys()


def test_a_recipe_that_contradicts_the_detector_is_refused(names: dict[str, str], tmp_path: Path) -> None:
    """The tensors fit, so without this check the AP would be quietly wrong."""
    run_transfer(tiny_recipe("mask", names, tmp_path), "random", "torchvision")
    path = tmp_path / "model_final.pth"
    wrong = {
        "INPUT.FORMAT": ("BGR", "'BGR' but .* says 'RGB'"),
        "MODEL.PIXEL_STD": ([1.0, 1.0, 1.0], r"\[1.0, 1.0, 1.0\] but .* says \[58.395"),
        "MODEL.ANCHOR_GENERATOR.OFFSET": (0.5, "0.5 but .* says 0.0"),
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlign", "'ROIAlign' but .* says 'ROIAlignV2'"),
    }
    for key, (value, words) in wrong.items():
        with pytest.raises(ConfigError, match=f"contradicts the detector: {key} is {words}.*recipe.yaml"):
            open_detector(path, tiny_recipe("mask", names, tmp_path, key, value))
    # What only concerns the evaluation may differ.
    other = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3, "INPUT.MIN_SIZE_TEST", 80, "SOLVER.BASE_LR", 3.0)
    assert open_detector(path, tiny_recipe("mask", names, tmp_path, *other)).engine == "torchvision"
    allowed = tiny_recipe("mask", names, tmp_path, "INPUT.FORMAT", "BGR", "TRANSFER.ALLOW_NONSTANDARD", True)
    assert open_detector(path, allowed).engine == "torchvision"
    assert set(FUNCTION_KEYS) <= allowed.flat().keys()


def test_what_is_known_of_a_foreign_detector(
    names: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Old files hold pixel statistics as tensors, detectron2's trainer writes config.yaml; else a warning says it."""
    recipe = tiny_recipe("C4", names, tmp_path)
    run_transfer(recipe, "random", "torchvision")
    state = read_detector(tmp_path / "model_final.pth").state_for("detectron2")
    path = tmp_path / "plain.pth"
    torch.save({"model": state, "iteration": 3}, path)
    assert read_detector(path).about == {} and open_detector(path, recipe).engine == "detectron2"
    assert "does not say how it was trained" in caplog.text and "INPUT.FORMAT RGB" in caplog.text
    caffe = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(15, 4)}
    torch.save({"model": {**state, **anchors, "pixel_mean": caffe, "pixel_std": torch.ones(3, 1, 1)}}, path)
    with pytest.raises(ConfigError, match="MODEL.PIXEL_MEAN is .123.675.* says .103.5.*MODEL.PIXEL_STD is .*58.395"):
        open_detector(path, recipe)
    ours = read_detector(tmp_path / "model_final.pth").model
    assert read_detector(path).state_for("torchvision").keys() == ours.keys()
    torch.save({"model": state}, path)
    (tmp_path / "config.yaml").write_text("INPUT:\n  FORMAT: BGR\nMODEL:\n  ANCHOR_GENERATOR:\n    OFFSET: 0.5\n")
    words = "INPUT.FORMAT is 'RGB' but .*config.yaml. says 'BGR'; .*OFFSET is 0.0"
    with pytest.raises(ConfigError, match=words):
        open_detector(path, recipe)


def test_what_cannot_be_converted_is_said(names: dict[str, str], tmp_path: Path) -> None:
    run_transfer(tiny_recipe("C4", names, tmp_path), "random", "torchvision")
    path = tmp_path / "model_final.pth"
    with pytest.raises(WeightsError, match="is a detector of the torchvision engine already"):
        convert_detector(path, "torchvision", tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="the detector itself or a folder"):
        convert_detector(path, "detectron2", path)
    state = read_detector(path).state_for("detectron2")
    torch.save({"model": {**state, "roi_heads.keypoint_head.score.weight": torch.zeros(1)}}, tmp_path / "k.pth")
    with pytest.raises(WeightsError, match="k.pth cannot be converted .*keypoint_head.score"):
        convert_detector(tmp_path / "k.pth", "torchvision", tmp_path / "x.pth")
    state["roi_heads.box_predictor.cls_score.bias"][0] = torch.nan
    torch.save({"model": state}, tmp_path / "n.pth")
    with pytest.raises(WeightsError, match="NaN .*cls_score.bias.*the fine-tuning diverged"):
        convert_detector(tmp_path / "n.pth", "torchvision", tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()
    # A converted file has no optimiser to go on with.
    convert_detector(path, "detectron2", tmp_path / "d2.pth")
    convert_detector(tmp_path / "d2.pth", "torchvision", tmp_path / "c.pth")
    (tmp_path / "last_checkpoint").write_text("c.pth\n")
    with pytest.raises(WeightsError, match="converted from another engine and holds no optimiser"):
        run_transfer(tiny_recipe("C4", names, tmp_path), "random", "torchvision", resume=True)


def test_counters_of_frozen_norms_stay_behind(names: dict[str, str], tmp_path: Path) -> None:
    recipe = tiny_recipe("FPN", names, tmp_path, "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.NORM", "BN")
    run_transfer(recipe, "random", "torchvision")
    done = convert_detector(tmp_path / "model_final.pth", "detectron2", tmp_path / "d2.pth")
    # The stem, 4 blocks of 2 and 3 shortcuts; the 8 norms of the pyramid keep theirs.
    assert done.dropped == 12
    state = read_detector(tmp_path / "d2.pth").model
    assert sum(key.endswith("num_batches_tracked") for key in state) == 8
    assert run_transfer(elsewhere(recipe), str(tmp_path / "d2.pth"), "torchvision", eval_only=True) is not None


def test_the_tool(names: dict[str, str], tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("tool_convert", ROOT / "tools" / "convert_detector.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def call(*words: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["convert_detector.py", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            tool.run_tool(tool.main)
        return int(stop.value.code or 0)

    assert call("--help") == 0
    assert "DefaultPredictor" in capsys.readouterr().out
    run_transfer(tiny_recipe("FPN", names, tmp_path), "random", "torchvision")
    assert call(tmp_path / "model_final.pth", "--to", "detectron2", "--out", tmp_path / "d2.pth") == 0
    text = capsys.readouterr().out
    assert "read back and compared bit by bit" in text and "d2.pth.yaml: the config that detectron2" in text
    assert call(tmp_path / "absent.pth", "--to", "detectron2", "--out", tmp_path / "x.pth") == 2
    assert "no file" in capsys.readouterr().err
