"""The papers' detection recipes: what they say, what they change, and that fewer GPUs see the same images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import Recipe, load_recipe, non_default_keys
from ssl_loc.transfer.scaling import Schedule, scale_to_processes
from ssl_loc.transfer.torchvision_engine.honoured import check_recipe

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "detection"
PAPERS = sorted(path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("Base-"))
PRESETS = sorted((CONFIGS / "scaled").glob("*.yaml"))
QUICK = sorted((CONFIGS / "quick").glob("*.yaml"))
HERE, WHY = Detectron2Engine().available()
# Images seen: iterations x 16, as the papers state them.
LENGTHS = {
    "voc_R50_C4_24k": (24_000, (18_000, 22_000), 100),
    "voc_R50_C4_24k_moco": (24_000, (18_000, 22_000), 100),
    "voc07_R50_C4_9k": (9_000, (6_750, 8_250), 100),
    "coco_R50_FPN_1x": (90_000, (60_000, 80_000), 1000),
    "coco_R50_FPN_2x": (180_000, (120_000, 160_000), 1000),
    "coco_R50_C4_1x": (90_000, (60_000, 80_000), 1000),
    "coco_R50_C4_2x": (180_000, (120_000, 160_000), 1000),
}


def _name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def _head(path: Path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))


def _differences(base: str, other: str) -> dict[str, Any]:
    a, b = (load_recipe(CONFIGS / name).flat() for name in (base, other))
    return {key: value for key, value in b.items() if a[key] != value}


def test_every_paper_recipe_is_known_here() -> None:
    assert {path.stem for path in PAPERS} == set(LENGTHS)


@pytest.mark.parametrize("path", PAPERS, ids=_name)
def test_the_head_says_paper_rows_protocol_hardware_and_time(path: Path) -> None:
    head = _head(path)
    assert re.search(r"paper|code", head.splitlines()[0]) or "protocol of" in head.splitlines()[0]
    for word in ("Published", "Protocol", "Hardware", "Time"):
        assert f"# {word}" in head or f" {word}: " in head, word
    assert "estimate" in head


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "voc_R50_C4_24k",
            "33.8 / 60.2 / 33.1; 47.5 / 75.4 / 51.5; 49.0 / 77.4 / 52.4; 54.2 / 80.1 / 59.9; 53.3 / 79.7 / 59.0",
        ),
        ("voc_R50_C4_24k_moco", "53.5 / 81.3 / 58.8; 55.9 / 81.5 / 62.6; 57.0 / 82.4 / 63.6; 57.4 / 82.5 / 64.0"),
        ("voc07_R50_C4_9k", "43.3 / 75.5 / 44.4; 46.9 / 75.1 / 50.3; 46.7 / 74.7 / 50.5"),
        (
            "coco_R50_FPN_2x",
            "36.7 / 56.7 / 40.0; 33.7 / 53.8 / 35.9; 38.3 / 58.7 / 41.5; 34.9 / 55.7 / 37.2; 38.3 / 58.7 / 41.6; "
            "34.8 / 55.7 / 37.2; 39.4 / 60.0 / 42.8; 35.8 / 57.1 / 38.6",
        ),
    ],
)
def test_published_rows_are_all_there(name: str, rows: str) -> None:
    found = re.findall(r"\d\d\.\d / \d\d\.\d / \d\d\.\d", _head(CONFIGS / f"{name}.yaml"))
    assert found == rows.split("; ")


@pytest.mark.parametrize("path", PAPERS, ids=_name)
def test_schedules_are_the_papers(path: Path) -> None:
    recipe = load_recipe(path)
    iterations, steps, warmup = LENGTHS[path.stem]
    solver = recipe.SOLVER
    assert (solver.MAX_ITER, tuple(solver.STEPS), solver.WARMUP_ITERS) == (iterations, steps, warmup)
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_WORLD_SIZE) == (16, 0.02, 8)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.GAMMA, solver.WARMUP_FACTOR) == (0.9, 1e-4, 0.1, 0.001)
    assert recipe.TEST.PRECISE_BN == {"ENABLED": True, "NUM_ITER": 200}
    assert recipe.MODEL.MASK_ON == path.stem.startswith("coco")
    assert recipe.MODEL.ROI_HEADS.NAME == ("StandardROIHeads" if "FPN" in path.stem else "Res5ROIHeadsExtraNorm")
    moco = path.stem in ("voc_R50_C4_24k_moco", "coco_R50_C4_1x", "coco_R50_C4_2x")
    assert recipe.MODEL.RESNETS.NORM == ("naiveSyncBN" if moco else "SyncBN")


def test_recipes_differ_in_what_the_papers_say() -> None:
    folder = {"OUTPUT_DIR"}
    lengths = {"SOLVER.MAX_ITER", "SOLVER.STEPS"} | folder
    assert set(_differences("voc_R50_C4_24k.yaml", "voc_R50_C4_24k_moco.yaml")) == {"MODEL.RESNETS.NORM"} | folder
    assert set(_differences("voc_R50_C4_24k.yaml", "voc07_R50_C4_9k.yaml")) == {"DATASETS.TRAIN"} | lengths
    for arch in ("FPN", "C4"):
        assert set(_differences(f"coco_R50_{arch}_2x.yaml", f"coco_R50_{arch}_1x.yaml")) == lengths
    assert set(_differences("voc_R50_C4_24k_moco.yaml", "coco_R50_C4_2x.yaml")) == lengths | {
        *("DATASETS.TRAIN", "DATASETS.TEST", "INPUT.MIN_SIZE_TRAIN", "MODEL.MASK_ON", "MODEL.ROI_HEADS.NUM_CLASSES"),
        "SOLVER.WARMUP_ITERS",
    }


def _seen(recipe: Recipe) -> Schedule:
    return Schedule.of(recipe)


@pytest.mark.parametrize("path", PAPERS, ids=_name)
@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16])
def test_any_number_of_gpus_sees_the_same_images(path: Path, processes: int) -> None:
    recipe = load_recipe(path)
    scaled = scale_to_processes(recipe, processes)
    iterations, steps, warmup = LENGTHS[path.stem]
    assert scaled.SOLVER.IMS_PER_BATCH == 2 * processes
    assert _seen(scaled) == Schedule(iterations * 16, tuple(16 * step for step in steps), warmup * 16, 0.02 / 16)


def test_one_gpu_runs_voc_with_the_numbers_of_the_linear_rule() -> None:
    solver = scale_to_processes(load_recipe(CONFIGS / "voc_R50_C4_24k.yaml"), 1).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.WARMUP_ITERS) == (2, 0.0025, 192_000, 800)


@pytest.mark.detectron2
@pytest.mark.skipif(not HERE, reason=WHY)
@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16])
def test_scaling_is_detectron2s(processes: int) -> None:
    from detectron2.engine import DefaultTrainer

    from ssl_loc.transfer.detectron2_engine.config import to_detectron2

    recipe = load_recipe(CONFIGS / "voc_R50_C4_24k.yaml", ["TEST.EVAL_PERIOD", "1000"])
    theirs = DefaultTrainer.auto_scale_workers(to_detectron2(recipe), processes)
    assert to_detectron2(scale_to_processes(recipe, processes)) == theirs


def test_there_is_a_preset_for_one_two_and_four_gpus_of_every_schedule() -> None:
    wanted = {f"{path.stem}_{n}gpu" for path in PAPERS if not path.stem.endswith("moco") for n in (1, 2, 4)}
    assert {path.stem for path in PRESETS} == wanted


@pytest.mark.parametrize("path", PRESETS, ids=_name)
def test_presets_keep_images_decay_warmup_and_lr_per_image(path: Path) -> None:
    name, gpus = path.stem.rsplit("_", 1)
    count = int(gpus.removesuffix("gpu"))
    recipe, base = load_recipe(path), load_recipe(CONFIGS / f"{name}.yaml")
    assert _seen(recipe) == _seen(base)
    assert recipe.SOLVER.IMS_PER_BATCH == 4 * count and recipe.SOLVER.REFERENCE_WORLD_SIZE == count
    assert recipe.TEST.PRECISE_BN.NUM_ITER * recipe.SOLVER.IMS_PER_BATCH == 200 * 16
    assert scale_to_processes(recipe, count) is recipe
    # The same as one key on the command line, but for the batches of PreciseBN.
    by_key = load_recipe(CONFIGS / f"{name}.yaml", ["SOLVER.REFERENCE_WORLD_SIZE", "4"])
    by_key = scale_to_processes(by_key, count)
    differing = {key for key, value in recipe.flat().items() if by_key.flat()[key] != value}
    assert differing <= {"OUTPUT_DIR", "TEST.PRECISE_BN.NUM_ITER"}


@pytest.mark.parametrize("path", PAPERS + QUICK, ids=_name)
def test_both_engines_honour_and_build_it(path: Path) -> None:
    """On the meta device: no memory, no time."""
    from ssl_loc.transfer.run import described_backbone
    from ssl_loc.transfer.torchvision_engine.model import build_detector

    recipe = load_recipe(path, ["MODEL.DEVICE", "cpu"])
    check_recipe(recipe)
    with torch.device("meta"):
        ours = build_detector(recipe, described_backbone(recipe))
    if not HERE:
        return
    from detectron2.modeling import build_model

    from ssl_loc.transfer.detectron2_engine import heads  # noqa: F401  (registers the head)
    from ssl_loc.transfer.detectron2_engine.config import adapt_cfg_to_host, to_detectron2
    from ssl_loc.transfer.detectron2_engine.trunk import TrunkShape, fill_trunk

    cfg = to_detectron2(recipe)
    fill_trunk(cfg, TrunkShape.from_description(described_backbone(recipe)))
    adapt_cfg_to_host(cfg, 1, cuda=False)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        theirs = build_model(cfg)
    # torchvision's predictors have one row more, for the background: of boxes always, of masks where there are any.
    rows = {k: v for k, v in ours.state_dict().items() if "bbox_pred" in k and "roi_heads" in k or "fcn_logits" in k}
    classes = recipe.MODEL.ROI_HEADS.NUM_CLASSES
    extra = sum(v.numel() // (classes + 1) for v in rows.values())
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] - extra == counts[1]


@pytest.mark.detectron2
@pytest.mark.skipif(not HERE, reason=WHY)
@pytest.mark.parametrize("path", PAPERS, ids=_name)
def test_detectron2_merges_it_and_keeps_its_defaults_elsewhere(path: Path) -> None:
    from detectron2.config import CfgNode, get_cfg

    from ssl_loc.transfer.detectron2_engine.config import to_detectron2

    recipe = load_recipe(path)
    merged = get_cfg()
    ours = {k: v for k, v in non_default_keys(recipe).items() if not k.startswith("TRANSFER.")}
    merged.merge_from_list([word for pair in ours.items() for word in pair])
    assert to_detectron2(recipe) == merged
    # And the yaml itself, by detectron2's own loader: no KeyError.
    own = get_cfg()
    own.merge_from_other_cfg(CfgNode(CfgNode.load_yaml_with_base(str(path))))
    assert own == merged


@pytest.mark.parametrize(
    ("paper", "quick"),
    [
        ("voc_R50_C4_24k", "voc0712_R18_C4"),
        ("voc07_R50_C4_9k", "voc_R18_C4"),
        ("coco_R50_FPN_1x", "coco_R18_FPN_mask"),
        ("coco_R50_C4_1x", "coco_R18_C4_mask"),
    ],
)
def test_every_family_has_a_quick_twin(paper: str, quick: str) -> None:
    big, small = load_recipe(CONFIGS / f"{paper}.yaml"), load_recipe(CONFIGS / "quick" / f"{quick}.yaml")
    same = (
        "MODEL.BACKBONE.NAME",
        "MODEL.ROI_HEADS.NAME",
        "MODEL.MASK_ON",
        "MODEL.ROI_HEADS.NUM_CLASSES",
        "INPUT.FORMAT",
    )
    for key in (*same, "DATASETS.TRAIN", "DATASETS.TEST", "MODEL.PIXEL_MEAN", "MODEL.BACKBONE.FREEZE_AT"):
        assert small.flat()[key] == big.flat()[key], key
    assert small.SOLVER.MAX_ITER <= 200
