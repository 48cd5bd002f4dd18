"""One detection recipe on both engines with the same weights and images, and how far apart what they compute is.

Needs detectron2; import it inside of tests that are skipped without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.transfer.build import TransferJob, Trunk
from ssl_loc.transfer.detector_file import restore_detector
from ssl_loc.transfer.detector_names import detector_to_detectron2
from ssl_loc.transfer.recipe import Recipe, architecture, load_recipe
from ssl_loc.transfer.torchvision_engine.model import build_detector

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"
# The engines' random samplers draw differently, so every candidate is sampled.
ALL_CANDIDATES: dict[str, Any] = {
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 100000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}
SMALL: dict[str, Any] = {
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.01,
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 60,
    "MODEL.RESNETS.NORM": "BN",
}
# Landscape and portrait in one batch; no side is a multiple of 16.
SIZES = ((131, 157), (163, 97))


class EnginePair:
    """``ours`` and ``theirs`` with equal weights.

    Args:
        arch: "C4" or "FPN".
        kwargs: of the ResNet trunk.
        keys: of the recipe, beside :data:`SMALL` and :data:`ALL_CANDIDATES`.
        out: scratch folder.
        sizes: (height, width) of the images.
    """

    def __init__(
        self,
        arch: str,
        kwargs: dict[str, Any],
        keys: dict[str, Any],
        out: Path,
        sizes: tuple[tuple[int, int], ...] = SIZES,
    ) -> None:
        values = {**ALL_CANDIDATES, **SMALL, "MODEL.RESNETS.DEPTH": kwargs["depth"], **keys}
        words = [str(word) for pair in values.items() for word in pair]
        self.recipe: Recipe = load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml", words)
        self.arch = architecture(self.recipe)
        torch.manual_seed(0)
        self.ours = build_detector(self.recipe, {"name": "ResNet", "kwargs": kwargs})
        self.theirs = self._detectron2(kwargs, out)
        self.images = [_picture(size, seed) for seed, size in enumerate(sizes)]
        self.targets = [self._target(size) for size in sizes]
        self._make_interesting()
        restore_detector(self.theirs, detector_to_detectron2(self.ours.state_dict(), self.arch), "the other engine")

    def inputs(self) -> list[dict[str, Any]]:
        """The batch in detectron2's form."""
        from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

        rows = []
        for image, target in zip(self.images, self.targets, strict=True):
            truth = Instances(tuple(image.shape[1:]))
            truth.gt_boxes, truth.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
            if "bitmasks" in target:
                truth.gt_masks = BitMasks(target["bitmasks"])
            elif "polygons" in target:
                truth.gt_masks = PolygonMasks(target["polygons"])
            rows.append({"image": image, "height": image.shape[1], "width": image.shape[2], "instances": truth})
        return rows

    @torch.no_grad()
    def inference_differences(self) -> dict[str, float]:
        """Worst relative difference of the trunk's and the pyramid's maps, of proposals and boxes in px, of scores and
        mask probabilities; "wrong classes" and "fewest detections" are counts."""
        ours, theirs = self.ours.eval(), self.theirs.eval()
        batch, listed = ours.preprocess(self.images), theirs.preprocess_image(self.inputs())
        trunk = theirs.backbone if self.arch == "C4" else theirs.backbone.bottom_up
        expected, found = trunk(listed.tensor), ours.trunk(batch.tensors)
        maps, reference = ours.features(batch.tensors), theirs.backbone(listed.tensor)
        proposals, _ = ours.rpn(batch, {name: maps[name] for name in ours.rpn_features})
        wanted, _ = theirs.proposal_generator(listed, reference)
        worst = {
            "input": relative(batch.tensors, listed.tensor),
            "trunk": max(relative(found[name], value) for name, value in expected.items()),
            "maps": max(relative(maps[name], value) for name, value in reference.items()),
            "proposals": max(apart(f, w.proposal_boxes.tensor) for f, w in zip(proposals, wanted, strict=True)),
        }
        results = theirs.inference(self.inputs(), do_postprocess=False)
        pairs = list(zip(ours(self.images), results, strict=True))
        worst["boxes"] = max(apart(f["boxes"], w.pred_boxes.tensor) for f, w in pairs)
        worst["scores"] = max(apart(f["scores"], w.scores) for f, w in pairs)
        worst["wrong classes"] = float(sum((f["labels"] - 1 != w.pred_classes).sum() for f, w in pairs))
        worst["fewest detections"] = float(min(len(w) for _, w in pairs))
        if self.recipe.MODEL.MASK_ON:
            worst["masks"] = max(apart(f["masks"], w.pred_masks[:, 0]) for f, w in pairs)
        return worst

    def losses(self, frozen_statistics: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(ours, theirs) in training; ``frozen_statistics`` keeps batch norms in evaluation mode."""
        from detectron2.utils.events import EventStorage

        ours, theirs = self.ours.train(), self.theirs.train()
        for module in [*ours.modules(), *theirs.modules()]:
            if isinstance(module, _BatchNorm):
                module.train(not frozen_statistics)
        with EventStorage(0):
            return ours(self.images, self.targets), theirs(self.inputs())

    def _target(self, size: tuple[int, int]) -> dict[str, Any]:
        boxes = torch.tensor([[10.0, 20, 70, 80], [40.0, 60, 90, 125.5]])
        corners = [[np.array([10.0, 20, 70, 20, 70, 80, 30, 60])], [np.array([40.0, 60, 90, 65, 85, 125.5])]]
        target: dict[str, Any] = {"boxes": boxes, "labels": torch.tensor([1, 3])}
        if self.recipe.MODEL.MASK_ON and self.recipe.INPUT.MASK_FORMAT == "bitmask":
            from ssl_loc.transfer.torchvision_engine.masks import draw_polygons

            target["bitmasks"] = torch.from_numpy(np.stack([draw_polygons(polygons, *size) for polygons in corners]))
        elif self.recipe.MODEL.MASK_ON:
            target["polygons"] = corners
        return target

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
        for norm in self.ours.modules():
            if isinstance(norm, _BatchNorm):
                norm.momentum = 1.0
        with torch.no_grad():
            self.ours.train()(self.images, self.targets)
        for norm in self.ours.modules():
            if isinstance(norm, _BatchNorm):
                norm.momentum = 0.1


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of ``b``."""
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def apart(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; infinite if the numbers of entries differ."""
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max()) if a.numel() else 0.0


def _picture(size: tuple[int, int], seed: int) -> Tensor:
    """Smooth random colours, uint8 (3, h, w)."""
    small = torch.randint(0, 256, (1, 3, 17, 19), generator=torch.Generator().manual_seed(seed + 1)).float()
    return nn.functional.interpolate(small, size=size, mode="bilinear")[0].to(torch.uint8)
