"""Every key of a recipe has its place: a detector's tensors show it, it changes what they compute, or neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe

from ssl_loc.checkpoint.files import write_torch_file
from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.detector_check import FUNCTION_KEYS, check_detector
from ssl_loc.transfer.detector_convert import convert_detector
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import ALL_DEFAULTS, Recipe, edited
from ssl_loc.transfer.run import random_trunk, run_transfer
from ssl_loc.transfer.torchvision_engine.honoured import HONOURED, detector_problems
from ssl_loc.utils.errors import ConfigError, WeightsError

HERE, WHY = Detectron2Engine().available()
needs_detectron2 = pytest.mark.skipif(not HERE, reason=WHY)


def under(prefix: str, names: str) -> set[str]:
    return {f"{prefix}.{name}" for name in names.split()}


# Names or shapes of tensors show another value.
TENSORS = {
    *("MODEL.MASK_ON", "MODEL.BACKBONE.NAME", "MODEL.FPN.OUT_CHANNELS", "MODEL.RPN.CONV_DIMS"),
    *under("MODEL.RESNETS", "DEPTH NUM_GROUPS WIDTH_PER_GROUP RES2_OUT_CHANNELS STEM_OUT_CHANNELS DEFORM_ON_PER_STAGE"),
    *under("MODEL.ROI_HEADS", "NAME NUM_CLASSES"),
    *under("MODEL.ROI_BOX_HEAD", "NUM_FC FC_DIM NUM_CONV CONV_DIM"),
    *under("MODEL.ROI_MASK_HEAD", "NUM_CONV CONV_DIM CLS_AGNOSTIC_MASK"),
    # The trunk of a finished detector is described by its file.
    *under("TRANSFER.BACKBONE", "NAME KWARGS"),
}
# One value is all that an engine here runs, with these heads.
FIXED = {
    *("VERSION", "MODEL.LOAD_PROPOSALS", "MODEL.KEYPOINT_ON", "MODEL.META_ARCHITECTURE", "MODEL.WEIGHTS"),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.RPN.HEAD_NAME", "MODEL.ROI_BOX_HEAD.NAME", "MODEL.ROI_MASK_HEAD.NAME"),
    *under("MODEL.ANCHOR_GENERATOR", "NAME ANGLES"),
    # RES5_DILATION is in no detector; of the trunk's maps the necks and heads say which they use.
    *under("MODEL.RESNETS", "RES5_DILATION OUT_FEATURES"),
    *("DATASETS.PROPOSAL_FILES_TEST", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "TEST.KEYPOINT_OKS_SIGMAS"),
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "GLOBAL.HACK"),
}
OTHER_DETECTORS = ("MODEL.ROI_BOX_CASCADE_HEAD.", "MODEL.ROI_KEYPOINT_HEAD.", "MODEL.SEM_SEG_HEAD.")
OTHER_DETECTORS += ("MODEL.PANOPTIC_FPN.", "MODEL.RETINANET.")
# The evaluation's own choice.
TEST_TIME = {
    *("MODEL.DEVICE", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    *under("MODEL.RPN", "PRE_NMS_TOPK_TEST POST_NMS_TOPK_TEST NMS_THRESH"),
    *under("MODEL.ROI_HEADS", "SCORE_THRESH_TEST NMS_THRESH_TEST"),
    *("DATASETS.TEST", "DATALOADER.NUM_WORKERS", "OUTPUT_DIR", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD"),
    *under("TEST", "EXPECTED_RESULTS EVAL_PERIOD DETECTIONS_PER_IMAGE"),
    *under("TEST.AUG", "ENABLED MIN_SIZES MAX_SIZE FLIP"),
    *under("TRANSFER", "ENGINE ALLOW_NONSTANDARD EVALUATOR LOG_PERIOD"),
}
# Decides how the tensors came about; a frozen batch norm evaluates like any other.
TRAINING = {
    *("SEED", "DATASETS.TRAIN", "MODEL.BACKBONE.FREEZE_AT"),
    *under("MODEL.RPN", "BOUNDARY_THRESH IOU_THRESHOLDS IOU_LABELS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION"),
    *under("MODEL.RPN", "BBOX_REG_LOSS_TYPE BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA LOSS_WEIGHT"),
    *under("MODEL.RPN", "PRE_NMS_TOPK_TRAIN POST_NMS_TOPK_TRAIN"),
    *under("MODEL.ROI_HEADS", "IOU_THRESHOLDS IOU_LABELS BATCH_SIZE_PER_IMAGE POSITIVE_FRACTION PROPOSAL_APPEND_GT"),
    *under("MODEL.ROI_BOX_HEAD", "BBOX_REG_LOSS_TYPE BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA TRAIN_ON_PRED_BOXES"),
    *under("MODEL.ROI_BOX_HEAD", "USE_FED_LOSS FED_LOSS_FREQ_WEIGHT_POWER FED_LOSS_NUM_CLASSES"),
    *under("INPUT", "MIN_SIZE_TRAIN MIN_SIZE_TRAIN_SAMPLING MAX_SIZE_TRAIN RANDOM_FLIP MASK_FORMAT"),
    *under("INPUT.CROP", "ENABLED TYPE SIZE"),
    *under("DATALOADER", "ASPECT_RATIO_GROUPING SAMPLER_TRAIN REPEAT_THRESHOLD REPEAT_SQRT FILTER_EMPTY_ANNOTATIONS"),
    *under("TEST.PRECISE_BN", "ENABLED NUM_ITER"),
}


def test_every_key_is_classified() -> None:
    """A key that joins the schema must be thought about, or evaluation may change its meaning without a word."""
    groups = [set(FUNCTION_KEYS), TENSORS, FIXED, TEST_TIME, TRAINING]
    groups.append({key for key in ALL_DEFAULTS if key.startswith(OTHER_DETECTORS)})
    groups.append({key for key in ALL_DEFAULTS if key.startswith("SOLVER.")})
    assert set().union(*groups) == ALL_DEFAULTS.keys()
    assert sum(map(len, groups)) == len(ALL_DEFAULTS)
    # Nothing that an engine runs is passed off as another detector's.
    assert not [key for key in HONOURED if key.startswith(OTHER_DETECTORS)]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return draw_detection_data(tmp_path_factory.mktemp("shapes"))


CONVOLUTIONS = ("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 32)
CONVOLUTIONS += ("MODEL.ROI_MASK_HEAD.CONV_DIM", 32)
# Key -> (value that the other key words below do not have, kind of recipe, further keys).
CHANGES: dict[str, tuple[Any, str, tuple[Any, ...]]] = {
    "INPUT.FORMAT": ("BGR", "C4", ()),
    "MODEL.PIXEL_MEAN": ([100.0, 110.0, 120.0], "C4", ()),
    "MODEL.PIXEL_STD": ([60.0, 60.0, 60.0], "C4", ()),
    "MODEL.RESNETS.STRIDE_IN_1X1": (True, "C4", ("MODEL.RESNETS.DEPTH", 50)),
    "MODEL.RESNETS.NORM": ("LN", "C4", ("MODEL.RESNETS.NORM", "GN")),
    "MODEL.FPN.NORM": ("LN", "mask", (*CONVOLUTIONS, "MODEL.FPN.NORM", "GN")),
    "MODEL.ROI_BOX_HEAD.NORM": ("LN", "mask", (*CONVOLUTIONS, "MODEL.ROI_BOX_HEAD.NORM", "GN")),
    "MODEL.ROI_MASK_HEAD.NORM": ("LN", "mask", (*CONVOLUTIONS, "MODEL.ROI_MASK_HEAD.NORM", "GN")),
    "MODEL.FPN.FUSE_TYPE": ("avg", "FPN", ()),
    "MODEL.ANCHOR_GENERATOR.SIZES": ([[24, 64, 128, 256]], "C4", ()),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ([[0.4, 1.0, 2.0]], "C4", ()),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.5, "C4", ()),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ((2.0, 2.0, 1.0, 1.0), "C4", ()),
    "MODEL.ROI_HEADS.IN_FEATURES": (["p3", "p4", "p5"], "FPN", ()),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ((5.0, 5.0, 2.0, 2.0), "C4", ()),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (True, "FPN", ()),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (8, "C4", ()),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlign", "FPN", ()),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (3, "FPN", ()),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": (8, "mask", ()),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlign", "mask", ()),
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": (3, "mask", ()),
}
# Seen in shapes in most recipes, but not in all: three groups unmodulated have as many channels as two modulated.
IN_SHAPES = {"MODEL.FPN.IN_FEATURES", "MODEL.RPN.IN_FEATURES", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"}
IN_SHAPES |= under("MODEL.RESNETS", "DEFORM_MODULATED DEFORM_NUM_GROUPS")


@pytest.mark.parametrize("key", CHANGES)
def test_another_function_is_refused(key: str, names: dict[str, str], tmp_path: Path) -> None:
    value, kind, more = CHANGES[key]
    trained = tiny_recipe(kind, names, tmp_path, *more)
    with pytest.raises(ConfigError, match=f"contradicts the detector: {key} is .* but a.pth says .*recipe.yaml"):
        check_detector(edited(trained, {key: value}), trained.flat(), "a.pth")
    check_detector(edited(trained, {key: value, "TRANSFER.ALLOW_NONSTANDARD": True}), trained.flat(), "a.pth")
    check_detector(trained, trained.flat(), "a.pth")


def test_the_table_above_has_all_keys() -> None:
    assert CHANGES.keys() | IN_SHAPES == set(FUNCTION_KEYS) and not CHANGES.keys() & IN_SHAPES


@pytest.mark.parametrize("kind", ["BN", "SyncBN", "naiveSyncBN", "naiveSyncBN_N", "nnSyncBN", "FrozenBN"])
def test_what_changes_nothing_passes(kind: str, names: dict[str, str], tmp_path: Path) -> None:
    """Batch norms of every kind, and keys beside which others have no effect."""
    for architecture in ("C4", "FPN", "mask"):
        trained = tiny_recipe(architecture, names, tmp_path)
        same: dict[str, Any] = {"MODEL.RESNETS.NORM": kind, "MODEL.RESNETS.STRIDE_IN_1X1": True}
        if architecture == "C4":
            same |= {"MODEL.FPN.NORM": "GN", "MODEL.ROI_BOX_HEAD.NORM": "LN"}
        else:
            trained, same["MODEL.FPN.NORM"] = edited(trained, {"MODEL.FPN.NORM": "BN"}), kind
        if architecture != "mask":
            same |= {"MODEL.ROI_MASK_HEAD.NORM": "GN", "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign"}
        check_detector(edited(trained, same), trained.flat(), "a.pth")


def test_what_torchvision_does_not_compute_is_not_converted(names: dict[str, str], tmp_path: Path) -> None:
    """A softmax over the tensors of a sigmoid head gives scores, only not the detector's."""
    run_transfer(tiny_recipe("FPN", names, tmp_path, "SOLVER.MAX_ITER", 1), "random", "torchvision")
    convert_detector(tmp_path / "model_final.pth", "detectron2", tmp_path / "d2.pth")
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    content["about"]["recipe"]["MODEL"]["ROI_BOX_HEAD"]["USE_SIGMOID_CE"] = True
    write_torch_file(tmp_path / "sigmoid.pth", content)
    words = "cannot be converted to torchvision: MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE is True; .*--engine detectron2"
    with pytest.raises(WeightsError, match=words):
        convert_detector(tmp_path / "sigmoid.pth", "torchvision", tmp_path / "back.pth")
    assert not (tmp_path / "back.pth").exists()
    convert_detector(tmp_path / "d2.pth", "torchvision", tmp_path / "back.pth")


