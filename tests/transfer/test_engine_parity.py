"""The torchvision engine's detector is detectron2's: same weights, same image, same proposals, detections, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.engine_pair import CONFIGS, EnginePair, relative

from ssl_loc.transfer.detector_names import detector_from_detectron2, detector_to_detectron2
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import load_recipe

HERE, WHY = Detectron2Engine().available()
pytestmark = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
MASKS = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16}
C4 = {**MASKS, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7}
FPN = {**MASKS, "MODEL.FPN.NORM": "BN", "MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_BOX_HEAD.FC_DIM": 64}
FPN |= {"MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
BASIC = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
# The published depths at full width, then narrow ones for what the engines can do besides.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "C4 R18": ("C4", {"depth": 18}, {**C4, **BASIC}),
    "C4 R50": ("C4", {"depth": 50}, {**C4, "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20, "MODEL.RPN.POST_NMS_TOPK_TEST": 30}),
    "FPN R18": ("FPN", {"depth": 18}, {**FPN, **BASIC}),
    "FPN R50": ("FPN", {"depth": 50}, {**FPN, "MODEL.FPN.NORM": ""}),
    "C4 no extra norm, convolutions before the masks": (
        "C4",
        {"depth": 50, "width": 16},
        {
            **C4,
            "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
            "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
            "MODEL.ROI_MASK_HEAD.NORM": "BN",
        },
    ),
    "C4 frozen, bitmaps, pooled unaligned": (
        "C4",
        {"depth": 18, "width": 16},
        {
            **C4,
            "MODEL.BACKBONE.FREEZE_AT": 3,
            "MODEL.RESNETS.NORM": "FrozenBN",
            "INPUT.MASK_FORMAT": "bitmask",
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
        },
    ),
    "FPN other losses": (
        "FPN",
        {"depth": 18, "width": 16, "layers": [1, 1, 1, 1]},
        {
            **FPN,
            "MODEL.FPN.NORM": "GN",
            "INPUT.MASK_FORMAT": "bitmask",
            "MODEL.RPN.SMOOTH_L1_BETA": 0.3,
            "MODEL.RPN.LOSS_WEIGHT": 2.0,
            "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 0.5,
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.2,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 3.0,
            "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": False,
            "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 4,
            "MODEL.ROI_BOX_HEAD.NUM_CONV": 1,
            "MODEL.ROI_BOX_HEAD.CONV_DIM": 16,
            "MODEL.ROI_BOX_HEAD.NORM": "BN",
            "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
        },
    ),
}
# What the two engines may differ by: relative for maps, px for boxes.
LIMITS = {"input": 1e-6, "trunk": 1e-4, "maps": 1e-4, "proposals": 1e-3, "boxes": 1e-3, "scores": 1e-5, "masks": 1e-5}


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EnginePair:
    return EnginePair(*CASES[request.param], tmp_path_factory.mktemp("parity"))


def test_weights_go_there_and_back(pair: EnginePair) -> None:
    own = pair.ours.state_dict()
    back = detector_from_detectron2(pair.theirs.state_dict(), pair.arch)
    # Frozen layers of detectron2 count no batches.
    assert all("num_batches" in k for k in own.keys() - back.keys())
    assert back.keys() <= own.keys()
    unused = ("box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")  # have rows that detectron2 has not
    assert all(torch.equal(back[k], own[k]) for k in back if not any(name in k for name in unused))


def test_inference_is_equal(pair: EnginePair) -> None:
    worst = pair.inference_differences()
    assert worst.pop("fewest detections") > 5 and worst.pop("wrong classes") == 0
    assert {name: value for name, value in worst.items() if not value <= LIMITS[name]} == {}
    assert ("masks" in worst) == pair.recipe.MODEL.MASK_ON


@torch.no_grad()
def test_results_in_original_pixels_are_equal(pair: EnginePair) -> None:
    from pycocotools import mask as coco_mask

    from ssl_loc.transfer.torchvision_engine.mapper import Example
    from ssl_loc.transfer.torchvision_engine.predict import predict_image

    image, height, width = pair.images[0], 211, 240
    found = predict_image(pair.ours.eval(), Example(image, {}, {"image_id": 0, "height": height, "width": width}))
    want = pair.theirs.eval()([{"image": image, "height": height, "width": width}])[0]["instances"]
    assert np.abs(found.boxes - want.pred_boxes.tensor.numpy()).max() < 1e-3
    if pair.recipe.MODEL.MASK_ON:
        assert found.masks is not None
        pasted = np.stack([coco_mask.decode(code) for code in found.masks])
        assert (pasted != want.pred_masks.numpy()).mean() < 1e-6


def test_losses_and_gradients_are_equal(pair: EnginePair) -> None:
    found, want = pair.losses()
    assert found.keys() == want.keys() and ("loss_mask" in found) == pair.recipe.MODEL.MASK_ON
    for name, value in want.items():
        assert value > 0 and found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    sum(found.values()).backward()
    sum(want.values()).backward()
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in pair.ours.named_parameters()}
    gradients = {k: v for k, v in gradients.items() if pair.ours.get_parameter(k).requires_grad}
    converted = detector_to_detectron2(gradients, pair.arch)
    learning = {k: p.grad for k, p in pair.theirs.named_parameters() if p.requires_grad}
    assert converted.keys() == learning.keys()
    for name, gradient in learning.items():
        assert gradient is not None
        if gradient.norm() > 1e-6:
            assert relative(converted[name], gradient) < 1e-4, name


@pytest.mark.parametrize("pair", ["C4 R18", "FPN R18", "FPN other losses"], indirect=True)
def test_two_training_steps_are_equal(pair: EnginePair) -> None:
    """Batch statistics, losses, gradients, groups, momentum, weight decay: all tensors agree afterwards."""
    from detectron2.solver import build_optimizer

    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.torchvision_engine.solver import build_optimizer as our_optimizer

    optimizers = our_optimizer(pair.recipe, pair.ours), build_optimizer(to_detectron2(pair.recipe), pair.theirs)
    before = {key: value.clone() for key, value in pair.theirs.state_dict().items()}
    for _ in range(2):
        for losses, optimizer in zip(pair.losses(frozen_statistics=False), optimizers, strict=True):
            optimizer.zero_grad()
            sum(losses.values()).backward()
            for group in optimizer.param_groups:
                group["lr"] = 1e-3
            optimizer.step()
    converted = detector_to_detectron2(pair.ours.state_dict(), pair.arch)
    after = pair.theirs.state_dict()
    for key, value in after.items():
        # Biases that began at zero are still tiny.
        assert torch.dist(converted[key].float(), value.float()) < 1e-5 * value.float().norm() + 1e-7, key
    moved = sum(not torch.equal(before[key], value) for key, value in after.items())
    assert moved > 0.9 * len(after)


@pytest.mark.parametrize("pair", ["FPN other losses"], indirect=True)
def test_learning_rate_and_groups_are_equal(pair: EnginePair) -> None:
    from detectron2.solver import build_lr_scheduler, build_optimizer

    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.torchvision_engine.solver import build_optimizer as our_optimizer
    from ssl_loc.transfer.torchvision_engine.solver import learning_rate

    for schedule in ("WarmupMultiStepLR", "WarmupCosineLR"):
        words = {"SOLVER.MAX_ITER": 60, "SOLVER.STEPS": (30, 50), "SOLVER.WARMUP_ITERS": 10}
        words |= {"SOLVER.LR_SCHEDULER_NAME": schedule}
        path = CONFIGS / f"Base-RCNN-{pair.arch}.yaml"
        recipe = load_recipe(path, [str(word) for item in words.items() for word in item])
        cfg = to_detectron2(recipe)
        optimizer = build_optimizer(cfg, pair.theirs)
        scheduler = build_lr_scheduler(cfg, optimizer)
        for iteration in range(60):
            assert learning_rate(recipe, iteration) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            optimizer.step()
            scheduler.step()

    def sizes(groups: list[dict[str, Any]]) -> dict[float, int]:
        counts: dict[float, int] = {}
        for group in groups:
            counts[group["weight_decay"]] = counts.get(group["weight_decay"], 0) + len(group["params"])
        return counts

    assert sizes(our_optimizer(recipe, pair.ours).param_groups) == sizes(optimizer.param_groups)
