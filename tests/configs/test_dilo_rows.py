"""DiLo's rows differ from its base method in what the paper says, and in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.config_differences import differences

from ssl_loc.components import setup_cfg
from ssl_loc.config import CfgNode
from ssl_loc.losses import build_losses
from ssl_loc.utils.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PASTE = "AUGMENT.COPY_PASTE."
MASKS = {"DATA.MASKS.SOURCE", "DATA.MASKS.ROOT", "DATA.MASKS.EMPTY"}


def _cfg(name: str) -> CfgNode:
    return setup_cfg(str(CONFIGS / "dilo" / f"{name}.yaml"))


def _changes(name: str) -> dict[str, Any]:
    return differences("dilo/dilo_rbd_R50.yaml", f"dilo/{name}.yaml")


def test_the_method_is_the_papers() -> None:
    cfg = _cfg("dilo_rbd_R50")
    node, solver, paste = cfg.MODEL.INSTDISC, cfg.SOLVER, cfg.AUGMENT.COPY_PASTE
    assert (cfg.MODEL.METHOD, node.T, node.DIM, node.K, node.M) == ("InstDisc", 0.07, 128, 4096, 0.5)
    assert build_losses(cfg).weights == {"InfoNCE": 1.0}
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == (256, 0.03, 0.9, 1e-4)
    assert solver.SCHEDULE == "step" and [solver.EPOCHS * step for step in solver.STEPS] == [120, 160]
    assert (paste.PROB, paste.BACKGROUND, paste.BLEND, paste.MASK_MODE) == (0.5, "gray", "none", "soft")


def test_copy_paste_is_all_that_dilo_adds() -> None:
    changes = differences("dilo/instdisc_R50.yaml", "dilo/dilo_rbd_R50.yaml")
    assert set(changes) <= {"AUGMENT.VIEWS"} | MASKS
    base = _cfg("instdisc_R50").AUGMENT.VIEWS
    assert changes["AUGMENT.VIEWS"] == [["CopyPaste", *view] for view in base]


def test_table_1_adds_one_augmentation_per_row() -> None:
    names = ("augment_center", "augment_flip", "augment_spatial", "augment_scale", "augment_jitter", "instdisc")
    steps = []
    for name in names:
        changed = differences("dilo/instdisc_R50.yaml", f"dilo/{name}_R50.yaml")
        assert set(changed) <= {"AUGMENT.VIEWS"}
        (view,) = _cfg(f"{name}_R50").AUGMENT.VIEWS
        steps.append({step if isinstance(step, str) else next(iter(step)) for step in view})
    crops = [next(name for name in row if "Crop" in name) for row in steps]
    assert crops == ["CenterCrop", "CenterCrop", "RandomCrop"] + ["RandomResizedCrop"] * 3
    others = [row - {crop} for row, crop in zip(steps, crops, strict=True)]
    assert others == [set()] + [{"RandomFlip"}] * 3 + [
        {"RandomFlip", "ColorJitter"},
        {"RandomFlip", "ColorJitter", "RandomGrayscale"},
    ]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dilo_gs_R50", {"DATA.MASKS.ROOT": "./datasets/imagenet/saliency/gs"}),
        ("dilo_mc_R50", {"DATA.MASKS.ROOT": "./datasets/imagenet/saliency/mc"}),
        ("dilo_basnet_R50", {"DATA.MASKS.ROOT": "./datasets/imagenet/saliency/basnet"}),
        ("dilo_p20_R50", {PASTE + "PROB": 0.2}),
        ("dilo_p80_R50", {PASTE + "PROB": 0.8}),
        ("dilo_p100_R50", {PASTE + "PROB": 1.0}),
        ("dilo_texture_R50", {PASTE + "BACKGROUND": "texture"}),
        ("dilo_windows_R50", {PASTE + "BACKGROUND": "windows:./datasets/imagenet/windows.json"}),
        ("dilo_gauss_R50", {PASTE + "BLEND": "gauss"}),
        ("dilo_mix_R50", {PASTE + "BLEND": "mix"}),
        ("dilo_rbd_R18", {"MODEL.RESNET.DEPTH": 18}),
        ("dilo_rbd_alexnet", {"MODEL.BACKBONE.NAME": "AlexNetBN"}),
        ("dilo_rbd_vgg16", {"MODEL.BACKBONE.NAME": "VGG16BN"}),
        ("dilo_k65536_R50", {"MODEL.INSTDISC.K": 65536}),
        ("dilo_k65536_R50w2", {"MODEL.INSTDISC.K": 65536, "MODEL.RESNET.WIDTH": 128}),
    ],
)
def test_tables_2_to_4_change_one_thing(name: str, changes: dict) -> None:
    assert _changes(name) == changes


@pytest.mark.parametrize("arch", ["R18", "alexnet", "vgg16"])
def test_table_3_pairs(arch: str) -> None:
    """The three columns of an architecture differ as those of ResNet-50 do."""
    for name in ("instdisc", "dilo_basnet"):
        ours = differences(f"dilo/dilo_rbd_{arch}.yaml", f"dilo/{name}_{arch}.yaml")
        assert ours == differences("dilo/dilo_rbd_R50.yaml", f"dilo/{name}_R50.yaml")


def test_feature_masking_is_no_augmentation() -> None:
    changes = differences("dilo/instdisc_R50.yaml", "dilo/feature_mask_R50.yaml")
    assert set(changes) <= {"MODEL.FEATURE_MASK_POOL"} | MASKS and changes["MODEL.FEATURE_MASK_POOL"] is True


def test_feature_masking_needs_masks() -> None:
    from ssl_loc.modeling import build_method

    cfg = setup_cfg(str(CONFIGS / "dilo" / "instdisc_R50.yaml"), ["MODEL.FEATURE_MASK_POOL", "True"])
    with pytest.raises(ConfigError, match="MODEL.FEATURE_MASK_POOL needs saliency masks"):
        build_method(cfg)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_official_loader(version: str) -> None:
    """The presets are MoCo's own recipe plus the loader's paste."""
    changes = differences(f"baselines/moco_{version}_R50.yaml", f"dilo/dilo_official_moco_{version}_R50.yaml")
    loader = {PASTE + "PROB": 0.3, PASTE + "BLEND": "mix"}
    assert {key: value for key, value in changes.items() if key.startswith(PASTE)} == loader
    base = setup_cfg(str(CONFIGS / f"baselines/moco_{version}_R50.yaml"))
    assert changes.pop("AUGMENT.VIEWS") == [["CopyPaste", *view] for view in base.AUGMENT.VIEWS]
    assert set(changes) <= set(loader) | MASKS | {"SOLVER.LR_UPDATE", "SOLVER.STEPS"} | {
        key for key in changes if key.startswith("MODEL.INSTDISC.")
    }
