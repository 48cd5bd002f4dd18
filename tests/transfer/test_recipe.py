"""Detection recipes: strict keys in detectron2's names, nothing changes meaning silently."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ssl_loc.transfer.build import DETECTION_ENGINE_REGISTRY, choose_engine, load_engines
from ssl_loc.transfer.recipe import (
    architecture,
    dataset_names,
    default_recipe,
    detectron2_values,
    load_recipe,
    non_default_keys,
    require_honoured,
)
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS
from ssl_loc.transfer.trunk_check import check_trunk
from ssl_loc.utils.errors import ConfigError, EngineUnavailableError

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
RECIPES = sorted(CONFIGS.rglob("*.yaml"))
META = {
    "backbone": {"name": "ResNet", "kwargs": {"depth": 50}},
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "channel_order": "RGB",
    "stride_in_1x1": False,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_read_back_from_its_own_dump(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    again = load_recipe(write(tmp_path / "dump.yaml", recipe.dump_yaml()))
    assert again.to_dict() == recipe.to_dict()
    assert architecture(recipe) in ("C4", "FPN")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_runs_on_the_torchvision_engine_and_suits_a_trunk(path: Path) -> None:
    from ssl_loc.transfer.torchvision_engine.honoured import check_recipe

    recipe = load_recipe(path)
    check_recipe(recipe)
    check_trunk(recipe, {**META, "backbone": {"kwargs": {"depth": recipe.MODEL.RESNETS.DEPTH}}})


def test_the_keys_of_section_2_5_are_set() -> None:
    c4, fpn = (load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml") for arch in ("C4", "FPN"))
    for recipe in (c4, fpn):
        assert recipe.INPUT.FORMAT == "RGB"
        assert recipe.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
        assert recipe.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
        assert (recipe.MODEL.RESNETS.STRIDE_IN_1X1, recipe.MODEL.RESNETS.NORM) == (False, "SyncBN")
        assert recipe.MODEL.BACKBONE.FREEZE_AT == 0
        assert recipe.TEST.PRECISE_BN == {"ENABLED": True, "NUM_ITER": 200}
    assert c4.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    assert (c4.MODEL.RPN.PRE_NMS_TOPK_TEST, c4.MODEL.RPN.POST_NMS_TOPK_TEST) == (6000, 1000)
    assert fpn.MODEL.FPN.NORM == "SyncBN"
    assert fpn.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]


def test_a_missing_key_has_detectron2s_default() -> None:
    recipe = default_recipe()
    assert recipe.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert recipe.INPUT.FORMAT == "BGR"
    assert recipe.SOLVER.STEPS == (30000,)
    assert non_default_keys(recipe) == {}


@pytest.mark.detectron2
def test_the_table_of_defaults_is_detectron2s() -> None:
    config = pytest.importorskip("detectron2.config")

    def flat(node, above=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from flat(value, f"{above}{key}.")
            else:
                yield above + key, value

    assert dict(flat(config.get_cfg())) == DETECTRON2_DEFAULTS


def test_values_come_as_detectron2_users_write_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.yaml",
        'VERSION: 2\nINPUT: {MIN_SIZE_TRAIN: "(480, 512)"}\nSOLVER: {BASE_LR: 2e-2, STEPS: [5, 6]}\n'
        "DATASETS: {TRAIN: voc_2007_trainval}\n",
    )
    recipe = load_recipe(path, ["SOLVER.WEIGHT_DECAY", "1e-3", "MODEL.MASK_ON", "true", "DATASETS.TEST", "a_set"])
    assert recipe.INPUT.MIN_SIZE_TRAIN == (480, 512)
    assert (recipe.SOLVER.BASE_LR, recipe.SOLVER.STEPS, recipe.SOLVER.WEIGHT_DECAY) == (0.02, (5, 6), 0.001)
    assert recipe.MODEL.MASK_ON is True
    assert dataset_names(recipe.DATASETS.TRAIN) == ["voc_2007_trainval"]
    assert dataset_names(recipe.DATASETS.TEST) == ["a_set"]


def test_our_own_keys_never_reach_detectron2(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "VERSION: 2\nTRANSFER: {ENGINE: torchvision, BACKBONE: {KWARGS: {depth: 18}}}\n")
    recipe = load_recipe(path, ["TRANSFER.BACKBONE.KWARGS.width", "16"])
    assert recipe.TRANSFER.BACKBONE.KWARGS == {"depth": 18, "width": 16}
    assert set(detectron2_values(recipe)) == set(DETECTRON2_DEFAULTS)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("VERSION: 2\nSOLVER: {BASE_LRR: 1.0}\n", [], ["SOLVER.BASE_LRR", "did you mean SOLVER.BASE_LR"]),
        ("VERSION: 2\nMODEL: {RESNETS: {NORMS: BN}}\n", [], ["MODEL.RESNETS.NORMS", "MODEL.RESNETS.NORM"]),
        ("VERSION: 2\n", ["SOLVER.BASE_LR", "fast"], ["SOLVER.BASE_LR", "'fast'", "float"]),
        ("VERSION: 2\n", ["SOLVER.BASE_LR"], ["odd number", "KEY VALUE"]),
        ("VERSION: 2\n", ["SOLVER", "3"], ["SOLVER in the command line is a group of keys"]),
        ("VERSION: 2\nSOLVER: {MAX_ITER: 0}\n", [], ["SOLVER.MAX_ITER is 0"]),
        ("SOLVER: {MAX_ITER: 5}\n", [], ["VERSION", "expected 2"]),
        ("VERSION: 2\nINPUT: {FORMAT: GBR}\n", [], ["INPUT.FORMAT", "RGB or BGR"]),
        ("VERSION: 2\nMODEL: {BACKBONE: {NAME: vit}}\n", [], ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"]),
    ],
)
def test_a_wrong_recipe_ends_in_one_sentence(tmp_path: Path, text: str, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(write(tmp_path / "r.yaml", text), overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_non_default_keys_that_an_engine_ignores_are_refused_by_name() -> None:
    recipe = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"])
    with pytest.raises(ConfigError, match="MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True.*detectron2"):
        require_honoured(recipe, set(DETECTRON2_DEFAULTS) - {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"}, "other")
    # A default value of an ignored key changes nothing and is fine.
    require_honoured(default_recipe(), set(), "other")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.KEYPOINT_ON", "True"),
        ("MODEL.RPN.BOUNDARY_THRESH", "0"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"),
        ("MODEL.RESNETS.RES5_DILATION", "2"),
        ("MODEL.RESNETS.NUM_GROUPS", "32"),
        ("MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"),
        ("MODEL.LOAD_PROPOSALS", "True"),
        ("INPUT.CROP.ENABLED", "True"),
        ("TEST.AUG.ENABLED", "True"),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.RPN.IN_FEATURES", "['res3']"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"),
    ],
)
def test_the_torchvision_engine_names_what_it_cannot_do(key: str, value: str) -> None:
    from ssl_loc.transfer.torchvision_engine.honoured import check_recipe

    with pytest.raises(ConfigError, match=key):
        check_recipe(load_recipe(CONFIGS / "Base-RCNN-C4.yaml", [key, value]))


@pytest.mark.parametrize("name", ["AlexNetBN", "VGG16BN", "TimmBackbone"])
def test_detectors_take_resnets_only(name: str) -> None:
    """Also where other contradictions are allowed."""
    recipe = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", ["TRANSFER.ALLOW_NONSTANDARD", "True"])
    with pytest.raises(
        ConfigError, match=f"the weights hold the trunk {name}, but the detectors .* ResNets.*knn, linear"
    ):
        check_trunk(recipe, {**META, "backbone": {"name": name, "kwargs": {}}})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True", "STRIDE_IN_1X1 is True"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is 'BGR'"),
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "PIXEL_MEAN .* other channel order"),
        ("MODEL.PIXEL_MEAN", "[0.485, 0.456, 0.406]", "PIXEL_MEAN .* 0-1 scale"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", "PIXEL_STD is .1.0, 1.0, 1.0."),
        ("MODEL.PIXEL_STD", "[0.229, 0.224, 0.225]", "PIXEL_STD"),
        ("MODEL.RESNETS.NORM", "GN", "RESNETS.NORM is 'GN'"),
        ("MODEL.RESNETS.NORM", "LN", "RESNETS.NORM is 'LN'"),
        ("MODEL.RESNETS.NORM", "''", "RESNETS.NORM is ''"),
        ("MODEL.RESNETS.DEPTH", "101", "DEPTH is 101 .* ResNet-50"),
        ("MODEL.BACKBONE.FREEZE_AT", "2", "FREEZE_AT is 2"),
    ],
)
def test_each_silent_mistake_is_refused_and_can_be_allowed(key: str, value: str, words: str) -> None:
    """One row each of the settings that detectron2 takes without a word and that ruin the features."""
    recipe = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", [key, value])
    with pytest.raises(ConfigError, match=words):
        check_trunk(recipe, META)
    allowed = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", [key, value, "TRANSFER.ALLOW_NONSTANDARD", "True"])
    check_trunk(allowed, META)


@pytest.mark.parametrize(
    ("recipe", "kwargs", "words"),
    [
        (
            "quick/voc_R18_C4.yaml",
            {"depth": 50, "width": 64, "layers": [], "block": "", "stem": "imagenet"},
            "MODEL.RESNETS.DEPTH is 18 and MODEL.RESNETS.RES2_OUT_CHANNELS is 64 but the weights hold a ResNet-50 "
            "(RES2_OUT_CHANNELS 256, STEM_OUT_CHANNELS 64): add MODEL.RESNETS.DEPTH 50 "
            "MODEL.RESNETS.RES2_OUT_CHANNELS 256 to the command",
        ),
        (
            "quick/voc_R18_C4.yaml",
            {"depth": 18, "width": 16},
            "MODEL.RESNETS.RES2_OUT_CHANNELS is 64 but the weights hold a ResNet-18 "
            "(RES2_OUT_CHANNELS 16, STEM_OUT_CHANNELS 16): add MODEL.RESNETS.RES2_OUT_CHANNELS 16 to the command",
        ),
        # 256 is detectron2's default, which both engines replace by the trunk's own width.
        (
            "Base-RCNN-C4.yaml",
            {"depth": 18},
            "MODEL.RESNETS.DEPTH is 50 but the weights hold a ResNet-18 (RES2_OUT_CHANNELS 64, STEM_OUT_CHANNELS 64): "
            "add MODEL.RESNETS.DEPTH 18 to the command",
        ),
    ],
)
def test_sizes_of_another_trunk_are_named_at_once_with_the_words_that_correct_them(
    recipe: str, kwargs: dict, words: str
) -> None:
    meta = {**META, "backbone": {"name": "ResNet", "kwargs": kwargs}}
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_trunk(load_recipe(CONFIGS / recipe), meta)
    added = words.partition(": add ")[2].removesuffix(" to the command").split()
    check_trunk(load_recipe(CONFIGS / recipe, added), meta)


def test_the_quick_recipe_for_a_resnet_50_suits_one() -> None:
    recipe = load_recipe(CONFIGS / "quick/voc_R50_C4.yaml")
    check_trunk(recipe, {**META, "backbone": {"name": "ResNet", "kwargs": {"depth": 50, "width": 64}}})
    small = load_recipe(CONFIGS / "quick/voc_R18_C4.yaml")
    differing = {key for key, value in recipe.flat().items() if small.flat()[key] != value}
    assert differing == {"MODEL.RESNETS.DEPTH", "MODEL.RESNETS.RES2_OUT_CHANNELS", "OUTPUT_DIR"}


def test_swapped_channels_and_means_are_refused_too() -> None:
    keys = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]"]
    with pytest.raises(ConfigError, match="INPUT.FORMAT"):
        check_trunk(load_recipe(CONFIGS / "Base-RCNN-C4.yaml", keys), META)


def test_frozen_bn_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_trunk(load_recipe(CONFIGS / "Base-RCNN-C4.yaml", ["MODEL.RESNETS.NORM", "FrozenBN"]), META)
    assert "diverges" in caplog.text


def test_reference_world_size_rescales_batch_rate_and_lengths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    keys = ["SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.MAX_ITER", "24000", "SOLVER.STEPS", "(18000, 22000)"]
    recipe = scale_to_processes(load_recipe(CONFIGS / "Base-RCNN-C4.yaml", keys), 2)
    assert (recipe.SOLVER.IMS_PER_BATCH, recipe.SOLVER.BASE_LR) == (4, 0.005)
    assert (recipe.SOLVER.MAX_ITER, recipe.SOLVER.STEPS) == (96000, (72000, 88000))
    assert recipe.SOLVER.WARMUP_ITERS == 400
    assert scale_to_processes(recipe, 2) is recipe
    assert "IMS_PER_BATCH 16 -> 4, BASE_LR 0.02 -> 0.005, MAX_ITER 24000 -> 96000" in caplog.text
    assert "batch norm sees at most 4 images per step instead of 16" in caplog.text


def test_a_batch_that_the_reference_cannot_share_is_refused() -> None:
    recipe = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", ["SOLVER.REFERENCE_WORLD_SIZE", "3"])
    with pytest.raises(
        ConfigError, match="SOLVER.REFERENCE_WORLD_SIZE is 3, which does not divide SOLVER.IMS_PER_BATCH 16"
    ):
        scale_to_processes(recipe, 1)


class _Fake:
    name = "fake"
    usable = True

    def available(self) -> tuple[bool, str]:
        return self.usable, "install it with --no-build-isolation"

    def version(self) -> str:
        return "1"


def test_auto_takes_detectron2_where_it_imports_and_says_why_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    load_engines()
    engines = dict(DETECTION_ENGINE_REGISTRY)
    monkeypatch.setattr(engines["detectron2"], "available", lambda self: (True, "it is here"))
    monkeypatch.setattr(engines["detectron2"], "version", lambda self: "0.6")
    assert choose_engine("auto").name == "detectron2"
    monkeypatch.setattr(engines["detectron2"], "available", lambda self: (False, "it is not here"))
    assert choose_engine("auto").name == "torchvision"
    assert "it is not here" in caplog.text
    with pytest.raises(EngineUnavailableError, match="detectron2 engine cannot run here: it is not here"):
        choose_engine("detectron2")
    with pytest.raises(ConfigError, match="'mmdet' is unknown; expected one of auto, detectron2, torchvision"):
        choose_engine("mmdet")
