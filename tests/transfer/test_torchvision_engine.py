"""Parts of the torchvision engine against hand-made numbers, slow formulas and known facts about detectron2."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from ssl_loc.layers import FrozenBN
from ssl_loc.transfer.recipe import Recipe, load_recipe
from ssl_loc.transfer.torchvision_engine.anchors import Anchors
from ssl_loc.transfer.torchvision_engine.honoured import check_recipe
from ssl_loc.transfer.torchvision_engine.model import Detector, build_detector
from ssl_loc.transfer.torchvision_engine.pooler import Pooler
from ssl_loc.transfer.torchvision_engine.precise_bn import precise_bn
from ssl_loc.transfer.torchvision_engine.solver import build_optimizer, learning_rate
from ssl_loc.utils.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
NARROW = {"name": "ResNet", "kwargs": {"depth": 18, "width": 8, "layers": [1, 1, 1, 1]}}


def quick(name: str = "voc_R18_FPN", *overrides: str) -> Recipe:
    own = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    own = own[:2] if "C4" in name else own
    return load_recipe(CONFIGS / "quick" / f"{name}.yaml", [*own, *overrides])


def detector(name: str = "voc_R18_FPN", *overrides: str) -> Detector:
    torch.manual_seed(0)
    return build_detector(quick(name, *overrides), NARROW)


# --- anchors ---------------------------------------------------------------------------------------------------------


def test_anchor_cells_are_exact_and_size_major() -> None:
    """Area is size^2, height / width the ratio; detectron2 lists all ratios of the first size first."""
    anchors = Anchors([[32, 64]], [[0.5, 1.0, 2.0]], [16])
    cells = anchors.grid(0, (1, 1))
    width, height = (cells[:, 2] - cells[:, 0]).tolist(), (cells[:, 3] - cells[:, 1]).tolist()
    root = math.sqrt(2)
    expected = [32 * root, 32, 32 / root, 64 * root, 64, 64 / root]
    assert width == pytest.approx(expected)
    assert height == pytest.approx([h for s in (32, 64) for h in (s / root, s, s * root)])
    # Unrounded: torchvision's generator would give 45 and 23 here.
    assert width[0] == pytest.approx(45.254833, abs=1e-5)
    assert anchors.per_location == [6]


def test_anchor_strides_are_fixed_and_the_order_is_row_column_cell() -> None:
    anchors = Anchors([[8], [16]], [[1.0]], [8, 16], offset=0.5)
    images = ImageList(torch.zeros(2, 3, 20, 30), [(20, 30), (18, 30)])
    first, second = anchors(images, [torch.zeros(2, 1, 3, 4), torch.zeros(2, 1, 2, 2)])
    assert torch.equal(first, second)
    assert first.shape == (3 * 4 + 2 * 2, 4)
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert centres[0].tolist() == [4, 4] and centres[1].tolist() == [12, 4] and centres[4].tolist() == [4, 12]
    assert centres[12].tolist() == [8, 8] and centres[15].tolist() == [24, 24]


def test_anchor_rows_must_fit_the_levels() -> None:
    with pytest.raises(ConfigError, match="SIZES has 2 rows .* 3 levels"):
        Anchors([[8], [16]], [[1.0]], [4, 8, 16])
    with pytest.raises(ConfigError, match="OFFSET is 1.0"):
        Anchors([[8]], [[1.0]], [4], offset=1.0)


# --- pooling ---------------------------------------------------------------------------------------------------------


def slow_roi_align(feature: Tensor, box: list[float], size: int, scale: float) -> Tensor:
    """Aligned RoIAlign written out for one box: ceil(bin size) samples per bin, bilinear, border clamped."""
    height, width = feature.shape[1:]
    x1, y1, x2, y2 = (v * scale - 0.5 for v in box)
    bin_w, bin_h = (x2 - x1) / size, (y2 - y1) / size
    count_w, count_h = math.ceil(bin_w), math.ceil(bin_h)

    def at(y: float, x: float) -> Tensor:
        if y < -1 or y > height or x < -1 or x > width:
            return torch.zeros(feature.shape[0])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y3, x3 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        fy, fx = y - y0, x - x0
        top = feature[:, y0, x0] * (1 - fx) + feature[:, y0, x3] * fx
        return top * (1 - fy) + (feature[:, y3, x0] * (1 - fx) + feature[:, y3, x3] * fx) * fy

    out = torch.zeros(feature.shape[0], size, size)
    for i in range(size):
        for j in range(size):
            samples = [
                at(y1 + (i + (a + 0.5) / count_h) * bin_h, x1 + (j + (b + 0.5) / count_w) * bin_w)
                for a in range(count_h)
                for b in range(count_w)
            ]
            out[:, i, j] = torch.stack(samples).mean(0)
    return out


def test_pooling_is_aligned_adaptive_and_by_level() -> None:
    torch.manual_seed(0)
    maps = {"p2": torch.randn(2, 3, 32, 40), "p3": torch.randn(2, 3, 16, 20)}
    pooler = Pooler(["p2", "p3"], [4, 8], 4)
    # 224 px belong to level 4, so level 2 ends at 56 * 2 px; anything above goes to the coarsest map there is.
    boxes = [torch.tensor([[5.3, 7.1, 60.2, 50.9], [0.0, 0.0, 150.0, 120.0]]), torch.tensor([[-3.0, 20.0, 30.0, 44.0]])]
    assert pooler.assign(torch.cat(boxes)).tolist() == [0, 1, 0]
    out = pooler(maps, boxes, [])
    assert torch.allclose(out[0], slow_roi_align(maps["p2"][0], boxes[0][0].tolist(), 4, 1 / 4), atol=1e-5)
    assert torch.allclose(out[1], slow_roi_align(maps["p3"][0], boxes[0][1].tolist(), 4, 1 / 8), atol=1e-5)
    assert torch.allclose(out[2], slow_roi_align(maps["p2"][1], boxes[1][0].tolist(), 4, 1 / 4), atol=1e-5)


def test_level_boundaries_follow_the_fpn_paper() -> None:
    pooler = Pooler(["p2", "p3", "p4", "p5"], [4, 8, 16, 32], 7)
    sides = torch.tensor([10.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 5000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], 1)
    assert pooler.assign(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(ConfigError, match="strides \\[4, 16\\]"):
        Pooler(["p2", "p4"], [4, 16], 7)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_rpn_loss_is_divided_by_what_was_asked_for_not_by_what_was_found() -> None:
    model = detector("voc_R18_FPN", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "8", "MODEL.RPN.LOSS_WEIGHT", "3.0")
    # Two images of three anchors: one positive each, one ignored in the first.
    labels = [torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 0.0])]
    logits = torch.tensor([[0.3], [-0.2], [9.0], [0.1], [-1.0], [0.5]])
    deltas, targets = torch.zeros(6, 4), [torch.zeros(3, 4), torch.zeros(3, 4)]
    targets[0][0] = torch.tensor([0.1, -0.2, 0.3, 0.0])
    targets[1][1] = torch.tensor([1.0, 0.0, 0.0, -2.0])
    objectness, box = model.rpn.compute_loss(logits, deltas, labels, targets)

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    bce = softplus(-0.3) + softplus(-0.2) + softplus(0.1) + softplus(1.0) + softplus(0.5)
    assert objectness.item() == pytest.approx(3 * bce / 16, rel=1e-6)
    assert box.item() == pytest.approx(3 * 3.6 / 16, rel=1e-6)  # pure L1


def test_proposals_must_be_larger_than_the_minimum() -> None:
    """Both sides, after clipping to the image, and strictly: 8 px are dropped by a minimum of 8."""
    boxes = torch.tensor([[[0.0, 0, 9, 9], [20, 0, 28, 30], [0, 20, 30, 28.5], [55, 20, 90, 40], [20, 35, 29, 36]]])
    logits = torch.tensor([[5.0, 4, 3, 2, 1]])
    expected = {"0": [0, 1, 2, 3, 4], "8": [0, 2], "9": []}  # the fourth is clipped to 5 px
    for minimum, kept in expected.items():
        model = detector("voc_R18_FPN", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", minimum).eval()
        (found,), _ = model.rpn.filter_proposals(boxes, logits, [(60, 60)], [5])
        assert found[:, 0].tolist() == boxes[0, kept, 0].tolist(), minimum


@pytest.mark.parametrize("appended", [True, False])
def test_objects_are_proposals_only_where_the_recipe_says_so(appended: bool) -> None:
    heads = detector("voc_R18_FPN", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", str(appended)).roi_heads
    target = {"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([2])}
    proposals = [torch.tensor([[100.0, 100, 120, 120]])]
    boxes, _, labels, _ = heads.select_training_samples(proposals, [target])
    # Without it nothing overlaps the object, and only background is learned.
    assert sorted(labels[0].tolist()) == ([0, 2] if appended else [0])
    assert len(boxes[0]) == 1 + appended


def test_smooth_l1_beta_is_honoured() -> None:
    model = detector("voc_R18_FPN", "MODEL.RPN.SMOOTH_L1_BETA", "0.5", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "4")
    target = torch.tensor([[0.2, 1.0, 0.0, 0.0]])
    _, box = model.rpn.compute_loss(torch.zeros(1, 1), torch.zeros(1, 4), [torch.ones(1)], [target])
    # |d| < beta: d^2 / (2 beta) = .04; else |d| - beta / 2 = .75
    assert box.item() == pytest.approx((0.04 + 0.75) / 4, rel=1e-6)


def test_box_losses_by_hand() -> None:
    heads = detector(
        "voc_R18_FPN", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", "2.0"
    )
    labels = torch.tensor([0, 2, 1, 0])
    predicted = torch.arange(48.0).reshape(4, 12) / 10
    targets = torch.zeros(4, 4)
    losses = heads.roi_heads.box_losses(torch.zeros(4, 3), predicted, labels, targets)
    assert losses["loss_cls"].item() == pytest.approx(math.log(3))
    # RoI 1, class 2: entries 8..11 of row 1 (20..23); RoI 2, class 1: entries 4..7 of row 2 (28..31); over 4 RoIs.
    assert losses["loss_box_reg"].item() == pytest.approx(2 * (20 + 21 + 22 + 23 + 28 + 29 + 30 + 31) / 10 / 4)
    empty = heads.roi_heads.box_losses(torch.zeros(0, 3), torch.zeros(0, 12), labels[:0], targets[:0])
    assert [v.item() for v in empty.values()] == [0, 0]


# --- model -----------------------------------------------------------------------------------------------------------


def test_padding_c4_none_fpn_to_32() -> None:
    images = [torch.full((3, 50, 70), 100, dtype=torch.uint8), torch.full((3, 41, 66), 100, dtype=torch.uint8)]
    for name, size in (("voc_R18_C4", (50, 70)), ("voc_R18_FPN", (64, 96))):
        batch = detector(name).preprocess(images)
        assert batch.tensors.shape[-2:] == size
        assert batch.image_sizes == [(50, 70), (41, 66)]
        assert batch.tensors[1, 0, 0, 0].item() == pytest.approx((100 - 123.675) / 58.395)
        assert batch.tensors[1, :, 41:].abs().max() == 0 and batch.tensors[1, :, :, 66:].abs().max() == 0


def test_initialisation_is_detectron2s() -> None:
    """Stds as detectron2 draws them; biases zero."""
    model = detector("coco_R18_FPN_mask", "MODEL.FPN.NORM", "''")
    predictor = model.roi_heads.box_predictor
    assert predictor.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert predictor.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert model.rpn.head.cls_logits.weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.std().item() == pytest.approx(0.001, rel=0.1)
    fc = model.roi_heads.box_head.fcs[0].weight
    assert fc.std().item() == pytest.approx(math.sqrt(1 / fc.shape[1]), rel=0.1)
    assert fc.abs().max().item() <= math.sqrt(3 / fc.shape[1])
    lateral = model.fpn.body.inner_blocks[3][0].weight
    assert lateral.std().item() == pytest.approx(math.sqrt(1 / lateral.shape[1]), rel=0.1)
    biases = [v for k, v in model.named_parameters() if k.endswith("bias") and "bn" not in k and "trunk" not in k]
    assert all(not b.any() for b in biases)


def test_c4_uses_the_last_stage_as_head_with_one_extra_norm() -> None:
    model = detector("voc_R18_C4")
    assert model.roi_heads.box_head.norm.num_features == 64
    assert not any(key.startswith("trunk.layer4") for key in model.state_dict())
    plain = detector("voc_R18_C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    assert plain.roi_heads.box_head.norm is None


def c4_with_masks(*overrides: str) -> Detector:
    words = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    return detector("voc_R18_C4", *words, *overrides)


def test_c4_masks_share_the_last_stage_with_the_boxes() -> None:
    """Computed once in training; again for the detected boxes at test time."""
    model = c4_with_masks("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    rois: list[int] = []
    model.roi_heads.box_head.register_forward_hook(lambda module, args, out: rois.append(len(args[0])))
    images = [torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8)]
    polygons = [[np.array([10.0, 10, 50, 10, 50, 50])]]
    target = {"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([2]), "polygons": polygons}
    losses = model.train()(images, [target])
    assert len(rois) == 1 and losses["loss_mask"].item() == pytest.approx(math.log(2), rel=1e-2)  # undecided at first
    losses["loss_mask"].backward()
    # The loss of a mask reaches the trunk through res5 and its extra norm.
    reached = (model.roi_heads.box_head.layer4[0].conv1, model.roi_heads.box_head.norm, model.trunk.layer3[0].conv1)
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in reached)
    rois.clear()
    (found,) = model.eval()(images)
    assert len(rois) == 2 and rois[1] == len(found["boxes"]) > 0
    # 7 x 7 RoIs, 4 x 4 after the stride of res5, 8 x 8 after the upsampling.
    assert found["masks"].shape == (len(found["boxes"]), 8, 8)


def test_an_image_without_objects_has_a_mask_loss_of_zero_that_reaches_every_parameter() -> None:
    for model in (c4_with_masks("MODEL.ROI_MASK_HEAD.NUM_CONV", "1"), detector("coco_R18_FPN_mask")):
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "polygons": []}
        losses = model.train()([torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8)], [nothing])
        assert losses["loss_mask"].item() == 0
        torch.stack(list(losses.values())).sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "28"),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", "512"),
        ("MODEL.FPN.OUT_CHANNELS", "128"),
    ],
)
def test_c4_refuses_keys_that_would_do_nothing(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}, but a C4 detector does not use it"):
        check_recipe(quick("voc_R18_C4", key, value))


def test_pyramid_levels_are_named_by_stride() -> None:
    recipe = load_recipe(CONFIGS / "quick/scenes_narrow_FPN.yaml")
    model = build_detector(recipe, {"name": "ResNet", "kwargs": recipe.TRANSFER.BACKBONE.KWARGS})
    maps = model.features(torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[-1] for name, x in maps.items()} == {"p2": 16, "p3": 8, "p4": 4, "p5": 2}
    with pytest.raises(ConfigError, match="RPN.IN_FEATURES names .*p6.* gives p2, p3, p4, p5"):
        levels = ["MODEL.RPN.IN_FEATURES", "['p5', 'p6']", "MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]"]
        wrong = load_recipe(CONFIGS / "quick/scenes_narrow_FPN.yaml", levels)
        build_detector(wrong, {"name": "ResNet", "kwargs": wrong.TRANSFER.BACKBONE.KWARGS})


def test_freeze_at_freezes_stem_and_stages() -> None:
    model = detector("voc_R18_C4", "MODEL.BACKBONE.FREEZE_AT", "2").train()
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    assert isinstance(model.trunk.bn1, FrozenBN) and isinstance(model.trunk.layer1[0].bn2, FrozenBN)
    assert not isinstance(model.trunk.layer2[0].bn2, FrozenBN)


def test_widths_that_contradict_the_trunk_are_refused() -> None:
    with pytest.raises(ConfigError, match="RES2_OUT_CHANNELS is 32 but the trunk .*has 8"):
        detector("voc_R18_FPN", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32")


def test_detections_honour_threshold_nms_and_limit() -> None:
    heads = detector("voc_R18_FPN", "MODEL.ROI_HEADS.NUM_CLASSES", "2", "TEST.DETECTIONS_PER_IMAGE", "2").roi_heads
    proposals = [torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [20.0, 20, 40, 40], [5.0, 30, 9, 34]])]
    scores = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2], [0.34, 0.33, 0.33], [0.96, 0.02, 0.02]])
    boxes, found, labels = heads.postprocess_detections(scores.log(), torch.zeros(4, 12), proposals, [(32, 32)])
    # Row 1 loses to row 0 in class 1 (IoU .9); classes do not compete; the third box is clipped to the image.
    assert found[0].tolist() == pytest.approx([0.8, 0.33])
    assert labels[0].tolist()[0] == 1
    assert boxes[0][1].tolist() == [20, 20, 32, 32]


# --- solver ----------------------------------------------------------------------------------------------------------


def test_learning_rate_by_hand() -> None:
    recipe = quick("voc_R18_FPN", "SOLVER.BASE_LR", "0.02", "SOLVER.WARMUP_ITERS", "100", "SOLVER.STEPS", "(150, 180)")
    rates = {i: learning_rate(recipe, i) for i in (0, 25, 99, 100, 149, 150, 179, 180, 199)}
    assert rates[0] == pytest.approx(0.02 * 0.001)
    assert rates[25] == pytest.approx(0.02 * (0.001 * 0.75 + 0.25))
    assert rates[99] == pytest.approx(0.02 * (0.001 * 0.01 + 0.99))
    assert (rates[100], rates[149]) == (0.02, 0.02)
    assert rates[150] == pytest.approx(0.002) and rates[179] == pytest.approx(0.002)
    assert rates[180] == pytest.approx(0.0002) and rates[199] == pytest.approx(0.0002)


def test_cosine_ends_at_its_end_value() -> None:
    recipe = quick("voc_R18_FPN", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.WARMUP_ITERS", "0")
    assert learning_rate(recipe, 0) == pytest.approx(0.01)
    assert learning_rate(recipe, 100) == pytest.approx(0.005)
    assert learning_rate(recipe, 199) < 1e-5


def test_norm_layers_have_their_own_weight_decay() -> None:
    model = detector("voc_R18_FPN")
    optimizer = build_optimizer(quick("voc_R18_FPN"), model)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert norms and all(decay[key] == (0 if key in norms else 1e-4) for key in decay)
    assert len(decay) == len(list(model.parameters()))
    both = build_optimizer(quick("voc_R18_FPN", "SOLVER.BIAS_LR_FACTOR", "2.0"), model)
    assert {g["factor"] for g in both.param_groups} == {1.0, 2.0}


def test_precise_bn_measures_the_population() -> None:
    """Batches of different size: statistics of all samples together, not the mean of batch statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), FrozenBN(3)).train()
    model[1].training = False
    frozen = model[1].running_var.clone()
    batches = [torch.randn(n, 3, 5, 4) * s + s for n, s in ((2, 1.0), (5, 3.0), (1, 0.5))]
    stream = iter(batches)
    assert precise_bn(model, lambda: model(next(stream)), 3) == 1
    samples = torch.cat(batches).transpose(0, 1).reshape(3, -1)
    assert torch.allclose(model[0].running_mean, samples.mean(1), atol=1e-5)
    assert torch.allclose(model[0].running_var, samples.var(1, unbiased=False), rtol=1e-4)
    assert torch.equal(model[1].running_var, frozen) and model[0].momentum == 0.1
