"""The torchvision engine's detector is detectron2's: same weights, same image, same proposals, detections, losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detection_data import draw_detection_data
from torch import Tensor, nn

from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.transfer.build import TransferJob, Trunk
from ssl_loc.transfer.detector_names import detector_from_detectron2, detector_to_detectron2
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import Recipe, architecture, load_recipe
from ssl_loc.transfer.torchvision_engine.model import build_detector

HERE, WHY = Detectron2Engine().available()
pytestmark = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
# The engines' random samplers draw differently, so every candidate is sampled.
ALL = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.01,
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    "MODEL.RESNETS.NORM": "BN",
}
FPN = {"MODEL.MASK_ON": True, "MODEL.FPN.NORM": "BN", "MODEL.FPN.OUT_CHANNELS": 32, "MODEL.ROI_BOX_HEAD.FC_DIM": 64}
FPN |= {"MODEL.ROI_MASK_HEAD.CONV_DIM": 16, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "C4 basic": (
        "C4",
        {"depth": 18},
        {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7},
    ),
    "C4 bottleneck": ("C4", {"depth": 50, "width": 16}, {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7}),
    "FPN basic, masks": ("FPN", {"depth": 18}, {**FPN, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}),
    "FPN bottleneck, masks": ("FPN", {"depth": 50, "width": 16}, {**FPN, "MODEL.FPN.NORM": ""}),
    "FPN other losses": (
        "FPN",
        {"depth": 18, "width": 16, "layers": [1, 1, 1, 1]},
        {
            **FPN,
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
            "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 2,
        },
    ),
}


class Pair:
    """One recipe on both engines with the same weights, and a batch of two images of odd size."""

    def __init__(self, arch: str, kwargs: dict[str, Any], keys: dict[str, Any], out: Path) -> None:
        values = {**ALL, "MODEL.RESNETS.DEPTH": kwargs["depth"], **keys}
        words = [str(word) for pair in values.items() for word in pair]
        self.recipe: Recipe = load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml", words)
        self.arch = architecture(self.recipe)
        torch.manual_seed(0)
        self.ours = build_detector(self.recipe, {"name": "ResNet", "kwargs": kwargs})
        self.theirs = self._detectron2(kwargs, out)
        generator = torch.Generator().manual_seed(1)
        small = [torch.randint(0, 256, (1, 3, 17, 19), generator=generator).float() for _ in range(2)]
        sizes = ((130, 150), (97, 161))
        resize = nn.functional.interpolate
        self.images = [
            resize(x, size=size, mode="bilinear")[0].to(torch.uint8) for x, size in zip(small, sizes, strict=True)
        ]
        self.targets = [
            {
                "boxes": torch.tensor([[10.0, 20, 70, 80], [60.0, 30, 120, 90]]),
                "labels": torch.tensor([1, 3]),
                "polygons": [[np.array([10.0, 20, 70, 20, 70, 80, 30, 60])], [np.array([60.0, 30, 120, 35, 115, 90])]],
            }
            for _ in self.images
        ]
        self._make_interesting()
        self.theirs.load_state_dict(detector_to_detectron2(self.ours.state_dict(), self.arch), strict=True)

    def _detectron2(self, kwargs: dict[str, Any], out: Path) -> nn.Module:
        from ssl_loc.transfer.detectron2_engine.engine import make_config
        from ssl_loc.transfer.detectron2_engine.model import build_detector as build

        description = {"name": "ResNet", "kwargs": kwargs}
        state = build_backbone_from_description(description).state_dict()
        job = TransferJob(self.recipe, out, trunk=Trunk(state, {"backbone": description}))
        return build(make_config(job, self.recipe, description), 0)

    def _make_interesting(self) -> None:
        """Norm statistics of these images, and heads that are sure of something."""
        for key, value in self.ours.state_dict().items():
            if key.endswith("weight") and ("predictor" in key or "rpn.head" in key):
                value.mul_(5)
        norms = [m for m in self.ours.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            self.ours.train()(self.images, self.targets)

    def inputs(self) -> list[dict[str, Any]]:
        from detectron2.structures import Boxes, Instances, PolygonMasks

        rows = []
        for image, target in zip(self.images, self.targets, strict=True):
            truth = Instances(tuple(image.shape[1:]))
            truth.gt_boxes, truth.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
            if self.recipe.MODEL.MASK_ON:
                truth.gt_masks = PolygonMasks(target["polygons"])
            rows.append({"image": image, "height": image.shape[1], "width": image.shape[2], "instances": truth})
        return rows


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*CASES[request.param], tmp_path_factory.mktemp("parity"))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def test_weights_go_there_and_back(pair: Pair) -> None:
    own = pair.ours.state_dict()
    back = detector_from_detectron2(pair.theirs.state_dict(), pair.arch)
    assert back.keys() == own.keys()
    unused = ("box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")  # have rows that detectron2 has not
    assert all(torch.equal(back[k], own[k]) for k in own if not any(name in k for name in unused))


@torch.no_grad()
def test_inference_is_equal(pair: Pair) -> None:
    ours, theirs = pair.ours.eval(), pair.theirs.eval()
    batch, listed = ours.preprocess(pair.images), theirs.preprocess_image(pair.inputs())
    assert relative(batch.tensors, listed.tensor) < 1e-6
    maps, reference = ours.features(batch.tensors), theirs.backbone(listed.tensor)
    assert all(relative(maps[name], value) < 1e-5 for name, value in reference.items())
    proposals, _ = ours.rpn(batch, {name: maps[name] for name in ours.rpn_features})
    wanted, _ = theirs.proposal_generator(listed, reference)
    for found, want in zip(proposals, wanted, strict=True):
        assert (found - want.proposal_boxes.tensor).abs().max() < 1e-3
    results = theirs.inference(pair.inputs(), do_postprocess=False)
    for found, want in zip(ours(pair.images), results, strict=True):
        assert len(want) > 5 and torch.equal(found["labels"] - 1, want.pred_classes)
        assert (found["boxes"] - want.pred_boxes.tensor).abs().max() < 1e-3
        assert (found["scores"] - want.scores).abs().max() < 1e-5
        if pair.recipe.MODEL.MASK_ON:
            assert (found["masks"] - want.pred_masks[:, 0]).abs().max() < 1e-5


@torch.no_grad()
def test_results_in_original_pixels_are_equal(pair: Pair) -> None:
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


def test_losses_and_gradients_are_equal(pair: Pair) -> None:
    from detectron2.utils.events import EventStorage

    ours, theirs = pair.ours.train(), pair.theirs.train()
    for module in [*ours.modules(), *theirs.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    found = ours(pair.images, pair.targets)
    with EventStorage(0):
        want = theirs(pair.inputs())
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert value > 0 and found[name].item() == pytest.approx(value.item(), rel=1e-5), name
    sum(found.values()).backward()
    sum(want.values()).backward()
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in ours.named_parameters()}
    converted = detector_to_detectron2(gradients, pair.arch)
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        if parameter.grad.norm() > 1e-6:
            assert relative(converted[name], parameter.grad) < 1e-4, name


@pytest.mark.parametrize("pair", ["FPN other losses"], indirect=True)
def test_learning_rate_and_groups_are_equal(pair: Pair) -> None:
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


def test_training_pixels_and_targets_are_equal(tmp_path: Path) -> None:
    """The same seed: both engines train on the same images, sizes, flips, boxes and polygons, in the same order."""
    from ssl_loc.transfer.datasets import get_detection_datasets
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.data import TrainingLoader
    from ssl_loc.transfer.torchvision_engine.loader import training_loader, training_records

    names = draw_detection_data(tmp_path)
    recipe = load_recipe(
        CONFIGS / "quick/coco_R18_FPN_mask.yaml",
        ["DATASETS.TRAIN", names["coco_train"], "MODEL.ROI_HEADS.NUM_CLASSES", "2", "SEED", "3"],
    )
    dataset = get_detection_datasets(recipe.DATASETS.TRAIN)
    ours = training_loader(recipe, training_records(recipe))
    theirs = iter(TrainingLoader(to_detectron2(recipe), dataset, 3, workers=0))
    sizes = set()
    for _ in range(12):
        for found, want in zip(next(ours), next(theirs), strict=True):
            assert found.record["image_id"] == want["image_id"]
            assert torch.equal(found.image, want["image"])
            truth = want["instances"]
            assert torch.allclose(found.target["boxes"], truth.gt_boxes.tensor, atol=1e-4)
            assert torch.equal(found.target["labels"] - 1, truth.gt_classes)
            for polygons, reference in zip(found.target["polygons"], truth.gt_masks.polygons, strict=True):
                assert all(np.allclose(a, b) for a, b in zip(polygons, reference, strict=True))
            sizes.add(tuple(found.image.shape))
    assert len(sizes) > 3  # the short side was drawn
