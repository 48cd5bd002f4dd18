"""CVSA's rows differ from their base method in what the paper says, and in nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.config_differences import differences, family

from ssl_loc.components import setup_cfg
from ssl_loc.config import CfgNode
from ssl_loc.losses import build_losses

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Training images as published, and the folder of each set.
SETS = {
    "cub_train": (5994, "cub"),
    "nabirds_train": (23929, "nabirds"),
    "aircraft_trainval": (6667, "aircraft"),
    "cars_train": (8144, "cars"),
    "coco_2017_train": (118287, "coco"),
    "imagenet_train": (1281167, "imagenet"),
    "inat2018_train": (437513, "inat2018"),
}
MASKS = {"DATA.MASKS.SOURCE", "DATA.MASKS.EMPTY"}
ALIGNMENT = {"AUGMENT.VIEWS", "LOSS.NAMES", "LOSS.NEGATIVE_COSINE.FORM"} | MASKS


def _cfg(name: str) -> CfgNode:
    return setup_cfg(str(CONFIGS / "cvsa" / f"{name}.yaml"))


def test_the_method_is_the_papers() -> None:
    cfg = _cfg("scratch_byol_cvsa_R50")
    assert build_losses(cfg).weights == {"NegativeCosine": 1.0, "CrossViewAlignment": 1.0}
    node, solver = cfg.LOSS.CROSS_VIEW_ALIGNMENT, cfg.SOLVER
    assert (node.STAGES, node.LOGIT, node.DIM, cfg.LOSS.NEGATIVE_COSINE.FORM) == ([4], "raw", 256, "half")
    assert (cfg.MODEL.METHOD, cfg.MODEL.BYOL.DIM, cfg.MODEL.BYOL.HIDDEN) == ("BYOL", 256, 4096)
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_BATCH) == ("LARS", 1024, 0.6, 256)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.EPOCHS) == (1.5e-6, 0.0, 800)
    swap = cfg.AUGMENT.SALIENCY_SWAP
    assert (swap.PROB, swap.LAMBDA, swap.MODE, swap.BOX_SOURCE, swap.MASK) == (1.0, 0.5, "auto", "gt_box", "rect")
    # MoCo v2's augmentations without its crop.
    moco = setup_cfg(str(CONFIGS / "baselines/moco_v2_R50.yaml")).AUGMENT.VIEWS
    assert cfg.AUGMENT.VIEWS == [["SaliencySwap", *view[1:]] for view in moco]
    assert _cfg("scratch_byol_R50").AUGMENT.VIEWS == moco == _cfg("scratch_simclr_R50").AUGMENT.VIEWS


def _columns() -> list[Any]:
    """(row, keys) of every run that a head describes: the file as it is, and each line of keys for another column."""
    found = []
    for path in family("cvsa"):
        heads = path.read_text().split("_BASE_:")[0]
        lines = ["", *re.findall(r"^#   (DATA\.TRAIN .*)$", heads, re.M)]
        found += [pytest.param(path.stem, line.split(), id=" ".join([path.stem, *line.split()[1:2]])) for line in lines]
    return found


@pytest.mark.parametrize(("row", "keys"), _columns())
def test_every_run_of_a_head_is_one(row: str, keys: list[str]) -> None:
    """10 epochs of warm-up, the maps of the set that it trains on, and for Cars half of the rate of the others."""
    cfg, base = setup_cfg(str(CONFIGS / "cvsa" / f"{row}.yaml"), keys), _cfg(row)
    images, folder = SETS[cfg.DATA.TRAIN]
    assert cfg.SOLVER.WARMUP_ITERS == 10 * (images // cfg.SOLVER.IMS_PER_BATCH)
    assert cfg.DATA.MASKS.SOURCE != "folder" or cfg.DATA.MASKS.ROOT == f"./datasets/{folder}/saliency/rbd"
    halved = cfg.DATA.TRAIN == "cars_train" and cfg.MODEL.METHOD == "BYOL"
    assert cfg.SOLVER.BASE_LR == (0.3 if halved else base.SOLVER.BASE_LR)


@pytest.mark.parametrize("path", [p for p in family("cvsa") if not p.stem.startswith("Base")], ids=lambda p: p.stem)
def test_heads_lead_to_the_other_columns_and_to_the_maps(path: Path) -> None:
    text = " ".join(line.lstrip("# ") for line in path.read_text().split("_BASE_:")[0].splitlines())
    cfg = _cfg(path.stem)
    if cfg.DATA.TRAIN == "cub_train" and cfg.MODEL.RESNET.DEPTH == 50:
        published = text.split("Protocol")[0].split("Expected")[1].lower()
        columns = {name for name in ("nabirds", "aircraft", "cars") if f" {name} " in published}
        assert set(re.findall(r"DATA\.TRAIN (\w+?)_", text)) == columns
        assert "The hours are those of CUB" in text
    if cfg.DATA.MASKS.SOURCE == "folder":
        made = f"tools/make_saliency.py {cfg.DATA.TRAIN} --method rbd --out {cfg.DATA.MASKS.ROOT}"
        assert made in text


def test_cvsa_adds_swap_and_alignment_to_byol() -> None:
    assert set(differences("cvsa/scratch_byol_R50.yaml", "cvsa/scratch_byol_cvsa_R50.yaml")) == ALIGNMENT


def test_byol_with_dilo() -> None:
    changes = differences("cvsa/scratch_byol_R50.yaml", "cvsa/scratch_byol_dilo_R50.yaml")
    assert set(changes) == {"AUGMENT.VIEWS", "DATA.MASKS.ROOT"} | MASKS
    assert all(view[:2] == ["CopyPaste", "RandomResizedCrop"] for view in changes["AUGMENT.VIEWS"])


@pytest.mark.parametrize("first", ["coco", "in1k"])
@pytest.mark.parametrize("kind", ["moco_v2", "byol", "byol_dilo", "byol_cvsa"])
def test_second_stage_is_the_scratch_run_on_frozen_stages(first: str, kind: str) -> None:
    changes = differences(f"cvsa/scratch_{kind}_R50.yaml", f"cvsa/{first}_then_{kind}_R50.yaml")
    start = f"{first}_{'moco_v2' if kind == 'moco_v2' else 'byol'}_R50"
    assert changes == {"MODEL.FREEZE_AT": 2, "MODEL.INIT_FROM": f"./output/cvsa/{start}"}


@pytest.mark.parametrize("path", [p for p in family("cvsa") if "_then_" in p.stem], ids=lambda path: path.stem)
def test_stage_1_writes_where_stage_2_looks(path: Path) -> None:
    cfg = setup_cfg(str(path))
    first = _cfg(Path(cfg.MODEL.INIT_FROM).name)
    assert first.OUTPUT_DIR == cfg.MODEL.INIT_FROM != cfg.OUTPUT_DIR
    assert first.MODEL.RESNET == cfg.MODEL.RESNET and first.MODEL.METHOD == cfg.MODEL.METHOD
    assert first.MODEL.FREEZE_AT == 0 and cfg.MODEL.FREEZE_AT == 2


@pytest.mark.parametrize(("first", "epochs"), [("coco", 400), ("in1k", 200)])
def test_first_stages(first: str, epochs: int) -> None:
    for kind in ("simclr", "moco_v2", "byol"):
        cfg = _cfg(f"{first}_{kind}_R50")
        assert cfg.SOLVER.EPOCHS == epochs and cfg.MODEL.INIT_FROM == ""
        # 10 epochs of warm-up.
        images = {"coco": 118287, "in1k": 1281167}[first]
        assert cfg.SOLVER.WARMUP_ITERS == 10 * (images // cfg.SOLVER.IMS_PER_BATCH)


def test_table_6_changes_the_backgrounds() -> None:
    for suffix in ("ss", "ss_align"):
        for name in ("coco", "nabirds", "cub_coco", "cub_nabirds"):
            changes = differences(f"cvsa/background_cub_{suffix}_R18.yaml", f"cvsa/background_{name}_{suffix}_R18.yaml")
            assert set(changes) == {"AUGMENT.SALIENCY_SWAP.BACKGROUND_SETS"}, name
            sets = changes["AUGMENT.SALIENCY_SWAP.BACKGROUND_SETS"]
            assert ("train" in sets) == name.startswith("cub_") and len(sets) == name.count("_") + 1
    for name in ("coco", "nabirds"):
        changes = differences("cvsa/background_cub_dilo_R18.yaml", f"cvsa/background_{name}_dilo_R18.yaml")
        assert set(changes) == {"AUGMENT.COPY_PASTE.BACKGROUND"}
        both = differences("cvsa/background_cub_dilo_R18.yaml", f"cvsa/background_cub_{name}_dilo_R18.yaml")
        paste = "AUGMENT.COPY_PASTE.BACKGROUND"
        assert both == {paste: "sets", f"{paste}_SETS": ["train", changes[paste]]}
    ss = differences("cvsa/background_cub_ss_R18.yaml", "cvsa/background_cub_ss_align_R18.yaml")
    assert set(ss) == ALIGNMENT - {"AUGMENT.VIEWS"}
    cfg = _cfg("background_cub_ss_align_R18")
    assert (cfg.MODEL.RESNET.DEPTH, cfg.SOLVER.EPOCHS) == (18, 400)


def test_quick_second_stage_follows_quick_byol() -> None:
    changes = differences("quick/cvsa.yaml", "quick/cvsa_stage_2.yaml")
    assert set(changes) == {"MODEL.INIT_FROM", "MODEL.FREEZE_AT", "OUTPUT_DIR"}
    byol = setup_cfg(str(CONFIGS / "quick/byol.yaml"))
    assert byol.OUTPUT_DIR == changes["MODEL.INIT_FROM"]
    for name in ("cvsa", "byol_ss", "byol_dilo"):
        assert setup_cfg(str(CONFIGS / f"quick/{name}.yaml")).MODEL.BYOL == byol.MODEL.BYOL
