"""Linear layers: every schedule and norm against torch.optim, augmented features, and no look at the test part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ssl_loc.evaluation import probe_fit
from ssl_loc.evaluation.augmented_feed import AugmentedFeed
from ssl_loc.evaluation.data import EvalData, LabelledSplit
from ssl_loc.evaluation.features import FeatureOptions, state_digest
from ssl_loc.evaluation.places import MULTI_POOLS, Places, places_recipe
from ssl_loc.evaluation.probe import ProbeBank, Recipe, ScoredRows, StoredFeed, run_probes
from ssl_loc.evaluation.probe_fit import ProbeFit
from ssl_loc.evaluation.weights import open_weights
from ssl_loc.utils.errors import ConfigError, WeightsError

SIZE = 40


@pytest.fixture
def data(tmp_path: Path) -> EvalData:
    """Three classes told apart by colour, 6 training and 3 test images each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for c in range(3):
            folder = tmp_path / "data" / split / "abc"[c]
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (44, 52, 3), dtype=np.uint8)
                pixels[..., c] += 150
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return EvalData(str(tmp_path / "data"))


def noise(n: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g) * 3 + 1, torch.randint(0, 3, (n,), generator=g)


@pytest.mark.parametrize("norm", [False, True])
def test_nesterov_steps_and_norm_are_those_of_torch(norm: bool) -> None:
    x, y = noise(33, 5, 0)
    xt, yt = noise(50, 5, 1)
    recipe = Recipe(8, 16, nesterov=True, weight_decay=1e-2, steps=(0.25, 0.75), gamma=0.2)
    rows = torch.arange(1, 33)  # two batches of 16
    g = torch.Generator().manual_seed(3)
    bank = ProbeBank(5, 3, [0.3, 0.1], g, recipe, norm=norm)
    feed = StoredFeed([x], y, rows, 16, g)
    (run,) = run_probes([bank], feed, ScoredRows([xt], yt, torch.arange(50)), [0.3, 0.1], recipe)
    for i, lr in enumerate((0.3, 0.1)):
        g = torch.Generator().manual_seed(3)
        layer, bn = nn.Linear(5, 3), nn.BatchNorm1d(5, affine=False) if norm else nn.Identity()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(3, 5, generator=g) * 0.01)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 6], 0.2)
        accuracy = []
        for _ in range(8):
            bn.train()
            for part in rows[torch.randperm(32, generator=g)].split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(bn(x[part])), y[part]).backward()
                optimizer.step()
            schedule.step()
            bn.eval()
            accuracy.append(100 * float((layer(bn(xt)).argmax(1) == yt).double().mean()))
        torch.testing.assert_close(bank.weight[i], layer.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bank.bias[i], layer.bias, rtol=1e-4, atol=1e-5)
        assert run.accuracy[:, i].tolist() == pytest.approx(accuracy)
        assert run.best_epoch(i) == int(np.argmax(accuracy)) + 1


def test_schedules_of_the_papers() -> None:
    def changes(recipe: Recipe) -> list[int]:
        factors = [recipe.factor(epoch) for epoch in range(recipe.epochs)]
        assert factors[0] == 1.0 and factors[-1] == pytest.approx(recipe.gamma ** len(recipe.steps))
        return [epoch for epoch in range(1, recipe.epochs) if factors[epoch] != factors[epoch - 1]]

    assert changes(Recipe()) == [60, 80]
    assert changes(Recipe(steps=(0.3, 0.6, 0.9))) == [30, 60, 90]
    assert changes(Recipe(steps=(0.7, 0.9))) == [70, 90]
    places = places_recipe()
    assert changes(places) == [7, 14, 21] and places.epochs == 28 and places.nesterov and places.weight_decay == 1e-4
    with pytest.raises(ConfigError, match="STEPS"):
        Recipe(steps=(60.0, 80.0))
    with pytest.raises(ConfigError, match="EPOCHS 0"):
        Recipe(epochs=0)


def feed(run_folder: Path, split: LabelledSplit, workers: int = 0, seed: int = 0) -> AugmentedFeed:
    trunk = open_weights(str(run_folder), "cpu").trunk()
    return AugmentedFeed(trunk, split, ["gap", "res5:2"], SIZE, 8, seed, FeatureOptions(workers=workers))


def test_augmented_features_depend_on_seed_and_epoch_alone(run_folder: Path, data: EvalData) -> None:
    train = data.labelled_splits()[0]
    first, second = (list(feed(run_folder, train, workers).epoch(3)) for workers in (0, 1))
    assert [len(y) for _, y in first] == [8, 8, 2]  # the last, smaller batch counts
    for (xs, y), (other, labels) in zip(first, second, strict=True):
        assert torch.equal(y, labels) and all(torch.equal(a, b) for a, b in zip(xs, other, strict=True))
        assert [x.shape[1] for x in xs] == [32, 128]
    everyone = torch.cat([y for _, y in first])
    assert torch.bincount(everyone).tolist() == [6, 6, 6] and everyone.tolist() != sorted(everyone.tolist())
    for other in (feed(run_folder, train).epoch(4), feed(run_folder, train, seed=1).epoch(3)):
        assert not torch.equal(torch.cat([xs[0] for xs, _ in other]), torch.cat([xs[0] for xs, _ in first]))
    colours = train.renumbered(["c", "b", "a"])
    labels = torch.cat([y for _, y in feed(run_folder, colours).epoch(3)])
    assert labels.tolist() == (2 - everyone).tolist()


