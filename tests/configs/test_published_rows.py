"""The published rows differ in what the papers say they differ in, and in nothing else."""

from __future__ import annotations

import pytest
from helpers.config_differences import CONFIGS, differences

from ssl_loc.components import setup_cfg
from ssl_loc.losses import build_losses

MASKS = {"DATA.MASKS.SOURCE", "DATA.MASKS.ROOT"}


def test_table_1_adds_one_plug_at_a_time() -> None:
    crop = differences("cast/moco_coco_R50.yaml", "cast/crop_coco_R50.yaml")
    assert set(crop) == {"AUGMENT.VIEWS"} | MASKS
    for view in crop["AUGMENT.VIEWS"]:
        assert view[0] == "SaliencyConstrainedCrop"
        assert view[1:] == ["RandomGrayscale", {"ColorJitter": {"P": 1.0, "HUE": 0.4}}, "RandomFlip"]
    cast = differences("cast/crop_coco_R50.yaml", "cast/cast_coco_R50.yaml")
    assert cast == {"LOSS.NAMES": ["InfoNCE", "GradCAMAttention"]}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cast_phi0", {"AUGMENT.CONSTRAINED_CROP.PHI": 0.0}),
        ("cast_lambda1", {"LOSS.GRAD_CAM_ATTENTION.WEIGHT": 1.0}),
        ("cast_lambda5", {"LOSS.GRAD_CAM_ATTENTION.WEIGHT": 5.0}),
        ("cast_intersection", {"LOSS.GRAD_CAM_ATTENTION.SUPERVISION": "intersection"}),
    ],
)
def test_table_2_changes_one_key(name: str, changes: dict) -> None:
    assert differences("cast/cast_coco_R50.yaml", f"cast/{name}_coco_R50.yaml") == changes


def test_mlp_head_brings_moco_v2() -> None:
    changes = differences("cast/cast_coco_R50.yaml", "cast/cast_mlp_coco_R50.yaml")
    assert set(changes) == {"MODEL.MOCO.HEAD", "MODEL.MOCO.T", "AUGMENT.VIEWS"}
    assert (changes["MODEL.MOCO.HEAD"], changes["MODEL.MOCO.T"]) == ("mlp", 0.2)


def test_cast_is_mocos_recipe() -> None:
    cfg = setup_cfg(str(CONFIGS / "cast/cast_coco_R50.yaml"))
    moco = cfg.MODEL.MOCO
    assert (moco.HEAD, moco.DIM, moco.K, moco.M, moco.T) == ("linear", 128, 65536, 0.999, 0.07)
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.IMS_PER_BATCH, solver.EPOCHS, solver.WEIGHT_DECAY) == (0.03, 256, 200, 1e-4)
    assert (solver.SCHEDULE, solver.CLIP_NORM, cfg.AUGMENT.CONSTRAINED_CROP.PHI) == ("cosine", 0.0, 0.2)
    assert build_losses(cfg).weights == {"InfoNCE": 1.0, "GradCAMAttention": 3.0}


def test_preset_of_the_official_code() -> None:
    cfg = setup_cfg(str(CONFIGS / "cast/cast_official_coco_R50.yaml"))
    assert build_losses(cfg).weights == {"InfoNCE": 0.25, "GradCAMAttention": 0.75}
    node = cfg.LOSS.GRAD_CAM_ATTENTION
    assert (node.NORM, node.REDUCTION, node.MASK_RESIZE, node.MASK_FILL) == (
        "minmax_only",
        "batch_flat",
        "point",
        "mean",
    )
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_NORM, cfg.SOLVER.AMP.ENABLED) == (0.5, 2.0, False)
    assert cfg.MODEL.MOCO.MOMENTUM_UPDATES_PER_STEP == 2 and cfg.AUGMENT.CONSTRAINED_CROP.SAMPLER == "gauss"
    # Colour after grey, flip first: the order of the code.
    steps = [step if isinstance(step, str) else next(iter(step)) for step in cfg.AUGMENT.VIEWS[0]]
    assert steps == ["SaliencyConstrainedCrop", "RandomFlip", "RandomGrayscale", "CastOfficialColorJitter"]


def test_moco_v1_and_v2() -> None:
    changes = differences("baselines/moco_v1_R50.yaml", "baselines/moco_v2_R50.yaml")
    assert set(changes) == {"MODEL.MOCO.HEAD", "MODEL.MOCO.T", "AUGMENT.VIEWS", "SOLVER.SCHEDULE"}
    v1 = setup_cfg(str(CONFIGS / "baselines/moco_v1_R50.yaml"))
    assert [v1.SOLVER.EPOCHS * step for step in v1.SOLVER.STEPS] == [120, 160] and v1.SOLVER.SCHEDULE == "step"
