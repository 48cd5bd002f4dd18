"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.weights import Weights
from ssl_loc.layers.neighbours import knn_scores, nearest, neighbours, top_accuracy, vote
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError

__all__ = ["KNN", "knn_scores", "nearest", "neighbours", "top_accuracy", "vote"]

TOP = 5


@EVALUATOR_REGISTRY.register(name="knn")
class KNN:
    """Weighted k-NN accuracy of frozen, pooled trunk features (InstDisc form, T = .07)."""

    version = "1"
    seeded = False

    def __init__(
        self,
        k: int = 200,
        temperature: float = 0.07,
        grid: Sequence[int] = (),
        features: FeatureOptions | None = None,
    ) -> None:
        if min([k, *grid]) < 1:
            raise ConfigError(f"KNN.K is {k}, KNN.GRID {list(grid)}; expected 1 neighbour or more")
        if temperature <= 0:
            raise ConfigError(f"KNN.T is {temperature}; expected a positive temperature")
        self.k, self.temperature, self.grid = k, temperature, list(grid)
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Neighbours that vote; clamped to the number of training images. 1 = plain nearest neighbour.
        node.K = 200
        # A neighbour with cosine c votes exp(c / T).
        node.T = 0.07
        # Other numbers of neighbours to report as well, e.g. [10, 20, 100, 200] (OpenMixup, DINO).
        node.GRID = []
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.KNN
        return {"k": o.K, "temperature": o.T, "grid": o.GRID, "features": FeatureOptions.from_options(options)}

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with class labels."""
        data.labelled_splits()
        data.shared_images()

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, val = data.labelled_splits()
        x, y = extract_split(weights, train, self.features)
        xt, yt = extract_split(weights, val, self.features)
        classes = len(train.classes)
        cosines, indices = neighbours(x, xt, max([self.k, *self.grid]), weights.device)
        votes = y[indices]
        metrics: dict[str, float] = {}
        for k, name in self._reported():
            scores = vote(cosines[:, :k], votes[:, :k], classes, self.temperature)
            metrics[f"top1{name}"] = top_accuracy(scores, yt)
            if classes > TOP and k > 1:
                metrics[f"top5{name}"] = top_accuracy(scores, yt, TOP)
        counts = torch.bincount(yt, minlength=classes)
        details = {
            "train_images": len(y),
            "val_images": len(yt),
            "test_images_trained_on": data.shared_images(),
            "classes": classes,
            "k": min(self.k, len(y)),
            "temperature": self.temperature,
            "chance": 100.0 * float(counts.max()) / max(1, len(yt)),
            "input_size": self.features.input_size(weights),
        }
        return Result("knn", self.version, metrics, details=details)

    def _reported(self) -> list[tuple[int, str]]:
        """Numbers of neighbours and the endings of their metrics: K has none."""
        return [(self.k, ""), (1, "_k1"), *((k, f"_k{k}") for k in self.grid if k != 1)]
