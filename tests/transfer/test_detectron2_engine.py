"""The detectron2 engine: weights arrive, features are equal, runs train, resume and evaluate."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import CONFIGS, NARROW, tiny_recipe
from helpers.finetuning import different, final_model

from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.transfer.build import TransferJob, Trunk, choose_engine
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.metrics import evaluate
from ssl_loc.transfer.recipe import architecture, load_recipe
from ssl_loc.transfer.run import random_trunk
from ssl_loc.utils.errors import ConfigError, DataError, EngineUnavailableError, UserError, WeightsError
from ssl_loc.utils.events import read_metrics

HERE, WHY = Detectron2Engine().available()
needs_detectron2 = pytest.mark.skipif(not HERE, reason=WHY)
pytestmark = pytest.mark.detectron2

FULL = {"C4": "Base-RCNN-C4.yaml", "FPN": "Base-RCNN-FPN.yaml"}


def test_absence_is_one_helpful_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    usable, reason = Detectron2Engine().available()
    assert not usable and "--no-build-isolation" in reason and "--engine torchvision" in reason
    with pytest.raises(EngineUnavailableError, match="detectron2 is not installed"):
        choose_engine("detectron2")


def trunk_of(kwargs, seed=0):
    """A trunk with statistics as after training, and the module it came from."""
    torch.manual_seed(seed)
    module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
    for name, value in module.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) * 0.2 + (0.9 if name.endswith("var") else -0.1))
    state = module.state_dict()
    return module.eval(), Trunk(state, {"backbone": module.describe()}, "test", "digest of the test")


def detector_with(kind, trunk, tmp_path, *overrides):
    from ssl_loc.transfer.detectron2_engine.engine import make_config
    from ssl_loc.transfer.detectron2_engine.model import build_detector, load_into

    depth = str(trunk.meta["backbone"]["kwargs"]["depth"])
    recipe = load_recipe(CONFIGS / FULL[kind], ["MODEL.RESNETS.DEPTH", depth, *overrides])
    cfg = make_config(TransferJob(recipe, tmp_path, trunk=trunk), recipe, trunk.meta["backbone"])
    model = build_detector(cfg, 0)
    load_into(model, trunk, architecture(recipe))
    return model.eval()


SHAPES = {
    "R18": {"depth": 18},
    "R50": {"depth": 50},
    "R50 narrow": {"depth": 50, "width": 16},
    "basic narrow": NARROW,
    "small stem": {"depth": 18, "width": 16, "stem": "small"},
    "short bottlenecks": {"depth": 50, "width": 8, "layers": [1, 2, 1, 1]},
}


@needs_detectron2
@pytest.mark.parametrize("kind", ["C4", "FPN"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_features_are_the_trunks(kind, shape, tmp_path):
    """detectron2's modules give what our trunk gives on the same image, for every level."""
    if kind == "FPN" and shape == "small stem":
        levels = ["MODEL.RPN.IN_FEATURES", "['p1','p2','p3','p4','p5']"]
        levels += ["MODEL.ROI_HEADS.IN_FEATURES", "['p1','p2','p3','p4']"]
    else:
        levels = []
    module, trunk = trunk_of(SHAPES[shape])
    model = detector_with(kind, trunk, tmp_path, *levels)
    picture = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    batch = model.preprocess_image([{"image": picture}])
    if kind == "C4":
        found = model.backbone(batch.tensor)
        res5 = found["res4"]
        for name, layer in model.roi_heads.res5.named_children():
            res5 = res5 if name == "norm" else layer(res5)
        found = {**found, "res5": res5}
        assert model.backbone.output_shape()["res4"].stride == module.strides["res4"]
    else:
        found = model.backbone.bottom_up(batch.tensor)
        assert list(found) == ["res2", "res3", "res4", "res5"]
        first = next(iter(model.backbone.output_shape().values()))
        assert first.stride == module.strides["res2"]
        # The whole pyramid runs, its top level included.
        assert list(model.backbone(batch.tensor)) == list(model.backbone.output_shape())
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = module(((picture - mean[:, None, None]) / std[:, None, None])[None])
    for level, value in found.items():
        assert (value - expected[level]).norm() / expected[level].norm() < 1e-4, level