def test_problems_of_finished_detectors() -> None:
    told = {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.STRIDE_IN_1X1": True, "MODEL.FPN.NORM": "LN"}
    assert [text.split(" ")[0] for text in detector_problems(told)] == list(told)[1:]
    assert not detector_problems({"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.STRIDE_IN_1X1": True})
    # Keys of training and testing do not matter any more.
    assert not detector_problems({"TEST.AUG.ENABLED": True, "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou"})


@needs_detectron2
@pytest.mark.detectron2
def test_a_sigmoid_head_is_not_evaluated_as_a_softmax(names: dict[str, str], tmp_path: Path) -> None:
    recipe = tiny_recipe("FPN", names, tmp_path, "SOLVER.MAX_ITER", 1)
    run_transfer(edited(recipe, {"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True}), "random", "detectron2")
    words = "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE is False but .*model_final.pth says True"
    with pytest.raises(ConfigError, match=words):
        run_transfer(edited(recipe, {"OUTPUT_DIR": str(tmp_path / "b")}), str(tmp_path / "model_final.pth"),
                     "torchvision", eval_only=True)  # fmt: skip


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("key", CHANGES)
def test_a_refused_key_does_change_what_equal_tensors_compute(key: str, names: dict[str, str], tmp_path: Path) -> None:
    """So that no refusal guards against nothing, in detectron2 itself."""
    value, kind, more = CHANGES[key]
    recipe = tiny_recipe(kind, names, tmp_path, *more, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    if key == "MODEL.RESNETS.NORM":
        trunk = {"depth": 18, "width": 32, "layers": [1, 1, 1, 1]}
        recipe = edited(recipe, {"TRANSFER.BACKBONE.KWARGS": trunk, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32})
    if "DEPTH" in str(more):
        trunk = {"depth": 50, "width": 8, "layers": []}
        recipe = edited(recipe, {"TRANSFER.BACKBONE.KWARGS": trunk, "MODEL.RESNETS.RES2_OUT_CHANNELS": 32})
    before, state = detections(recipe, tmp_path, None)
    after, _ = detections(edited(recipe, {key: value}), tmp_path, state)
    again, _ = detections(recipe, tmp_path, state)
    assert all(torch.equal(again[name], before[name]) for name in before)
    assert before["scores"].numel() > 0 and before.keys() == after.keys()
    assert any(before[name].shape != after[name].shape or not torch.equal(before[name], after[name]) for name in before)


def detections(recipe: Recipe, out: Path, state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """What detectron2's detector of a recipe finds in a drawn image, with ``state`` in it; and its state."""
    from ssl_loc.transfer.detectron2_engine.engine import make_config
    from ssl_loc.transfer.detectron2_engine.model import build_detector

    trunk = random_trunk(edited(recipe, {"MODEL.RESNETS.NORM": "BN"}))
    model = build_detector(make_config(TransferJob(recipe, out, trunk=trunk), recipe, trunk.meta["backbone"]), 0)
    model.eval()
    if state is None:
        generator = torch.Generator().manual_seed(0)
        state = {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            if "head" in name or "norm" in name or "predictor" in name
            else value
            for name, value in model.state_dict().items()
        }
        # Sixteen residual blocks would otherwise add up to numbers whose boxes are infinite.
        state = {name: 0.1 * value if name.endswith("conv3.norm.weight") else value for name, value in state.items()}
        state = {name: value.abs() if name.endswith("running_var") else value for name, value in state.items()}
    model.load_state_dict(state, strict=True)
    image = torch.randint(0, 256, (3, 64, 80), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image = image.flip(0) if recipe.INPUT.FORMAT == "BGR" else image
    with torch.no_grad():
        found = model.inference([{"image": image, "height": 64, "width": 80}], do_postprocess=False)[0].get_fields()
    return {
        "boxes": found["pred_boxes"].tensor,
        **{k: v for k, v in found.items() if k in ("scores", "pred_masks")},
    }, state
