"""k-NN by hand, by a slow formula, and in its limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ssl_loc.evaluation.knn import knn_scores, nearest, top_accuracy
from ssl_loc.layers import neighbours as knn


def slow_scores(train: torch.Tensor, y: torch.Tensor, test: torch.Tensor, classes: int, k: int, t: float) -> list:
    rows = []
    for query in F.normalize(test, dim=1).tolist():
        cosines = [sum(a * b for a, b in zip(query, row, strict=True)) for row in F.normalize(train, dim=1).tolist()]
        votes = [0.0] * classes
        for i in sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))[:k]:
            votes[int(y[i])] += math.exp(cosines[i] / t)
        rows.append(votes)
    return rows


def test_weighted_vote_by_hand() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1, 1])
    scores = knn_scores(train, labels, torch.tensor([[2.0, 0.0]]), classes=2, k=2, temperature=0.5)
    assert scores[0].tolist() == pytest.approx([math.exp(1 / 0.5), math.exp(0.6 / 0.5)], rel=1e-6)


@pytest.mark.parametrize("k", [1, 5, 1000])
def test_equals_the_slow_formula_in_chunks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 7 rows per chunk: 23 test rows leave a last, shorter chunk; k = 1000 is clamped to the 40 training rows.
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 7 * 40)
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(40, 6, generator=g), torch.randn(23, 6, generator=g)
    labels = torch.randint(0, 4, (40,), generator=g)
    scores = knn_scores(train, labels, test, 4, k, 0.07)
    torch.testing.assert_close(scores, torch.tensor(slow_scores(train, labels, test, 4, k, 0.07)), rtol=1e-4, atol=1e-4)


def test_fewer_test_rows_than_one_chunk_and_none() -> None:
    train, labels = torch.eye(3), torch.arange(3)
    assert knn_scores(train, labels, torch.eye(3), 3, 1).argmax(1).tolist() == [0, 1, 2]
    assert knn_scores(train, labels, torch.zeros(0, 3), 3).shape == (0, 3)


def test_ties_go_to_the_lower_index() -> None:
    row = torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]])
    values, columns = nearest(row, 3)
    assert columns.tolist() == [[1, 0, 2]]
    assert values[0].tolist() == pytest.approx([0.9, 0.5, 0.5])
    # Duplicates in the training set: with k = 1 the first of them votes.
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert knn_scores(train, torch.tensor([2, 1, 0]), train[:1], 3, k=1).argmax() == 2


def test_an_image_finds_itself() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50)
    assert top_accuracy(knn_scores(x, labels, x, 50, k=1), labels) == 100.0


def test_top_k_does_not_count_classes_without_votes() -> None:
    scores = torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]])
    labels = torch.tensor([0, 0])
    assert top_accuracy(scores, labels, 1) == 0.0
    assert top_accuracy(scores, labels, 2) == 50.0
