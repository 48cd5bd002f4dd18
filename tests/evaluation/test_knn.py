"""k-NN by hand, by a slow formula, and in its limits."""

from __future__ import annotations

import math
import types

import pytest
import torch
import torch.nn.functional as F

from ssl_loc.evaluation import knn as protocol
from ssl_loc.evaluation.knn import knn_scores, nearest, top_accuracy
from ssl_loc.layers import neighbours as knn
from ssl_loc.utils.errors import ConfigError


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


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("block", [1, 3, 11, 39])
def test_training_rows_in_blocks_give_the_same(block: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks of 1 (fewer rows than k) to 39 rows (a last block of one) of 40.
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(40, 6, generator=g), torch.randn(5, 6, generator=g)
    labels = torch.randint(0, 4, (40,), generator=g)
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 6 * block)
    scores = knn_scores(train, labels, test, 4, k, 0.07)
    torch.testing.assert_close(scores, torch.tensor(slow_scores(train, labels, test, 4, k, 0.07)), rtol=1e-4, atol=1e-4)


def test_ties_go_to_the_lower_index_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    train = torch.tensor([[0.0, 1.0], *[[1.0, 0.0]] * 6, [0.0, 1.0]])
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 2 * 3)
    cosines, indices = knn.neighbours(train, torch.tensor([[2.0, 0.0]]), 4)
    assert indices.tolist() == [[1, 2, 3, 4]] and cosines.tolist() == [[1.0] * 4]
    assert knn.neighbours(train, torch.tensor([[2.0, 0.0]]), 7)[1].tolist() == [[1, 2, 3, 4, 5, 6, 0]]


def test_zero_rows_have_cosine_zero() -> None:
    cosines, indices = knn.neighbours(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 2)
    assert indices.tolist() == [[1, 0], [0, 1]]
    assert cosines.tolist() == [[pytest.approx(1.0), 0.0], [0.0, 0.0]]


def test_half_precision_rows_are_compared_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(30, 6, generator=g).half(), torch.randn(4, 6, generator=g)
    exact = (F.normalize(test, dim=1).double() @ F.normalize(train.double(), dim=1).T).sort(1, descending=True)
    cosines, indices = knn.neighbours(train, test, 3)
    assert indices.tolist() == exact.indices[:, :3].tolist()
    torch.testing.assert_close(cosines.double(), exact.values[:, :3], rtol=1e-6, atol=1e-6)


def test_random_features_are_right_as_often_as_chance() -> None:
    g = torch.Generator().manual_seed(0)
    x, xt = torch.randn(1000, 16, generator=g), torch.randn(1000, 16, generator=g)
    y, yt = (torch.randint(0, 5, (1000,), generator=g) for _ in range(2))
    # Four deviations of a binomial share.
    assert top_accuracy(knn_scores(x, y, xt, 5, 20), yt) == pytest.approx(20, abs=4 * 100 * math.sqrt(0.16 / 1000))


def test_a_grid_is_what_each_k_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(3)
    x, xt = torch.randn(50, 6, generator=g), torch.randn(30, 6, generator=g)
    y, yt = torch.randint(0, 7, (50,), generator=g), torch.randint(0, 7, (30,), generator=g)
    splits = [types.SimpleNamespace(classes=list("abcdefg"), part=part) for part in ((x, y), (xt, yt))]
    monkeypatch.setattr(protocol, "extract_split", lambda weights, split, options: split.part)
    data = types.SimpleNamespace(labelled_splits=lambda: splits, shared_images=lambda: 0)
    weights = types.SimpleNamespace(device="cpu", input_size=lambda: 32)
    evaluator = protocol.KNN(k=20, grid=[1, 3, 10, 500])
    metrics = evaluator(weights, data).metrics  # type: ignore[arg-type]
    for k, name in ((20, ""), (1, "_k1"), (3, "_k3"), (10, "_k10"), (500, "_k500")):
        scores = knn_scores(x, y, xt, 7, k)
        assert metrics[f"top1{name}"] == top_accuracy(scores, yt)
        assert k == 1 or metrics[f"top5{name}"] == top_accuracy(scores, yt, 5)
    with pytest.raises(ConfigError, match="KNN.GRID"):
        protocol.KNN(grid=[10, 0])
    with pytest.raises(ConfigError, match="KNN.T"):
        protocol.KNN(temperature=0.0)
