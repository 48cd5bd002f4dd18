"""Grounding: does the evidence for matching the saliency-masked key lie on the object? (CAST paper, section 4.4)

The paper publishes no evaluation code; this protocol (version below) fixes what its text leaves open:

1. images with a non-empty mask; the number of the others is reported;
2. query and key crop by the saliency-constrained sampler, phi = .2, seeded by the image's name, so that every model and
   every subset of the data meets the same crops; no colour changes, no flip;
3. the model in evaluation mode; km = target encoding of the masked key; score s = q . km;
4. G = ReLU(sum_n alpha_n A_n), divided by its maximum (a map below 1e-12 counts as zero), upsampled bilinearly;
5. B = G >= .5; IoU of B and the query's mask at the input size; an empty union is left out and counted;
6. mean, median, 50-bin histogram and a kernel density over [0, 1].
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from torch import Tensor

from ssl_loc.attention.grad_cam import similarity_grad_cam
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.crops import CropBatch, GroundingCrops, open_masked
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.map_scores import MapScores, concatenate
from ssl_loc.evaluation.weights import Weights
from ssl_loc.modeling import Method
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, DataError, check_choice
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)

# What the query may be matched with.
PAIRS = ("masked_key", "key")


def masked_key(method: Method, images: Tensor, masks: Tensor) -> Tensor:
    """Target encoding of ``images * masks`` -> (N, D).

    Multiplied after normalisation, so that the rest becomes the mean colour (official CAST code). ``images`` uint8
    (N, 3, h, w), ``masks`` bool (N, 1, h, w).
    """
    return method.encode_target(method.normalize(images) * masks, normalized=True)


def similarity_maps(method: Method, batch: CropBatch, pair: str = "masked_key") -> Tensor:
    """Grad-CAM of matching each query crop with its key -> float32 (N, h, w) at the resolution of the last trunk level.

    ``pair``: "masked_key" (the paper) or "key" (the whole key crop).
    """
    if pair == "masked_key":
        key = masked_key(method, batch.key, batch.key_mask)
    elif pair == "key":
        key = method.encode_target(batch.key)
    else:
        raise ConfigError(f"GROUNDING.PAIR is '{pair}'; expected 'masked_key' or 'key'")
    return similarity_grad_cam(method, batch.query, key)


@EVALUATOR_REGISTRY.register(name="grounding")
class Grounding:
    """IoU of the similarity Grad-CAM of matching the masked key with the query's saliency mask (needs a checkpoint)."""

    version = "1"

    def __init__(
        self,
        *,
        phi: float = 0.2,
        sampler: str = "uniform",
        threshold: float = 0.5,
        grid: str = "input",
        norm: str = "max",
        pair: str = "masked_key",
        bins: int = 50,
        seed: int = 0,
        size: int = 0,
        batch_size: int = 64,
    ) -> None:
        check_choice("GROUNDING.PAIR", pair, PAIRS)
        self.scores = MapScores(threshold, grid, norm, bins)
        self.phi, self.sampler, self.pair = phi, sampler, pair
        self.seed, self.size, self.batch_size = seed, size, batch_size

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Smallest share of the salient area that each crop covers (CAST paper, section 3.1).
        node.PHI = 0.2
        # Crop sampler, as AUGMENT.CONSTRAINED_CROP.SAMPLER.
        node.SAMPLER = "uniform"
        # A map value counts as "looked at" from this share of the maximum on (CAST paper, section 4.4).
        node.THRESHOLD = 0.5
        # Compare at the "input" size (map upsampled), or at the size of the "map" (mask averaged, salient from .5 on).
        node.GRID = "input"
        # Scale maps by their "max", or to their range: "minmax".
        node.NORM = "max"
        # What the query is matched with: "masked_key" (the paper) or the whole "key".
        node.PAIR = "masked_key"
        # Histogram bins over [0, 1].
        node.BINS = 50
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.GROUNDING
        return {
            "phi": o.PHI,
            "sampler": o.SAMPLER,
            "threshold": o.THRESHOLD,
            "grid": o.GRID,
            "norm": o.NORM,
            "pair": o.PAIR,
            "bins": o.BINS,
            "seed": options.SEED,
            "size": options.SIZE,
            "batch_size": options.BATCH_SIZE,
        }

    def crops(self, data: EvalData, weights: Weights) -> GroundingCrops:
        """The fixed crops for these weights (they depend on the weights through the input size only)."""
        size = self.size or weights.input_size()
        return GroundingCrops(data, size=size, phi=self.phi, sampler=self.sampler, seed=self.seed)

    def check_weights(self, weights: Weights) -> None:
        """The head and the key encoder are part of the question."""
        weights.require_method()

    def check_data(self, data: EvalData) -> None:
        """Images with masks."""
        open_masked(data)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        method = weights.method()
        crops = self.crops(data, weights)
        rows: list[dict[str, np.ndarray]] = []
        names: list[str] = []
        bar = progress_bar(total=len(crops), desc=f"grounding of {weights.label}", unit="image")
        for batch in crops.batches(self.batch_size):
            batch = batch.to(weights.device)
            rows.append(self.measure(similarity_maps(method, batch, self.pair), batch.query_mask[:, 0]))
            names += batch.names
            bar.update(len(batch.names))
        bar.close()
        if not rows:
            raise DataError(f"{data.spec} has no image with a non-empty mask ({data.masks}); grounding needs some")
        return self.summarize(concatenate(rows), names, crops)

    def measure(self, cams: Tensor, masks: Tensor) -> dict[str, np.ndarray]:
        """Per-image numbers from rectified maps (N, h, w) and boolean masks (N, H, W)."""
        return self.scores.measure(cams, masks)

    def summarize(self, rows: dict[str, np.ndarray], names: list[str], crops: GroundingCrops) -> Result:
        """Averages over images; images whose union is empty are left out of the IoU."""
        details = {
            **self.scores.details(rows, names),
            "images_without_mask": crops.skipped,
            "constraint_unmet": crops.unmet,
            "input_size": crops.size,
            "options": {"phi": self.phi, "sampler": self.sampler, "pair": self.pair, **self.scores.options()},
        }
        return Result("grounding", self.version, self.scores.metrics(rows), seed=self.seed, details=details)
