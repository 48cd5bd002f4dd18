"""The linear probe against a plain loop, scikit-learn, and its limits."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from ssl_loc.evaluation.linear import LinearProbe, held_out, standardize, train_probes
from ssl_loc.evaluation.probe import Recipe
from ssl_loc.utils.errors import ConfigError


def blobs(n: int, seed: int, spread: float = 1.2) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    y = torch.arange(n) % 3
    return centres[y] + spread * torch.randn(n, 4, generator=g), y


def test_every_rate_of_the_grid_is_what_torch_sgd_gives_alone() -> None:
    x, y = blobs(37, 0)
    xt, yt = blobs(60, 1)
    lrs = [0.01, 0.3]
    run = train_probes(x, y, xt, yt, 3, lrs, Recipe(10, 16, weight_decay=1e-3), seed=5)
    for i, lr in enumerate(lrs):
        # The same layer by torch.optim, drawing start and order from the same generator.
        g = torch.Generator().manual_seed(5)
        layer = nn.Linear(4, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(3, 4, generator=g) * 0.01)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
        accuracy = []
        for epoch in range(10):
            optimizer.param_groups[0]["lr"] = lr * (0.1 if epoch >= 6 else 1) * (0.1 if epoch >= 8 else 1)
            for part in torch.randperm(37, generator=g).split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(x[part]), y[part]).backward()
                optimizer.step()
            accuracy.append(100 * float((layer(xt).argmax(1) == yt).double().mean()))
        assert run.accuracy[:, i].tolist() == pytest.approx(accuracy)


def test_reaches_scikit_learn_on_separable_blobs() -> None:
    x, y = blobs(120, 0)
    xt, yt = blobs(300, 1)
    model = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy())
    expected = 100 * (model.predict(xt.numpy()) == yt.numpy()).mean()
    run = train_probes(x, y, xt, yt, 3, [0.1], Recipe(100, 64))
    assert run.last(0) == pytest.approx(expected, abs=2.0)
    assert run.best(0) >= run.last(0)


def test_standardize_uses_training_statistics_only() -> None:
    train = torch.tensor([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0]])
    a, b = standardize(train, torch.tensor([[4.0, 7.0, 2.0]]))
    assert a.tolist() == [[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]
    assert b.tolist() == [[3.0, 0.0, 0.0]]  # the constant feature carries nothing


def test_held_out_takes_a_fifth_of_each_class_and_no_only_image() -> None:
    y = torch.tensor([0] * 10 + [1] * 3 + [2])
    mask = held_out(y, seed=0)
    assert [int(mask[y == c].sum()) for c in range(3)] == [2, 1, 0]
    assert torch.equal(mask, held_out(y, seed=0))


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="sgd, lbfgs"):
        LinearProbe(solver="adam")
    with pytest.raises(ConfigError, match="LINEAR.LRS"):
        LinearProbe(lrs=[])
