"""Nearest neighbours in embedding space: what makes two images alike to a network? (DiLo paper, section 3)

Cosine of pooled trunk features. Queries are the test part of the data and the training part is searched; of one dataset
every image is a query and the others are searched. Where the data know their backgrounds (scenes), neighbours of
another class that share the query's background are the paper's error pattern, beside what chance would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.labelled import LabelledSplit, even_sample, shared_images, two_parts
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import FeatureOptions, extract
from ssl_loc.evaluation.weights import Weights
from ssl_loc.layers.neighbours import neighbours
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, DataError


@dataclass
class Photos:
    """Images that are compared.

    Attributes:
        source: the images; unlabelled ones too.
        labels: int64 (N,), -1 unknown.
        backgrounds: int64 (N,), -1 unknown.
    """

    source: LabelledSplit
    labels: Tensor
    backgrounds: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Neighbours:
    """The ``k`` nearest of ``bank`` for every image of ``queries``.

    Attributes:
        index: int64 (Q, k), nearest first.
        cosine: float32 (Q, k).
        within: queries and bank are the same images (none is its own neighbour).
    """

    queries: Photos
    bank: Photos
    index: Tensor
    cosine: Tensor
    within: bool

    def shared(self) -> int:
        """Queries that are searched as well, in two parts of the data: each is its own nearest neighbour."""
        bank, queries = self.bank.source, self.queries.source
        return shared_images(bank.records, queries.records, (bank.name, queries.name))


def open_photos(data: EvalData) -> tuple[Photos, Photos, bool]:
    """Queries, searched images, and whether these are the same.

    Raises:
        DataError: fewer than two images.
    """
    parts = two_parts(data.spec)
    if parts is None:
        photos = photos_of(_any_split(data.spec, data.limit))
        if len(photos) < 2:
            raise DataError(f"{data.spec} has {len(photos)} image; neighbours need at least two")
        return photos, photos, True
    bank, queries = (_any_split(part, data.limit) for part in parts)
    if bank.classes and queries.classes:
        bank, queries = data.labelled_splits()
    return photos_of(queries), photos_of(bank), False


def _any_split(spec: str, limit: int) -> LabelledSplit:
    """Every image of a dataset, with labels where it has them."""
    dataset = get_dataset(spec)
    if bool((dataset.records.labels >= 0).any()):
        return LabelledSplit.load(spec, limit)
    records = dataset.records.select(even_sample(len(dataset.records), limit).numpy())
    return LabelledSplit(spec, records, [])


def photos_of(split: LabelledSplit) -> Photos:
    """Images with what is known of them."""
    known = get_dataset(split.name).metadata.get("backgrounds", {})
    backgrounds = torch.tensor([known.get(record.key, -1) for record in split.records] if known else [-1] * len(split))
    return Photos(split, split.labels(), backgrounds)


def find_neighbours(weights: Weights, data: EvalData, k: int, features: FeatureOptions) -> Neighbours:
    """Nearest neighbours of every query; features are shared with the other protocols."""
    queries, bank, within = open_photos(data)
    x = extract(weights, queries.source, features)[0]
    y = x if within else extract(weights, bank.source, features)[0]
    cosine, index = neighbours(y, x, k + int(within), weights.device)
    if within:
        index, cosine = without_self(index, cosine)
    return Neighbours(queries, bank, index, cosine, within)


def without_self(index: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Drop row i's own number from the ``k + 1`` nearest rows (N, k + 1) of a set to itself -> (N, k).

    Where equal rows crowded it out, the last one is dropped.
    """
    own = index == torch.arange(len(index))[:, None]
    own[:, -1] |= ~own.any(1)
    shape = (len(index), index.shape[1] - 1)
    return index[~own].view(shape), cosine[~own].view(shape)


def summarize(found: Neighbours) -> dict[str, float]:
    """Per cent; numbers about classes and backgrounds only where these are known."""
    metrics: dict[str, float] = {}
    queries, bank = found.queries, found.bank
    same_class = _same(queries.labels, bank.labels[found.index])
    same_ground = _same(queries.backgrounds, bank.backgrounds[found.index])
    if bool((queries.labels >= 0).any()):
        metrics["nearest_same_class"] = _percent(same_class[:, 0])
        metrics["same_class"] = _percent(same_class)
        metrics["same_class_chance"] = _chance(queries.labels, bank.labels, found.within)
    if bool((queries.backgrounds >= 0).any()):
        metrics["same_background"] = _percent(same_ground)
        metrics["same_background_chance"] = _chance(queries.backgrounds, bank.backgrounds, found.within)
    if len(metrics) == 5:
        # The error pattern: another class, the same background.
        metrics["background_errors"] = _percent(same_ground[:, 0] & ~same_class[:, 0])
        wrong = ~same_class
        if bool(wrong.any()):
            metrics["wrong_on_same_background"] = _percent(same_ground[wrong])
            metrics["wrong_on_same_background_chance"] = _wrong_chance(found, wrong)
    return metrics