def fit(run_folder: Path, data: EvalData, **changes: object) -> ProbeFit:
    train, val = data.labelled_splits()
    weights = open_weights(str(run_folder), "cpu")
    base = ProbeFit(weights, train, val, FeatureOptions(size=SIZE), ["gap"], [0.01, 0.1, 1.0], Recipe(6, 8))
    return replace(base, **changes)


def test_diverged_rates_are_named_and_never_chosen(run_folder: Path, data: EvalData, caplog) -> None:
    # 1e38 times a step overflows float32; NaN would count as answer 0.
    (run,), chosen = fit(run_folder, data, lrs=[0.1, 1e38], standardize=True).run("LINEAR.LRS")
    assert chosen == 0 and [run.diverged(i) for i in (0, 1)] == [False, True]
    assert run.grid()["1e+38"] == [None, None] and run.grid()["0.1"][0] is not None
    assert "LINEAR.LRS that diverged take no part in the choice: 1e+38" in caplog.text
    with pytest.raises(ConfigError, match=r"every learning rate of LINEAR.LRS diverged \(1e\+38: "):
        fit(run_folder, data, lrs=[1e38], standardize=True).run("LINEAR.LRS")


def test_the_loss_of_the_last_epoch_is_known() -> None:
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    bank = ProbeBank(3, 2, [0.0, 1.0], torch.Generator().manual_seed(0), Recipe(2, 4))
    before = nn.functional.cross_entropy(x @ bank.weight[0].T + bank.bias[0], y).item()
    feed = StoredFeed([x], y, torch.arange(8), 4, torch.Generator())
    (run,) = run_probes([bank], feed, ScoredRows([x], y, torch.arange(8)), [0.0, 1.0], Recipe(2, 4))
    assert run.losses[0] == pytest.approx(before, rel=1e-5) and run.losses[1] != run.losses[0]
    assert replace(run, losses=[0.69, 0.70]).worse_than_guess(1) and not replace(
        run, losses=[0.69, 0.7]
    ).worse_than_guess(0)


@pytest.mark.parametrize("augment", [False, True])
def test_the_test_part_is_looked_at_only_to_report(augment: bool, run_folder: Path, data: EvalData) -> None:
    train, val = data.labelled_splits()
    honest, chosen = fit(run_folder, data, augment=augment, standardize=True).run("LRS")
    # Test labels turned round, then test images of another class each: layers and choice stay what they were.
    wrong = LabelledSplit(val.name, val.records, val.classes, [1, 2, 0])
    poisoned, again = fit(run_folder, data, augment=augment, standardize=True, val=wrong).run("LRS")
    assert chosen == again
    assert all(
        torch.equal(a, b)
        for one, two in zip(honest[0].layers, poisoned[0].layers, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(honest[0].accuracy, poisoned[0].accuracy)


def test_a_trunk_that_changes_is_noticed(run_folder: Path, data: EvalData, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = fit(run_folder, data)
    trunk = probe.weights.trunk()
    monkeypatch.setattr(type(probe.weights), "trunk", lambda self: trunk)
    before = state_digest(trunk.backbone)
    probe.run("LRS")
    assert state_digest(trunk.backbone) == before
    original = probe_fit.run_probes

    def spoil(*args: object) -> object:
        next(trunk.backbone.parameters()).data[0] += 1e-3
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(probe_fit, "run_probes", spoil)
    with pytest.raises(AssertionError, match="frozen trunk changed"):
        probe.run("LRS")


def test_several_heads_report_the_last_and_each(run_folder: Path, data: EvalData) -> None:
    weights = open_weights(str(run_folder), "cpu")
    evaluator = Places("multi", [0.1], places_recipe(4, 9), features=FeatureOptions(size=64))
    result = evaluator(weights, data)
    assert set(result.metrics) == {"top1", "top1_best_epoch", *(f"top1_{pool[:4]}" for pool in MULTI_POOLS)}
    assert result.metrics["top1"] == result.metrics["top1_res5"]
    single = Places("gap", [0.1, 0.3], places_recipe(4, 9), augment="crop", features=FeatureOptions(size=64))
    metrics = single(weights, data)
    assert set(metrics.metrics) == {"top1", "top1_best_epoch"} and list(metrics.details["lr_grid_last_best"]) == ["gap"]
    evaluator.check_weights(weights)
    with pytest.raises(ConfigError, match="PLACES.HEAD"):
        Places("many")


def test_several_heads_need_several_levels() -> None:
    short = SimpleNamespace(channels={"res4": 8, "res5": 8})
    weights = SimpleNamespace(path="w", require_trunk=lambda: None, trunk=lambda: SimpleNamespace(backbone=short))
    Places("gap").check_weights(weights)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="without res2, res3; PLACES.HEAD multi"):
        Places("multi").check_weights(weights)  # type: ignore[arg-type]
