"""The fine-tuning protocol: its split, its choice, its arithmetic; nothing of the test images gets into either."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_loc.config import CfgNode, construct
from ssl_loc.data.eval_transforms import eval_transform
from ssl_loc.data.image_io import read_image
from ssl_loc.data.labelled import LabelledSplit, load_splits
from ssl_loc.data.mapper import Mapper
from ssl_loc.engine.signals import RunStopped
from ssl_loc.evaluation import EvalData, finetune_run
from ssl_loc.evaluation.features import FeatureOptions, state_digest
from ssl_loc.evaluation.finetune import FineTune
from ssl_loc.evaluation.finetune_data import accuracy, train_loader, train_pipeline, validation_parts
from ssl_loc.evaluation.finetune_model import Classifier, trainable_trunk
from ssl_loc.evaluation.finetune_run import DIVERGED, Recipe, RunOutcome, fine_tune
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.results import read_results
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError, DataError, UserError

CLASSES, SIZE = 3, 32
SMALL = Recipe(size=SIZE, epochs=3, batch=8, last=2, checkpoint_iters=100)


def draw(root: Path, split: str, each: int, seed: int) -> None:
    """``each`` photos per class: the brightest channel is the class."""
    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        folder = root / split / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 120, (40 + 4 * i % 12, 48, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / f"{i:02d}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos", "train", 10, 0)
    draw(tmp_path / "photos", "val", 4, 1)
    return tmp_path / "photos"


@pytest.fixture
def weights(tiny_cfg: CfgNode) -> Weights:
    tiny_cfg.merge_from_dict({"AUGMENT": {"SIZE": SIZE}})
    return Weights("random:tiny", "tiny", "random", "seed0", tiny_cfg)


def splits(photos: Path) -> tuple[LabelledSplit, LabelledSplit]:
    return load_splits(str(photos))


def protocol(**changes: object) -> FineTune:
    recipe = replace(SMALL, **{k: v for k, v in changes.items() if hasattr(SMALL, k)})  # type: ignore[arg-type]
    own = {k: v for k, v in changes.items() if not hasattr(SMALL, k)}
    return FineTune(**{"lrs": [0.01, 0.1], "recipe": recipe, **own})  # type: ignore[arg-type]


def test_a_tenth_of_each_class_is_kept_out_and_nothing_is_lost(photos: Path) -> None:
    train, _ = splits(photos)
    part, val = validation_parts(train, 0.1, seed=0)
    assert torch.bincount(val.labels()).tolist() == [1, 1, 1]
    assert torch.bincount(part.labels()).tolist() == [9, 9, 9]
    kept, out = ({r.path for r in s.records} for s in (part, val))
    assert not kept & out and kept | out == {r.path for r in train.records}
    assert all("/train/" in path for path in out)
    again = validation_parts(train, 0.1, seed=0)[1]
    assert {r.path for r in again.records} == out
    _, third = validation_parts(train, 0.3, seed=0)
    assert torch.bincount(third.labels()).tolist() == [3, 3, 3]


def test_last_epoch_and_median_by_hand() -> None:
    run = RunOutcome(0.1, [50.0, 90.0, 60.0, 70.0])
    assert (run.final, run.median, run.diverged) == (70.0, 65.0, False)
    assert RunOutcome(0.1, [10.0, 40.0, 20.0]).median == 20.0
    assert RunOutcome(0.1, [DIVERGED]).diverged


def test_the_best_median_on_validation_wins_and_the_lowest_of_equal_ones(caplog: pytest.LogCaptureFixture) -> None:
    chooser = protocol(lrs=[0.1, 0.001, 0.01, 0.03])
    assert chooser.lrs == [0.001, 0.01, 0.03, 0.1]
    runs = [(0.001, [20.0, 20.0]), (0.01, [40.0, 50.0]), (0.03, [50.0, 40.0]), (0.1, [DIVERGED])]
    assert chooser.choose([RunOutcome(*run) for run in runs]) == 0.01
    runs[2] = (0.03, [44.0, 20.0, 60.0])  # the best last epoch, not the best median
    assert chooser.choose([RunOutcome(*run) for run in runs]) == 0.01
    assert not caplog.records
    assert chooser.choose([RunOutcome(0.001, [5.0]), RunOutcome(0.1, [7.0])]) == 0.1
    assert "edge of FINETUNE.LRS" in caplog.text
    with pytest.raises(UserError, match="every rate"):
        chooser.choose([RunOutcome(0.1, [DIVERGED])])


@pytest.mark.parametrize(("schedule", "head_lr"), [("cosine", 10.0), ("step", 1.0)])
def test_steps_are_those_of_plain_sgd(photos: Path, weights: Weights, schedule: str, head_lr: float) -> None:
    train, test = splits(photos)
    recipe = replace(SMALL, schedule=schedule, head_lr=head_lr, steps=(0.5,))
    lr, wd, mu, total = 0.003, recipe.weight_decay, recipe.momentum, 9  # 30 images: 3 full batches of 8 an epoch
    run = fine_tune(trainable_trunk(weights), train, test, lr, recipe, seed=4)
    model = Classifier(trainable_trunk(weights), CLASSES, seed=4).train()
    speed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    batches = iter(train_loader(train, train_pipeline(SIZE, (0.5, 1.0)), 8, 4, 0, FeatureOptions()))
    losses = []
    for t in range(total):
        views = next(batches)
        x = (views.images[0].float() - model.mean) / model.std
        maps = model.backbone(x)["res5"]
        loss = F.cross_entropy(maps.mean((2, 3)) @ model.head.weight.T + model.head.bias, views.label)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        rate = lr * (0.5 * (1 + math.cos(math.pi * t / total)) if schedule == "cosine" else 0.1 ** (t / total >= 0.5))
        with torch.no_grad():
            for name, p in model.named_parameters():
                speed[name].mul_(mu).add_(p.grad + wd * p)
                p.sub_(speed[name] * rate * (head_lr if name.startswith("head") else 1))
    assert run.loss == pytest.approx(np.array(losses).reshape(3, 3).mean(1).tolist(), rel=1e-4)
    images = torch.stack(
        [eval_transform(torch.from_numpy(read_image(r.path)).permute(2, 0, 1), SIZE) for r in test.records]
    )
    model.eval()
    with torch.no_grad():
        right = model.logits(images).argmax(1) == test.labels()
    assert run.final == pytest.approx(100 * float(right.double().mean()))
    assert accuracy(model, test, SIZE, FeatureOptions(batch_size=5)) == pytest.approx(run.final)
    assert len(run.accuracy) == recipe.last


def test_the_new_layer_is_normal_and_everything_learns(photos: Path, weights: Weights) -> None:
    head = Classifier(trainable_trunk(weights), 500, seed=1).head
    head.requires_grad_(False)
    assert float(head.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert float(head.weight.mean().abs()) < 2e-4 and not head.bias.any()
    trunk = trainable_trunk(weights)
    before = {name: p.clone() for name, p in trunk.backbone.named_parameters()}
    run = fine_tune(trunk, *splits(photos), 0.03, replace(SMALL, epochs=12, batch=10))
    assert all(not torch.equal(p, before[name]) for name, p in trunk.backbone.named_parameters())
    assert run.median > 90 and run.loss[-1] < 0.5 * run.loss[0]


def test_half_precision_learns_as_well(photos: Path, weights: Weights) -> None:
    recipe = replace(SMALL, batch=10, amp="bf16", last=1)
    run = fine_tune(trainable_trunk(weights), *splits(photos), 0.03, recipe)
    whole = fine_tune(trainable_trunk(weights), *splits(photos), 0.03, replace(recipe, amp=""))
    assert run.loss[-1] < run.loss[0] and run.digest != whole.digest
    assert run.loss[0] == pytest.approx(whole.loss[0], rel=0.1)


def test_a_frozen_trunk_keeps_its_bytes(photos: Path, weights: Weights) -> None:
    trunk = trainable_trunk(weights)
    before = state_digest(trunk.backbone)
    run = fine_tune(trunk, *splits(photos), 1.0, replace(SMALL, freeze=True))
    assert state_digest(trunk.backbone) == before
    assert run.loss[-1] < run.loss[0]


def test_stages_frozen_by_the_pretraining_are_trained(photos: Path, weights: Weights) -> None:
    assert weights.cfg is not None
    weights.cfg.merge_from_dict({"MODEL": {"FREEZE_AT": 2, "INIT_FROM": "stage_1", "NORM": "SplitBN"}})
    assert weights.trunk().backbone.frozen_levels
    trunk = trainable_trunk(weights)
    assert state_digest(trunk.backbone) == state_digest(weights.trunk().backbone)
    before = {name: p.clone() for name, p in trunk.backbone.named_parameters()}
    mean = trunk.backbone.state_dict()["bn1.running_mean"].clone()
    fine_tune(trunk, *splits(photos), 0.03, SMALL)
    assert all(not torch.equal(p, before[name]) for name, p in trunk.backbone.named_parameters())
    assert not torch.equal(trunk.backbone.state_dict()["bn1.running_mean"], mean)


def test_labels_of_the_test_images_change_neither_choice_nor_weights(photos: Path, weights: Weights) -> None:
    right = protocol(epochs=4)(weights, EvalData(str(photos)))
    a, b, c = (photos / "val" / f"class{i}" for i in range(CLASSES))
    (photos / "val" / "swap").mkdir()
    for source, target in ((a, photos / "val" / "swap"), (b, a), (c, b), (photos / "val" / "swap", c)):
        for file in source.glob("*.png"):
            file.rename(target / file.name)
    (photos / "val" / "swap").rmdir()
    weights.cache.clear()
    poisoned = protocol(epochs=4)(weights, EvalData(str(photos)))
    for key in ("lr", "network_digest", "train_loss", "lr_grid_validation_median"):
        assert right.details[key] == poisoned.details[key], key
    # The accuracies did change, so the labels were really others.
    assert right.details["accuracy_last_epochs"] != poisoned.details["accuracy_last_epochs"]


def test_no_run_of_the_choice_sees_a_test_image(
    photos: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def spy(
        trunk: object, train: LabelledSplit, test: LabelledSplit, lr: float, *_: object, **__: object
    ) -> RunOutcome:
        seen.append(({r.path for r in train.records}, {r.path for r in test.records}))
        return RunOutcome(lr, [100 * lr])

    monkeypatch.setattr("ssl_loc.evaluation.finetune.fine_tune", spy)
    result = protocol()(weights, EvalData(str(photos)))
    whole = {r.path for r in splits(photos)[0].records}
    for trained, measured in seen[:2]:
        assert trained | measured == whole and not trained & measured
    assert seen[2] == (whole, {r.path for r in splits(photos)[1].records})
    assert result.details["lr"] == 0.1
    # Another seed shares the choice.
    protocol(seed=1)(weights, EvalData(str(photos)))
    assert len(seen) == 4


def test_a_stopped_run_continues_to_the_same_bits(
    photos: Path, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = splits(photos)
    recipe = replace(SMALL, epochs=4, last=4)
    straight = fine_tune(trainable_trunk(weights), train, test, 0.05, recipe, seed=2)
    measure, calls = finetune_run.accuracy, []

    def stop_in_epoch_2(*args: object, **more: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(finetune_run, "accuracy", stop_in_epoch_2)
    work = str(tmp_path / "work")
    with pytest.raises(RunStopped, match="same command continues"):
        fine_tune(trainable_trunk(weights), train, test, 0.05, recipe, seed=2, work=work)
    again = fine_tune(trainable_trunk(weights), train, test, 0.05, recipe, seed=2, work=work)
    assert len(calls) == 4
    assert again == straight
    # Finished: remembered, its checkpoints are gone.
    assert fine_tune(trainable_trunk(weights), train, test, 0.05, recipe, seed=2, work=work) == straight
    assert len(calls) == 4
    assert not list(Path(work).rglob("*.pth"))
    # Anything else that matters is another run.
    fine_tune(trainable_trunk(weights), train, test, 0.05, replace(recipe, weight_decay=0.0), seed=2, work=work)
    assert len(calls) == 8


def test_work_of_another_version_or_machine_is_not_taken(
    photos: Path, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = splits(photos)

    def key() -> str:
        return finetune_run.run_key(weights.trunk(), train, test, 0.1, SMALL, 0)

    before = key()
    assert key() == before
    for place, name, value in (
        (finetune_run, "__version__", "9.9"),
        (torch, "__version__", "9.9"),
        (finetune_run, "device_name", lambda device: "a GPU"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            assert key() != before
    assert key() == before


def test_a_rate_that_diverges_loses_and_a_diverged_result_is_an_error(
    photos: Path, weights: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        lost = fine_tune(trainable_trunk(weights), *splits(photos), 1e25, SMALL, title="lr 1e25")
    assert "lr 1e25 diverged" in caplog.text and "SOLVER" not in caplog.text
    assert lost.accuracy == [DIVERGED] and not list(tmp_path.rglob("*.pth"))
    result = protocol(lrs=[0.01, 1e25])(weights, EvalData(str(photos)))
    assert result.details["lr"] == 0.01
    assert result.details["lr_grid_validation_median"]["1e+25"] is None
    with pytest.raises(UserError, match=r"Lower FINETUNE\.LRS"):
        protocol(lrs=[1e25])(weights, EvalData(str(photos)))


def test_crops_of_the_resized_photo_stay_in_the_source_frame(photos: Path) -> None:
    train, _ = splits(photos)
    mapper = Mapper(train.records, [train_pipeline(SIZE, (1.0, 1.0))])
    sample = mapper.sample(1)
    assert (sample.height, sample.width) == (44, 48)
    (view,) = mapper.views(sample, 0)
    assert view.image.shape == (3, SIZE, SIZE)
    x1, y1, x2, y2 = view.geometry.box
    assert view.geometry.source == (44, 48) and 0 <= x1 < x2 <= 48 and 0 <= y1 < y2 <= 44
    assert (x2 - x1) * (y2 - y1) > 0.8 * 44 * 48


def test_nothing_is_skipped(photos: Path, weights: Weights) -> None:
    (photos / "train/class1/03.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"class1/03\.png"):
        fine_tune(trainable_trunk(weights), *splits(photos), 0.01, SMALL)


def test_options_and_sizes_are_checked(photos: Path) -> None:
    for words, message in (
        (["FINETUNE.LRS", "[]"], "FINETUNE.LRS"),
        (["FINETUNE.LRS", "[0.0, 0.1]"], "FINETUNE.LRS"),
        (["FINETUNE.VAL_SHARE", "1.0"], "FINETUNE.VAL_SHARE"),
        (["FINETUNE.FREEZE", "head"], "choices: none, trunk"),
        (["FINETUNE.SCHEDULE", "linear"], "choices: cosine, step"),
        (["FINETUNE.BATCH", "1"], "FINETUNE.BATCH is 1; expected 2 or more"),
        (["FINETUNE.EPOCHS", "0"], "FINETUNE.EPOCHS"),
        (["FINETUNE.HEAD_LR", "0.0"], "FINETUNE.HEAD_LR"),
        (["FINETUNE.SCHEDULE", "step", "FINETUNE.STEPS", "[2.0]"], "FINETUNE.STEPS"),
        (["FINETUNE.AMP", "half"], "FINETUNE.AMP"),
    ):
        with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
            construct(FineTune, load_options(None, words))
    with pytest.raises(ConfigError, match="has only 27 images"):
        protocol(batch=28).check_data(EvalData(str(photos)))
    protocol(batch=28, lrs=[0.1]).check_data(EvalData(str(photos)))


PRESETS = sorted((Path(__file__).resolve().parents[2] / "configs" / "eval").glob("finetune_*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets(path: Path) -> None:
    options = load_options(str(path))
    made = construct(FineTune, options)
    for row in options.PUBLISHED:
        assert row[1:3] == ["finetune", "top1"] and 0 < row[3] < 100
        assert (path.parents[1] / "cvsa" / f"{row[0]}.yaml").is_file()
    recipe = made.recipe
    if path.stem == "finetune_inat2018":
        assert (recipe.freeze, made.lrs, recipe.batch, recipe.epochs) == (True, [0.025], 256, 100)
        assert [recipe.shape()(t) for t in (0.0, 0.69, 0.7, 0.95)] == pytest.approx([1, 1, 0.1, 0.01])
    elif path.stem != "finetune_quick":
        assert recipe == Recipe() and made.lrs == [0.001, 0.003, 0.01, 0.03, 0.1] and made.val_share == 0.1
        by_label = {row[0]: row[3] for row in options.PUBLISHED}
        first = {"cub": 66.88, "nabirds": 73.75, "aircraft": 74.55, "cars": 77.45}[path.stem.split("_")[1]]
        assert by_label["scratch_byol_cvsa_R50"] == first  # CVSA paper, table 1


def test_the_tool_averages_seeds_that_share_one_choice(
    photos: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "tools"))
    words = ["--protocol", "finetune", "--weights", f"A={run_folder}", "--data", str(photos), "--seeds", "2"]
    words += [
        "--config-file",
        str(PRESETS[-1].with_name("finetune_quick.yaml")),
        "--out",
        str(tmp_path / "out"),
        "--set",
    ]
    words += ["SIZE", "32", "FINETUNE.EPOCHS", "2", "FINETUNE.GRID_EPOCHS", "1", "FINETUNE.BATCH", "9", "DEVICE", "cpu"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *words])
    import evaluate

    assert evaluate.main() == 0
    assert "finetune v1" in capsys.readouterr().out
    (result,) = read_results([tmp_path / "out"])
    details = result["details"]
    assert details["seeds"] == [0, 1] and len(details["per_seed"]) == 2
    assert set(details["lr_grid_validation_median"]) == {"0.01", "0.03", "0.1"}
    # Three runs that choose, and one per seed.
    assert len(list((tmp_path / "out" / "work" / "finetune").iterdir())) == 5
    monkeypatch.setattr(finetune_run, "accuracy", lambda *_: pytest.fail("computed again"))
    assert evaluate.main() == 0
