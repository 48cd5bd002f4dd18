"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result

# Similarities held at once (float32): 64 MiB. More test images are worked off in chunks.
CHUNK_ELEMENTS = 1 << 24
TOP = 5


def nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row and their columns (M, k); of equal values the lower column wins.

    ``topk`` leaves the choice among equals open, so rows where a tie crosses the k-th place are sorted stably.
    """
    values, columns = similarity.topk(k, dim=1)
    crossing = (similarity >= values[:, -1:]).sum(1) > k
    if bool(crossing.any()):
        rows = similarity[crossing]
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :k]
        values[crossing], columns[crossing] = rows.gather(1, order), order
    return values, columns


def knn_scores(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int = 200, temperature: float = 0.07
) -> Tensor:
    """Class scores of the weighted vote of InstDisc (Wu et al. 2018, section 3.4) -> float32 (M, classes).

    Features (N, D) and (M, D) are L2-normalised here; a neighbour with cosine c votes exp(c / T) for its class.
    ``k`` is clamped to N.
    """
    train, test = F.normalize(train.float(), dim=1), F.normalize(test.float(), dim=1)
    k = min(k, len(train))
    rows = max(1, CHUNK_ELEMENTS // max(1, len(train)))
    scores = []
    for part in test.split(rows):
        values, columns = nearest(part @ train.T, k)
        votes = (values / temperature).exp()
        scores.append(torch.zeros(len(part), classes).scatter_add_(1, labels[columns], votes))
    return torch.cat(scores) if scores else torch.zeros(0, classes)


def top_accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Percent of rows whose label is among the ``top`` highest scores; of equal scores the lower class comes first.

    A class without any vote (score 0) is no answer, even if fewer than ``top`` classes got votes.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    hit = (order == labels[:, None]) & (scores.gather(1, order) > 0)
    return 100.0 * float(hit.any(1).double().mean())


@EVALUATOR_REGISTRY.register(name="knn")
class KNN:
    """Weighted k-NN accuracy of frozen, pooled trunk features (InstDisc form, T = .07)."""

    version = "1"
    seeded = False

    def __init__(self, k: int = 200, temperature: float = 0.07, features: FeatureOptions | None = None) -> None:
        self.k, self.temperature = k, temperature
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Neighbours that vote; clamped to the number of training images. 1 = plain nearest neighbour.
        node.K = 200
        # A neighbour with cosine c votes exp(c / T).
        node.T = 0.07
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        return {"k": options.KNN.K, "temperature": options.KNN.T, "features": FeatureOptions.from_options(options)}

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with class labels."""
        data.labelled_splits()

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, val = data.labelled_splits()
        x, y = extract_split(weights, train, self.features)
        xt, yt = extract_split(weights, val, self.features)
        classes = len(train.classes)
        scores = knn_scores(x, y, xt, classes, self.k, self.temperature)
        metrics = {
            "top1": top_accuracy(scores, yt),
            "top1_k1": top_accuracy(knn_scores(x, y, xt, classes, 1, self.temperature), yt),
        }
        if classes > TOP:
            metrics["top5"] = top_accuracy(scores, yt, TOP)
        counts = torch.bincount(yt, minlength=classes)
        details = {
            "train_images": len(y),
            "val_images": len(yt),
            "classes": classes,
            "k": min(self.k, len(y)),
            "temperature": self.temperature,
            "chance": 100.0 * float(counts.max()) / max(1, len(yt)),
            "input_size": self.features.input_size(weights),
        }
        return Result("knn", self.version, metrics, details=details)