@needs_detectron2
def test_extra_norm_follows_res5(tmp_path):
    for depth, blocks in ((18, 2), (50, 3)):
        model = detector_with("C4", trunk_of({"depth": depth})[1], tmp_path)
        assert [name for name, _ in model.roi_heads.res5.named_children()] == [*map(str, range(blocks)), "norm"]
        assert model.roi_heads.res5.norm.num_features == model.roi_heads.box_predictor.cls_score.in_features
    # The stock head, asked for by name, has none; with basic blocks too.
    plain = detector_with("C4", trunk_of({"depth": 18})[1], tmp_path, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    assert [name for name, _ in plain.roi_heads.res5.named_children()] == ["0", "1"]


@needs_detectron2
def test_levels_that_a_trunk_lacks_are_named(tmp_path):
    _, trunk = trunk_of({"depth": 18, "width": 8, "stem": "small"})
    with pytest.raises(ConfigError, match="MODEL.RPN.IN_FEATURES names p6, but .* the maps are p1, p2, p3, p4, p5"):
        detector_with("FPN", trunk, tmp_path)
    trunk.meta["backbone"] = {"name": "VGG", "kwargs": {"depth": 18}}
    with pytest.raises(WeightsError, match="builds ResNet trunks only.*--engine torchvision"):
        detector_with("C4", trunk, tmp_path)


@needs_detectron2
def test_weights_of_another_shape_are_refused(tmp_path):
    _, trunk = trunk_of({"depth": 18})
    trunk.state["layer4.0.conv1.weight"] = torch.zeros(1, 256, 3, 3)
    with pytest.raises(WeightsError, match=r"layer4.0.conv1.weight is \(1, 256, 3, 3\)"):
        detector_with("C4", trunk, tmp_path)
    _, trunk = trunk_of({"depth": 18})
    del trunk.state["layer3.1.bn2.running_var"]
    with pytest.raises(WeightsError, match="res4.1.conv2.norm.running_var of the model got no weights"):
        detector_with("FPN", trunk, tmp_path)


@needs_detectron2
def test_host_adaptation_names_each_change():
    from ssl_loc.transfer.detectron2_engine.config import NORM_KEYS, adapt_cfg_to_host, to_detectron2

    keys = [item for key in NORM_KEYS for item in (key, "SyncBN")]
    recipe = load_recipe(CONFIGS / FULL["FPN"], [*keys, "SOLVER.AMP.ENABLED", "True"])
    for processes, kind in ((1, "BN"), (2, "naiveSyncBN")):
        cfg = to_detectron2(recipe)
        changes = adapt_cfg_to_host(cfg, processes, cuda=False)
        assert (cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED) == ("cpu", False)
        assert {cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.ROI_MASK_HEAD.NORM} == {kind}
        assert len(changes) == 2 + len(NORM_KEYS) and f"MODEL.FPN.NORM: 'SyncBN' -> '{kind}'" in changes
    cfg = to_detectron2(recipe)
    assert adapt_cfg_to_host(cfg, 8, cuda=True) == [] and cfg.MODEL.FPN.NORM == "SyncBN"


@needs_detectron2
def test_config_has_the_recipe_and_none_of_our_keys():
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2

    cfg = to_detectron2(load_recipe(CONFIGS / FULL["C4"]))
    assert "TRANSFER" not in cfg and cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.BACKBONE.FREEZE_AT == 0 and cfg.TEST.PRECISE_BN.NUM_ITER == 200
    with pytest.raises(ConfigError, match="does not run MODEL.KEYPOINT_ON True"):
        to_detectron2(load_recipe(CONFIGS / FULL["C4"], ["MODEL.KEYPOINT_ON", "True"]))


def run(recipe, **job):
    from ssl_loc.transfer.detectron2_engine.engine import run_job

    if "detector" not in job:
        job["trunk"] = random_trunk(recipe)
    return run_job(TransferJob(recipe, Path(recipe.OUTPUT_DIR), **job))


@needs_detectron2
@pytest.mark.parametrize("kind", ["C4", "FPN", "mask"])
def test_three_iterations_and_evaluation(kind, names, tmp_path):
    from ssl_loc.transfer.datasets import get_detection_dataset

    # Every detection counts here, however unsure.
    recipe = tiny_recipe(kind, names, tmp_path, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.EVAL_PERIOD", 2)
    ((name, predictions),) = run(recipe).items()
    dataset = get_detection_dataset(name)
    assert [p.image_id for p in predictions] == [row["image_id"] for row in dataset.dicts]
    assert sum(map(len, predictions)) > 0 and all((p.masks is None) == (kind != "mask") for p in predictions)
    metrics = evaluate(dataset, predictions, kind == "mask").metrics
    assert 0 <= metrics["bbox/AP"] <= metrics["bbox/AP50"] <= 100 and ("segm/AP" in metrics) == (kind == "mask")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3] and all(math.isfinite(row["total_loss"]) for row in rows)
    assert "bbox/AP50" in rows[1] and "bbox/AP50" not in rows[0]
    # Warm-up from a thousandth, then one decay.
    assert [row["lr"] for row in rows] == pytest.approx([1e-5, 1e-2, 1e-3])
    stored = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert stored["iteration"] == 2 and stored["about"]["backbone"]["kwargs"]["width"] == 8
    assert "TRANSFER" not in (tmp_path / "detectron2_config_adapted.yaml").read_text()
    # The same process can run it again, and evaluation alone gives the same detections.
    again = run(tiny_recipe(kind, names, tmp_path / "eval"), detector=tmp_path / "model_final.pth")[name]
    kept = [p.scores[p.scores > recipe.MODEL.ROI_HEADS.SCORE_THRESH_TEST] for p in predictions]
    for before, after in zip(kept, again, strict=True):
        assert torch.allclose(torch.tensor(before[: len(after)]), torch.tensor(after.scores), atol=1e-6)


@needs_detectron2
def test_a_file_that_is_no_detectron2_detector_is_named(names, tmp_path):
    def refused(content, words, resume=False):
        path = tmp_path / "given.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(WeightsError, match=words):
            run(recipe, resume=True) if resume else run(recipe, detector=path)

    recipe = tiny_recipe("C4", names, tmp_path)
    trunk = random_trunk(recipe)
    content = {"format": "ssl_loc.backbone", "version": 1, "model": trunk.state, "meta": trunk.meta}
    refused(
        content, "given.pth is a backbone exported by .*; expected a detector .the model_final.*; leave out --eval-only"
    )
    content = {"format": "ssl_loc.detector", "version": 1, "engine": "torchvision", "model": {"rpn.x": torch.zeros(1)}}
    words = "given.pth is a detector .* on the torchvision engine, and a run is continued .*; give --engine torchvision"
    (tmp_path / "last_checkpoint").write_text("given.pth")
    refused(content, words, resume=True)
    refused(b"junk\n", "given.pth is not a torch file", resume=True)
    refused(b"junk\n", "given.pth is not a torch file")
    refused({"model": trunk.state}, "a foreign file whose 'model' is a plain ResNet state dict")


@needs_detectron2
def test_resume_gives_the_same_bits(names, tmp_path):
    # With an evaluation in between, which takes batches for its own statistics.
    straight, broken = (
        tiny_recipe("C4", names, tmp_path / name, "TEST.EVAL_PERIOD", 2) for name in ("straight", "broken")
    )
    run(straight)
    (tmp_path / "broken").mkdir()
    shutil.copy(tmp_path / "straight/model_0000001.pth", tmp_path / "broken")
    (tmp_path / "broken/last_checkpoint").write_text("model_0000001.pth")
    run(broken, resume=True)
    a, b = (torch.load(tmp_path / f"{n}/model_final.pth", weights_only=True) for n in ("straight", "broken"))
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    # Only the missing iteration was trained.
    rows = read_metrics(tmp_path / "broken")
    assert [row["iteration"] for row in rows if "total_loss" in row] == [3]
    # The checkpoint is written before the evaluation of its iteration, which is therefore made (again).
    assert [row["iteration"] for row in rows if "bbox/AP50" in row] == [2]
    run(broken, resume=True)  # nothing left: only predictions
    other = tiny_recipe("C4", names, tmp_path / "broken", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    with pytest.raises(WeightsError, match="roi_heads.res5.norm"):
        run(other, resume=True)


@needs_detectron2
def test_divergence_names_iteration_and_files(names, tmp_path):
    recipe = tiny_recipe(
        "C4", names, tmp_path, "SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", 6, "SOLVER.WARMUP_ITERS", 0
    )
    with pytest.raises(
        UserError, match=r"diverged at iteration \d+ \(lr 1e\+30, batch: .*train_00\d.jpg.*SOLVER.BASE_LR"
    ):
        run(recipe)


@needs_detectron2
@pytest.mark.parametrize(("split", "workers"), [("train", 0), ("train", 1), ("test", 1)])
def test_broken_image_is_named(split, workers, tmp_path):
    names = draw_detection_data(tmp_path / "data")
    for path in (tmp_path / "data/VOCdevkit/VOC2007/JPEGImages").glob(f"{split}_*.jpg"):
        path.write_bytes(b"no picture")
    recipe = tiny_recipe(
        "C4", names, tmp_path / "out", "DATALOADER.NUM_WORKERS", workers, "SOLVER.CHECKPOINT_PERIOD", 0
    )
    with pytest.raises(DataError, match=f"^image .*{split}_00.*cannot be used: cannot identify image file"):
        run(recipe)


@needs_detectron2
def test_run_length_masks_need_bitmask_format(tmp_path):
    names = draw_detection_data(tmp_path / "data")
    path = tmp_path / "data/coco/annotations/instances_train.json"
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        annotation["segmentation"] = {"size": [height, width], "counts": [0, 100, height * width - 100]}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="set INPUT.MASK_FORMAT bitmask"):
        run(tiny_recipe("mask", names, tmp_path / "out"))


@needs_detectron2
def test_pictures_of_training_go_to_tensorboard_and_change_nothing(names, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for period in (0, 2):
        run(tiny_recipe("FPN", names, tmp_path / str(period), "VIS_PERIOD", period))
    shown = EventAccumulator(str(tmp_path / "2")).Reload()
    # detectron2 draws where the iteration, counted from 0, is a multiple of the period.
    assert {image.step for tag in shown.Tags()["images"] for image in shown.Images(tag)} == {1, 3}
    assert "Left: GT bounding boxes;  Right: Predicted proposals" in shown.Tags()["images"]
    assert not EventAccumulator(str(tmp_path / "0")).Reload().Tags()["images"]
    assert not different(final_model(tmp_path / "0"), final_model(tmp_path / "2"))
