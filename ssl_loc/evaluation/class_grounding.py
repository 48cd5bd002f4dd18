"""Class grounding: does a linear probe find its class on the object? (CAST paper, section 4.4 and Fig. 6)

The paper shows pictures only; the numbers are those of the similarity protocol (evaluation/grounding.py), with the
logit of the image's class in the place of the similarity. It needs the trunk alone, so it takes weights of any origin.

1. a linear classifier on frozen pooled features (evaluation/class_probe.py);
2. whole photos under the classifier's test transform, their masks alike; images without a mask inside are counted;
3. G = ReLU(sum_n alpha_n A_n), alpha the gradient of the logit of the true class (predicted, where none is known);
4. G over its maximum, upsampled bilinearly, looked at from .5 on: IoU, pointing game, energy in the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_loc.attention.grad_cam import score_grad_cam
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.class_probe import ClassProbe, ProbeOptions
from ssl_loc.evaluation.crops import open_masked
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, state_digest
from ssl_loc.evaluation.map_scores import MapScores, concatenate
from ssl_loc.evaluation.masked_photos import MaskedPhotos, PhotoBatch
from ssl_loc.evaluation.weights import Trunk, Weights
from ssl_loc.structures import Result
from ssl_loc.utils.progress import progress_bar

NODE = "CLASS_GROUNDING"


def class_maps(trunk: Trunk, probe: ClassProbe, batch: PhotoBatch, options: ProbeOptions) -> tuple[Tensor, Tensor]:
    """Grad-CAM of the logit asked for, float32 (N, h, w), and the classifier's choice, int64 (N,); on the CPU."""
    cams, pooled = score_grad_cam(
        trunk.backbone, trunk.normalize(batch.images), lambda z: options.score(probe, z, batch.labels)
    )
    return cams.cpu(), probe.logits(pooled).argmax(1).cpu()


def answers(predicted: Tensor, labels: Tensor) -> np.ndarray:
    """1 where the classifier is right, 0 where it is wrong, NaN where the class is unknown: float64 (N,)."""
    right = (predicted == labels).double()
    return torch.where(labels >= 0, right, torch.full_like(right, float("nan"))).numpy()


@EVALUATOR_REGISTRY.register(name="class_grounding")
class ClassGrounding:
    """IoU of the Grad-CAM of a linear probe's class logit with the mask (any weights; needs labels to train on)."""

    version = "1"
    seeded = False

    def __init__(
        self,
        *,
        probe: ProbeOptions | None = None,
        threshold: float = 0.5,
        grid: str = "input",
        norm: str = "max",
        bins: int = 50,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        self.features = features or FeatureOptions()
        self.probe = probe or ProbeOptions(features=self.features)
        self.scores = MapScores(threshold, grid, norm, bins, NODE)
        self.seed = seed

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        ProbeOptions.declare(node)
        # As the keys of the same names of GROUNDING.
        node.THRESHOLD = 0.5
        node.GRID = "input"
        node.NORM = "max"
        node.BINS = 50
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options[NODE]
        return {
            "probe": ProbeOptions.from_options(options, NODE),
            "threshold": o.THRESHOLD,
            "grid": o.GRID,
            "norm": o.NORM,
            "bins": o.BINS,
            "seed": options.SEED,
            "features": FeatureOptions.from_options(options),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """Images with masks, and labelled ones to train on."""
        self.probe.split(data)
        open_masked(data)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        probe = self.probe.train(weights, data)
        trunk = weights.trunk()
        before = state_digest(trunk.backbone)
        photos = MaskedPhotos(data, self.features.input_size(weights), probe.classes)
        shared = self.probe.shared(data, photos.records)
        rows: list[dict[str, np.ndarray]] = []
        names: list[str] = []
        with progress_bar(total=len(photos), desc=f"class grounding of {weights.label}", unit="image") as bar:
            for batch in photos.batches(self.features.batch_size):
                cams, predicted = class_maps(trunk, probe, batch, self.probe)
                right = answers(predicted, batch.labels)
                rows.append({**self.scores.measure(cams, batch.masks), "right": right})
                names += batch.names
                bar.update(len(batch.names))
        assert state_digest(trunk.backbone) == before, "the frozen trunk changed while it was looked into"
        result = self.summarize(concatenate(rows), names, photos, probe)
        result.details["test_images_trained_on"] = shared
        return result

    def summarize(
        self, rows: dict[str, np.ndarray], names: list[str], photos: MaskedPhotos, probe: ClassProbe
    ) -> Result:
        """Averages over images, and over those that the classifier gets right and wrong."""
        known = ~np.isnan(rows["right"])
        metrics = self.scores.metrics(rows)
        if known.any():
            metrics["probe_top1"] = 100.0 * float(rows["right"][known].mean())
        for word, part in (("right", rows["right"] == 1), ("wrong", rows["right"] == 0)):
            part &= ~np.isnan(rows["iou"])
            if part.any():
                metrics[f"iou_mean_{word}"] = float(rows["iou"][part].mean())
        details = {
            **self.scores.details(rows, names),
            "images_without_mask": photos.skipped,
            "images_mask_outside_crop": photos.outside,
            "input_size": photos.size,
            "probe": {"data": probe.source, "images": probe.images, "classes": len(probe.classes), "C": self.probe.c},
            "images_of_known_class": int(known.sum()),
            "options": {"target": self.probe.target, **self.scores.options()},
        }
        return Result("class_grounding", self.version, metrics, seed=self.seed, details=details)
