"""torchvision's RoI heads with detectron2's losses and selection; labels are 1..K here, 0 is background."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads as _TorchvisionRoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image

from ssl_loc.transfer.torchvision_engine.box_loss import box_loss_sum

Target = dict[str, Any]


class RoIHeads(_TorchvisionRoIHeads):
    """Differences from torchvision: L1 box loss, mask targets as detectron2 draws them, no minimum size of detections.

    Args:
        beta: of the smooth L1 box loss.
        box_loss_weight: factor of that loss.
        append_truth: add the ground-truth boxes to the proposals in training.
        **kwargs: of torchvision's RoIHeads.
    """

    def __init__(self, *, beta: float, box_loss_weight: float, append_truth: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta = beta
        self.box_loss_weight = box_loss_weight
        self.append_truth = append_truth

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training; boxes, scores, labels (and mask probabilities (n, m, m)) per image otherwise."""
        if self.training:
            assert targets is not None  # the detector passes them in training
            return [], self._losses(features, proposals, image_shapes, targets)
        vectors, _ = self.box_features(features, proposals, image_shapes)
        logits, deltas = self.box_predictor(vectors)
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        results = [dict(zip(("boxes", "scores", "labels"), parts, strict=True)) for parts in zip(*found, strict=True)]
        if self.has_mask():
            self._add_masks(features, results, image_shapes)
        return results, {}

    def has_mask(self) -> bool:
        return self.mask_predictor is not None

    def check_targets(self, targets: list[Target] | None) -> None:
        """Nothing to check: the mapper made the targets (polygons stand in for torchvision's bitmaps)."""

    def add_gt_proposals(self, proposals: list[Tensor], gt_boxes: list[Tensor]) -> list[Tensor]:
        return super().add_gt_proposals(proposals, gt_boxes) if self.append_truth else list(proposals)

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Score threshold (strict), NMS per class, best of the image -> boxes, scores, labels per image."""
        counts = [len(p) for p in proposals]
        classes = class_logits.shape[1]
        all_boxes = self.box_coder.decode(box_regression.float(), proposals).reshape(-1, classes, 4)
        all_scores = F.softmax(class_logits.float(), -1)
        out: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(all_boxes.split(counts), all_scores.split(counts), image_shapes, strict=True):
            finite = torch.isfinite(boxes).all(-1).all(-1) & torch.isfinite(scores).all(-1)
            boxes, scores = clip_boxes_to_image(boxes[finite, 1:], shape), scores[finite, 1:]
            row, column = (scores > self.score_thresh).nonzero(as_tuple=True)
            boxes, scores = boxes[row, column], scores[row, column]
            keep = batched_nms(boxes, scores, column, self.nms_thresh)
            keep = keep if self.detections_per_img < 0 else keep[: self.detections_per_img]
            for part, values in zip(out, (boxes, scores, column + 1), strict=True):
                part.append(values[keep])
        return out

    def box_features(
        self, features: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        """(R, D) vectors for the box predictor, and the (R, D, m, m) maps that the mask head shares, if it does."""
        return self.box_head(self.box_roi_pool(features, boxes, shapes)), None

    def mask_maps(self, features: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
        """(R, C, m, m) input of the mask head."""
        return self.mask_roi_pool(features, boxes, shapes)

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
    ) -> dict[str, Tensor]:
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        vectors, maps = self.box_features(features, proposals, image_shapes)
        logits, predicted = self.box_predictor(vectors)
        losses = self.box_losses(logits.float(), predicted.float(), torch.cat(labels), torch.cat(list(deltas)))
        if self.has_mask():
            positive = [label > 0 for label in labels]
            boxes = [b[p] for b, p in zip(proposals, positive, strict=True)]
            index = [m[p] for m, p in zip(matched, positive, strict=True)]
            chosen = self.mask_maps(features, boxes, image_shapes) if maps is None else maps[torch.cat(positive)]
            mask_logits = self.mask_predictor(self.mask_head(chosen)).float()
            classes = torch.cat([label[p] for label, p in zip(labels, positive, strict=True)])
            losses["loss_mask"] = mask_loss(mask_logits, classes, boxes, index, targets)
        return losses

    def box_losses(self, logits: Tensor, predicted: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross entropy averaged over all RoIs; box loss summed over the positive ones, divided by all RoIs.

        Args:
            logits: (R, K + 1), background first.
            predicted: (R, 4 (K + 1)) deltas by class.
            labels: (R,) in 0..K.
            targets: (R, 4) deltas towards the matched object.
        """
        if labels.numel() == 0:
            return {"loss_cls": logits.sum() * 0, "loss_box_reg": predicted.sum() * 0}
        positive = (labels > 0).nonzero()[:, 0]
        own_class = predicted.reshape(len(labels), -1, 4)[positive, labels[positive]]
        box_loss = box_loss_sum(own_class, targets[positive], self.beta) / labels.numel()
        return {"loss_cls": F.cross_entropy(logits, labels), "loss_box_reg": self.box_loss_weight * box_loss}

    def _add_masks(
        self, features: dict[str, Tensor], results: list[dict[str, Tensor]], shapes: list[tuple[int, int]]
    ) -> None:
        maps = self.mask_maps(features, [r["boxes"] for r in results], shapes)
        logits = self.mask_predictor(self.mask_head(maps)).float()
        labels = torch.cat([r["labels"] for r in results])
        probabilities = logits[torch.arange(len(labels)), labels].sigmoid()
        for result, part in zip(results, probabilities.split([len(r["labels"]) for r in results]), strict=True):
            result["masks"] = part


class Res5RoIHeads(RoIHeads):
    """C4: the box head gives maps; boxes are predicted from their spatial mean, masks from the maps themselves.

    In training the maps of the positive RoIs serve both; at test time those of the detected boxes are computed again.
    """

    def box_features(
        self, features: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        maps = self.mask_maps(features, boxes, shapes)
        return maps.mean(dim=(2, 3)), maps

    def mask_maps(self, features: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
        return self.box_head(self.box_roi_pool(features, boxes, shapes))


def mask_loss(
    logits: Tensor, classes: Tensor, boxes: list[Tensor], matched: list[Tensor], targets: list[Target]
) -> Tensor:
    """Mean binary cross entropy of each positive RoI's own-class mask (P, K + 1, m, m) against its object's mask."""
    from ssl_loc.transfer.torchvision_engine.masks import mask_targets  # pycocotools only where masks are trained

    if len(classes) == 0:
        return logits.sum() * 0
    target = mask_targets(targets, boxes, matched, logits.shape[-1]).to(logits.device)
    own_class = logits[torch.arange(len(classes), device=logits.device), classes]
    return F.binary_cross_entropy_with_logits(own_class, target)
