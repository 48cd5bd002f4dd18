"""Run a detector over a test set and gather plain predictions."""

from __future__ import annotations

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from torch import nn

from ssl_loc.transfer.datasets import DetectionDataset
from ssl_loc.transfer.detectron2_engine.data import test_batches
from ssl_loc.transfer.detectron2_engine.noise import quiet
from ssl_loc.transfer.predictions import ImagePrediction, encode_masks
from ssl_loc.transfer.stop import Stop
from ssl_loc.utils import comm
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)


def predict(
    model: nn.Module, cfg: CfgNode, dataset: DetectionDataset, stop: Stop | None = None
) -> list[ImagePrediction]:
    """Detections of every image in the order of the dataset, on every process. Collective.

    Raises:
        RunStopped: ``stop`` asked for it.
    """
    stop = stop or Stop()
    plain = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    found: list[ImagePrediction] = []
    bar = progress_bar(
        test_batches(cfg, dataset),
        desc=f"detecting on {dataset.name}",
        # This process's share.
        total=-(-len(dataset) // comm.get_world_size()),
        unit="image",
        show=comm.is_main_process(),
    )
    with inference_context(plain), torch.no_grad(), quiet():
        for inputs in bar:
            if stop.signal:
                break
            for row, output in zip(inputs, plain(inputs), strict=True):
                found.append(to_prediction(row["image_id"], output["instances"]))
    stop.check(next(plain.parameters()).device)
    parts = comm.all_gather_object(found)
    by_image = {prediction.image_id: prediction for part in parts for prediction in part}
    return [by_image[row["image_id"]] for row in dataset.dicts]


def to_prediction(image_id: int | str, instances: Any) -> ImagePrediction:
    """detectron2's ``Instances`` in original pixels -> plain values; masks as run-length codes."""
    instances = instances.to("cpu")
    masks = encode_masks(instances.pred_masks.numpy()) if instances.has("pred_masks") else None
    return ImagePrediction(image_id, instances.pred_boxes.tensor, instances.scores, instances.pred_classes, masks)