def _same(own: Tensor, others: Tensor) -> Tensor:
    """(Q,), (Q, k) -> bool (Q, k); an unknown value is like nothing."""
    return (own[:, None] == others) & (own[:, None] >= 0)


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.double().mean())


def _chance(queries: Tensor, bank: Tensor, within: bool) -> float:
    """Per cent of the searched images that share a query's value, averaged over the queries: random neighbours."""
    counts = torch.bincount(bank[bank >= 0], minlength=int(queries.max()) + 1)
    mine = torch.where(queries >= 0, counts[queries.clamp(min=0)] - int(within), 0)
    return 100.0 * float((mine / (len(bank) - int(within))).double().mean())


def _wrong_chance(found: Neighbours, wrong: Tensor) -> float:
    """What ``wrong_on_same_background`` would be with every wrong neighbour drawn among all images of other classes."""
    queries, bank = found.queries, found.bank
    shape = (int(bank.labels.max()) + 2, int(bank.backgrounds.max()) + 2)  # the last row and column: unknown
    table = torch.zeros(shape).index_put_((bank.labels, bank.backgrounds), torch.ones(len(bank)), accumulate=True)
    inside = (queries.labels < shape[0] - 1) & (queries.backgrounds < shape[1] - 1)
    label = torch.where(inside, queries.labels, -1)
    ground = torch.where(inside, queries.backgrounds, -1)
    alike = table.sum(0)[ground] - table[label, ground]
    others = len(bank) - table.sum(1)[label]
    share = torch.where(ground >= 0, alike / others.clamp(min=1), torch.zeros_like(alike))
    times = wrong.sum(1)
    return 100.0 * float((share * times).sum() / times.sum())


@EVALUATOR_REGISTRY.register(name="neighbours")
class NearestNeighbours:
    """Do the nearest neighbours of an image share its class, or its background? (any weights)"""

    version = "1"
    seeded = False

    def __init__(self, k: int = 3, examples: int = 24, features: FeatureOptions | None = None) -> None:
        if k < 1:
            raise ConfigError(f"NEIGHBOURS.K is {k}; expected at least 1")
        self.k, self.examples = k, examples
        self.features = features or FeatureOptions()

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Neighbours per image (DiLo paper, Fig. 2: 3).
        node.K = 3
        # Images, evenly spread, whose neighbours are written into the result for pictures.
        node.EXAMPLES = 24
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.NEIGHBOURS
        return {"k": o.K, "examples": o.EXAMPLES, "features": FeatureOptions.from_options(options)}

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """Any two images; labels and backgrounds are used where there are some."""
        open_photos(data)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        found = find_neighbours(weights, data, self.k, self.features)
        details = {
            "images": len(found.queries),
            "searched": len(found.bank) - int(found.within),
            "queries_searched": 0 if found.within else found.shared(),
            "k": int(found.index.shape[1]),
            "input_size": self.features.input_size(weights),
            "mean_cosine": float(found.cosine.mean()),
            "examples": examples(found, self.examples),
        }
        return Result("neighbours", self.version, summarize(found), details=details)


def examples(found: Neighbours, count: int) -> list[dict[str, Any]]:
    """Evenly spread queries with their neighbours as plain values: path, class and cosine."""

    def plain(photos: Photos, i: int) -> dict[str, Any]:
        label = int(photos.labels[i])
        name = photos.source.classes[label] if 0 <= label < len(photos.source.classes) else None
        return {"path": photos.source.records[i].path, "class": name}

    rows = []
    for i in even_sample(len(found.queries), count).tolist() if count else []:
        near = zip(found.index[i].tolist(), found.cosine[i].tolist(), strict=True)
        rows.append(
            {
                **plain(found.queries, i),
                "neighbours": [{**plain(found.bank, j), "cosine": round(c, 4)} for j, c in near],
            }
        )
    return rows
