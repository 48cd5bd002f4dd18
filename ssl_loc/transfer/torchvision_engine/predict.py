"""Detections in the pixels of the original images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl_loc.transfer.predictions import ImagePrediction, encode_masks
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.stop import Stop
from ssl_loc.transfer.torchvision_engine.loader import checked, test_loader
from ssl_loc.transfer.torchvision_engine.mapper import Example
from ssl_loc.transfer.torchvision_engine.model import Detector
from ssl_loc.utils.comm import all_gather_object, is_main_process
from ssl_loc.utils.progress import progress_bar


@torch.no_grad()
def predict_dataset(
    recipe: Recipe, model: Detector, name: str, records: list[dict[str, Any]], stop: Stop | None = None
) -> list[ImagePrediction]:
    """Predictions of every record, in the records' order, on the main process; an empty list on the others.

    Raises:
        RunStopped: ``stop`` asked for it.
    """
    was_training, stop = model.training, stop or Stop()
    model.eval()
    mine: list[ImagePrediction] = []
    show = is_main_process()
    for example in progress_bar(test_loader(recipe, records), desc=f"testing on {name}", unit="image", show=show):
        if stop.signal:
            break
        mine.append(predict_image(model, checked(example)))
    model.train(was_training)
    stop.check(model.device)
    shares = all_gather_object(mine)
    if not is_main_process():
        return []
    # Process r holds records r, r + world, r + 2 world, ...
    return [shares[i % len(shares)][i // len(shares)] for i in range(len(records))]


@torch.no_grad()
def predict_image(model: Detector, example: Example) -> ImagePrediction:
    """Detections of one example, scaled back to the size its record gives, clipped, empty boxes dropped."""
    found = model([example.image])[0]
    height, width = int(example.record["height"]), int(example.record["width"])
    boxes = to_original(found["boxes"], (example.image.shape[1], example.image.shape[2]), (height, width))
    keep = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    boxes = boxes[keep]
    masks = None
    if "masks" in found:
        from ssl_loc.transfer.torchvision_engine.masks import paste_masks  # pycocotools only where masks are predicted

        masks = encode_masks(paste_masks(found["masks"][keep], boxes, (height, width)).numpy())
    return ImagePrediction(
        image_id=example.record["image_id"],
        boxes=boxes.cpu().numpy(),
        scores=found["scores"][keep].cpu().numpy(),
        classes=(found["labels"][keep] - 1).cpu().numpy(),
        masks=masks,
    )


def to_original(boxes: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Boxes of the resized image (h, w) -> px of the original one, clipped to it."""
    (height, width), (new_height, new_width) = original, resized
    scale = boxes.new_tensor([width / new_width, height / new_height] * 2)
    limit = boxes.new_tensor([width, height] * 2)
    return (boxes * scale).clamp(min=0).minimum(limit)
