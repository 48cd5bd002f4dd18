"""torchvision's region proposal network with detectron2's loss normalisation and proposal selection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image

from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.torchvision_engine.anchors import Anchors
from ssl_loc.transfer.torchvision_engine.box_loss import box_loss_sum


class RPN(RegionProposalNetwork):
    """Differences from torchvision: losses are sums divided by (anchors asked for x images), L1 instead of smooth L1
    1/9, ranking by logit (probabilities saturate and tie), proposals of exactly ``min_size`` are dropped.

    Args:
        beta: of smooth L1.
        loss_weights: of (objectness, boxes).
        min_size: px; a proposal must be wider and higher.
        **kwargs: of torchvision's RegionProposalNetwork.
    """

    def __init__(
        self,
        *,
        box_weights: tuple[float, ...],
        beta: float,
        loss_weights: tuple[float, float],
        min_size: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.box_coder = BoxCoder(box_weights)  # type: ignore[arg-type]
        self.beta = beta
        self.loss_weights = loss_weights
        self.min_size = min_size
        self.batch_size_per_image = kwargs["batch_size_per_image"]

    @classmethod
    def from_recipe(cls, recipe: Recipe, channels: int, strides: list[int]) -> RPN:
        """The RPN of a recipe for maps of ``channels`` at ``strides``."""
        node, cells = recipe.MODEL.RPN, recipe.MODEL.ANCHOR_GENERATOR
        anchors = Anchors(cells.SIZES, cells.ASPECT_RATIOS, strides, cells.OFFSET)
        return cls(
            anchor_generator=anchors,
            head=RPNHead(channels, anchors.per_location[0]),
            fg_iou_thresh=node.IOU_THRESHOLDS[1],
            bg_iou_thresh=node.IOU_THRESHOLDS[0],
            batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            pre_nms_top_n={"training": node.PRE_NMS_TOPK_TRAIN, "testing": node.PRE_NMS_TOPK_TEST},
            post_nms_top_n={"training": node.POST_NMS_TOPK_TRAIN, "testing": node.POST_NMS_TOPK_TEST},
            nms_thresh=node.NMS_THRESH,
            box_weights=tuple(node.BBOX_REG_WEIGHTS),
            beta=node.SMOOTH_L1_BETA,
            loss_weights=(node.LOSS_WEIGHT, node.LOSS_WEIGHT * node.BBOX_REG_LOSS_WEIGHT),
            min_size=recipe.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        )

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Losses of the sampled anchors, divided by BATCH_SIZE_PER_IMAGE x images, however many were found."""
        positive, negative = (torch.cat(part).nonzero()[:, 0] for part in self.fg_bg_sampler(labels))
        sampled = torch.cat([positive, negative])
        normaliser = self.batch_size_per_image * len(labels)
        truth = torch.cat(labels)[sampled]
        logits = objectness.flatten()[sampled].float()
        object_loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        target = torch.cat(list(regression_targets))[positive]
        box_loss = box_loss_sum(pred_bbox_deltas[positive].float(), target, self.beta)
        return self.loss_weights[0] * object_loss / normaliser, self.loss_weights[1] * box_loss / normaliser

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Best logits per level, clip, drop small, NMS per level, best of the image -> boxes and logits per image."""
        count = proposals.shape[0]
        logits = objectness.detach().reshape(count, -1)
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        level_of = torch.cat([torch.full((n,), i, device=logits.device) for i, n in enumerate(num_anchors_per_level)])
        boxes_out, logits_out = [], []
        for image in range(count):
            index = best[image]
            boxes, scores, level = proposals[image, index], logits[image, index], level_of[index]
            finite = torch.isfinite(boxes).all(1) & torch.isfinite(scores)
            boxes = clip_boxes_to_image(boxes, image_shapes[image])
            keep = finite & ((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(1)
            boxes, scores, level = boxes[keep], scores[keep], level[keep]
            kept = batched_nms(boxes, scores, level, self.nms_thresh)[: self.post_nms_top_n()]
            boxes_out.append(boxes[kept])
            logits_out.append(scores[kept])
        return boxes_out, logits_out
