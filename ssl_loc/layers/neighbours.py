"""Weighted k-nearest-neighbour vote of frozen features: the classifier without parameters.

Source: InstDisc (Wu et al. 2018, section 3.4); the same formula with several k is the habit of later papers.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements (float32) of one block of training rows, and of the similarities held at once: 128 MiB each.
CHUNK_ELEMENTS = 1 << 25


class Rows(Protocol):
    """Features that are read in slices: a tensor, a memory map, or rows made when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """(n, D), any float type."""


def nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values of each row, descending, and their columns (M, k); of equals the lower column is first.

    ``topk`` leaves the choice among equals open, so rows where a tie crosses the k-th place are sorted stably.
    """
    columns_there = similarity.shape[1]
    values, columns = similarity.topk(min(k + 1, columns_there), dim=1)
    # One more than asked for tells whether a tie crosses the k-th place, without another look at all values.
    crossing = (values[:, k] == values[:, k - 1]).nonzero()[:, 0] if columns_there > k else columns.new_empty(0)
    columns, order = columns[:, :k].sort(dim=1)
    values, order = values[:, :k].gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if len(crossing):
        rows = similarity[crossing]
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :k]
        values[crossing], columns[crossing] = rows.gather(1, order), order
    return values, columns


def neighbours(train: Rows, test: Rows, k: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosines and row numbers of the ``k`` training rows nearest to each test row: (M, k) float32, (M, k) int64.

    Features are L2-normalised here, block by block: beside the result, memory holds one block of training rows, one of
    test rows and their similarities (``CHUNK_ELEMENTS`` each), however many rows there are. ``k`` is clamped to N.
    """
    k = min(k, len(train))
    if len(test) == 0 or k == 0:
        return torch.zeros(len(test), k), torch.zeros(len(test), k, dtype=torch.int64)
    block = max(1, CHUNK_ELEMENTS // train[0:1].shape[1])
    values = torch.empty(len(test), 0)
    indices = torch.empty(len(test), 0, dtype=torch.int64)
    for start in range(0, len(train), block):
        near = F.normalize(train[start : start + block].to(device).float(), dim=1)
        found = _search(near, test, min(k, len(near)), device)
        # Earlier blocks have the lower rows and stand first, so equals stay in order.
        values, best = nearest(torch.cat([values, found[0]], 1), min(k, values.shape[1] + found[0].shape[1]))
        indices = torch.cat([indices, found[1] + start], 1).gather(1, best)
    return values, indices


def _search(near: Tensor, test: Rows, k: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Nearest of one block of normalised training rows for every test row, on the CPU."""
    rows = max(1, CHUNK_ELEMENTS // max(near.shape))
    parts = []
    for start in range(0, len(test), rows):
        far = F.normalize(test[start : start + rows].to(device).float(), dim=1)
        values, columns = nearest(far @ near.T, k)
        parts.append((values.cpu(), columns.cpu()))
    return torch.cat([v for v, _ in parts]), torch.cat([c for _, c in parts])


def vote(cosines: Tensor, labels: Tensor, classes: int, temperature: float = 0.07) -> Tensor:
    """Class scores (M, classes): a neighbour (M, k) with cosine c votes exp(c / T) for its label (M, k)."""
    weights = (cosines / temperature).exp()
    return torch.zeros(len(cosines), classes).scatter_add_(1, labels, weights)


def knn_scores(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, k: int = 200, temperature: float = 0.07
) -> Tensor:
    """:func:`vote` of the :func:`neighbours` of features (M, D) among features (N, D) with labels (N,)."""
    cosines, indices = neighbours(train, test, k)
    return vote(cosines, labels[indices], classes, temperature)


def top_accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Percent of rows whose label is among the ``top`` highest scores; of equal scores the lower class comes first.

    A class without any vote (score 0) is no answer, even if fewer than ``top`` classes got votes.
    """
    return 100.0 * float(top_hits(scores, labels, top).double().mean())


def top_hits(scores: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Boolean (M,): see :func:`top_accuracy`."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top]
    return ((order == labels[:, None]) & (scores.gather(1, order) > 0)).any(1)
