"""Input gradients: do the pixels that move the class score lie on the object? (DiLo paper, section 3 and Fig. 2)

1. a linear classifier on frozen pooled features (evaluation/class_probe.py);
2. whole photos under the classifier's test transform, their masks alike; images without a mask inside are counted;
3. the logit of the true class (predicted, where none is known) back to the pixels, largest |gradient| of the three
   channels, divided by its 99th percentile per image and clipped at 1;
4. the share of that map's sum inside of the mask, beside the share that the mask has of the picture: what a gradient
   spread evenly would have. An image looks at its background where the first is below the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ssl_loc.attention.input_gradient import PERCENTILE, clip_at_percentile, input_gradient
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.class_grounding import answers
from ssl_loc.evaluation.class_probe import ClassProbe, ProbeOptions
from ssl_loc.evaluation.crops import open_masked
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, state_digest
from ssl_loc.evaluation.map_scores import concatenate
from ssl_loc.evaluation.maps import energy_inside
from ssl_loc.evaluation.masked_photos import MaskedPhotos, PhotoBatch
from ssl_loc.evaluation.weights import Trunk, Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

NODE = "INPUT_GRADIENT"


def gradient_maps(
    trunk: Trunk, probe: ClassProbe, batch: PhotoBatch, options: ProbeOptions, percentile: float = PERCENTILE
) -> tuple[Tensor, Tensor]:
    """Clipped gradients float32 (N, S, S) in [0, 1] and the classifier's choice int64 (N,); on the CPU."""
    chosen: list[Tensor] = []

    def score(pixels: Tensor) -> Tensor:
        pooled = trunk.backbone.pooled(trunk.backbone(trunk.normalize(pixels)))
        chosen.append(probe.logits(pooled.detach()).argmax(1))
        return options.score(probe, pooled, batch.labels)

    gradient = input_gradient(score, batch.images.to(trunk.mean.device))
    return clip_at_percentile(gradient, percentile).cpu(), chosen[0].cpu()


@EVALUATOR_REGISTRY.register(name="input_gradient")
class InputGradients:
    """Share of the input gradient of a linear probe's class logit that lies on the object (any weights)."""

    version = "1"
    seeded = False

    def __init__(
        self,
        *,
        probe: ProbeOptions | None = None,
        percentile: float = PERCENTILE,
        seed: int = 0,
        features: FeatureOptions | None = None,
    ) -> None:
        if not 0 < percentile <= 100:
            raise ConfigError(f"{NODE}.PERCENTILE is {percentile}; expected a number above 0, at most 100")
        self.features = features or FeatureOptions()
        self.probe = probe or ProbeOptions(features=self.features, node=NODE)
        self.percentile, self.seed = percentile, seed

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        ProbeOptions.declare(node)
        # Gradients above this percentile of their image count as 1, so that a few pixels do not hide the rest.
        node.PERCENTILE = PERCENTILE
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        return {
            "probe": ProbeOptions.from_options(options, NODE),
            "percentile": options[NODE].PERCENTILE,
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
        with progress_bar(total=len(photos), desc=f"input gradients of {weights.label}", unit="image") as bar:
            for batch in photos.batches(self.features.batch_size):
                maps, predicted = gradient_maps(trunk, probe, batch, self.probe, self.percentile)
                rows.append({**measure(maps, batch.masks), "right": answers(predicted, batch.labels)})
                names += batch.names
                bar.update(len(batch.names))
        assert state_digest(trunk.backbone) == before, "the frozen trunk changed while it was looked into"
        merged = concatenate(rows)
        details = {
            "images": len(names),
            "test_images_trained_on": shared,
            "images_without_mask": photos.skipped,
            "images_mask_outside_crop": photos.outside,
            "input_size": photos.size,
            "probe": {"data": probe.source, "images": probe.images, "classes": len(probe.classes), "C": self.probe.c},
            "images_of_known_class": int((~np.isnan(merged["right"])).sum()),
            "options": {"target": self.probe.target, "percentile": self.percentile},
            "per_image": {"name": names, "energy_in_mask": [round(float(v), 4) for v in merged["energy"]]},
        }
        return Result("input_gradient", self.version, summarize(merged), seed=self.seed, details=details)


def measure(maps: Tensor, masks: Tensor) -> dict[str, np.ndarray]:
    """Per image, from maps (N, S, S) in [0, 1] and bool masks: share of the sum inside, and the mask's share."""
    return {
        "energy": energy_inside(maps, masks).numpy(),
        "mask_share": masks.flatten(1).double().mean(1).numpy(),
    }


def summarize(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """Averages over all images, and over those that the classifier gets right and wrong (per cent where said so)."""
    energy, share = rows["energy"], rows["mask_share"]
    metrics = {
        "energy_in_mask": float(energy.mean()),
        # What a gradient spread evenly over the picture would have.
        "mask_share": float(share.mean()),
        # 1 = blind to the object, above 1 = drawn to it.
        "energy_over_area": float(energy.mean() / share.mean()),
    }
    known = ~np.isnan(rows["right"])
    if known.any():
        metrics["probe_top1"] = 100.0 * float(rows["right"][known].mean())
    for word, answer in (("right", 1.0), ("wrong", 0.0)):
        part = rows["right"] == answer
        if part.any():
            metrics[f"energy_in_mask_{word}"] = float(energy[part].mean())
            # Per cent of these images whose gradient lies on the object less than its area alone would make it.
            metrics[f"on_background_{word}"] = 100.0 * float((energy[part] < share[part]).mean())
    return metrics
