"""The eight settings on hand-made pictures where a colour classifier's accuracy is known in closed form."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssl_loc.data.background_settings import SETTINGS
from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.write import SetPlan, write_scenes
from ssl_loc.evaluation import EvalData, Weights
from ssl_loc.evaluation.backgrounds import Backgrounds, score
from ssl_loc.evaluation.backgrounds_challenge import run_challenge
from ssl_loc.evaluation.backgrounds_head import Answer, class_answer
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.linear import LinearProbe
from ssl_loc.evaluation.linear_head import LinearHead, fit_linear, head_path, read_head, write_head
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.probe import Recipe
from ssl_loc.evaluation.weights import Trunk
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, DataError, UserError, WeightsError

CLASSES = ["00_red", "01_green", "02_blue"]
SIDE, OBJECT = 16, slice(4, 12)  # the object covers a quarter
GROUND = 60  # level of a background: 45 in the mean where it fills three quarters
STRONG, WEAK = 240, 120  # level of an object: 60 or 30 in the mean, more or less than the background


class MeanColour(torch.nn.Module):
    """A trunk whose features are the mean red, green and blue, 0..255."""

    out_channels = 3

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"res5": images}

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        return maps["res5"].mean((2, 3))

    def describe(self) -> dict[str, str]:
        return {"name": "mean colour"}


class ColourWeights(Weights):
    def trunk(self) -> Trunk:
        return Trunk(MeanColour(), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))  # type: ignore[arg-type]


@pytest.fixture
def weights() -> Weights:
    return ColourWeights("colour", "colour", "backbone", "digest", None)


def picture(ground: int | None, thing: int | None, level: int, behind: bool = True) -> np.ndarray:
    """A background of one colour (None: black) with an object of another (None: black, or more background)."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    if ground is not None:
        image[..., ground] = GROUND
        if not behind:
            image[OBJECT, OBJECT] = 0
    if thing is not None:
        image[OBJECT, OBJECT] = 0
        image[OBJECT, OBJECT, thing] = level
    return image


def own_ground(c: int) -> int:
    """Red objects lie on red, green on green, but blue objects on red as well."""
    return 0 if c == 2 else c


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four foregrounds per class, two strong and two weak, in the eight settings."""
    folder = tmp_path / "in3"
    mask = np.zeros((SIDE, SIDE), bool)
    mask[OBJECT, OBJECT] = True
    for c, i in itertools.product(range(3), range(4)):
        level = STRONG if i < 2 else WEAK
        images = {
            "original": picture(own_ground(c), c, level),
            "mixed_same": picture(c, c, level),
            "mixed_rand": picture((c + i % 2) % 3, c, level),  # the own colour, the next, the own, the next
            "mixed_next": picture((c + 1) % 3, c, level),
            "only_fg": picture(None, c, level),
            "no_fg": picture(own_ground(c), None, 0, behind=False),
            "only_bg_b": picture(own_ground(c), None, 0, behind=False),
            "only_bg_t": picture(own_ground(c), None, 0),
        }
        for setting, image in images.items():
            place = folder / setting / "val" / CLASSES[c]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i}.png")
        place = folder / "fg_mask" / "val" / CLASSES[c]
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{i}.npy", mask)
    return folder


# Closed form: a strong object always wins over the background, a weak one only on its own colour or on black.
EXPECTED = {
    "original": 100 * 10 / 12,  # the two weak blue objects on red are taken for red
    "mixed_same": 100.0,
    "mixed_rand": 100 * 9 / 12,  # of each class the weak one on another colour is lost
    "mixed_next": 50.0,
    "only_fg": 100.0,
    "no_fg": 100 * 8 / 12,  # blue's background says red
    "only_bg_b": 100 * 8 / 12,
    "only_bg_t": 100 * 8 / 12,
    "bg_gap": 25.0,
}


def colour_head(file: Path, rows: Tensor | None = None) -> Path:
    rows = torch.eye(3) if rows is None else rows
    torch.save({"state_dict": {"module.fc.weight": rows, "module.fc.bias": torch.zeros(len(rows))}}, file)
    return file


def run(root: Path, weights: Weights, **settings: object) -> Result:
    evaluator = Backgrounds(features=FeatureOptions(size=SIDE, batch_size=5), **settings)  # type: ignore[arg-type]
    data = EvalData(str(root))
    evaluator.check_weights(weights)
    evaluator.check_data(data)
    return evaluator(weights, data)


def test_a_colour_head_from_a_file_has_the_accuracies_of_the_closed_form(root, weights, tmp_path) -> None:
    result = run(root, weights, head=str(colour_head(tmp_path / "head.pth")))
    assert result.metrics == pytest.approx(EXPECTED)
    assert list(result.metrics)[:8] == list(SETTINGS)
    assert result.details["classes"] == CLASSES
    assert result.details["settings"]["original"]["per_class"] == [100.0, 100.0, 50.0]
    assert result.details["chance"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("head", ["linear", "knn"])
def test_a_head_fitted_on_objects_alone_answers_by_the_object(root, weights, head) -> None:
    result = run(root, weights, head=head, train=str(root / "only_fg" / "val"), k=1)
    assert result.metrics["only_fg"] == result.metrics["mixed_same"] == 100.0
    assert result.metrics["mixed_next"] == 50.0
    assert result.details["train_is_a_setting"] == "only_fg"


def test_training_classes_are_matched_by_name(root, weights, tmp_path) -> None:
    # A class more, before the others: all numbers of the head are shifted by one.
    train = tmp_path / "train"
    for c, name in enumerate(["-1_grey", *CLASSES]):
        (train / name).mkdir(parents=True)
        for i, level in enumerate((STRONG, WEAK)):
            image = picture(None, c - 1, level) if c else np.full((SIDE, SIDE, 3), level, np.uint8)
            Image.fromarray(image).save(train / name / f"{i}.png")
    result = run(root, weights, head="knn", train=str(train), k=1)
    assert result.metrics["only_fg"] == 100.0
    (train / "02_blue" / "0.png").unlink()
    (train / "02_blue" / "1.png").unlink()
    with pytest.raises(DataError, match=r"no class 02_blue \(1 of 3"):
        run(root, weights, head="knn", train=str(train), k=1)


def test_the_map_by_hand() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [0.0, 1.0, 2.0, 4.0], [9.0, 1.0, 2.0, 3.0]])
    table = torch.tensor([0, -1, 1, 0])
    assert Answer(table)(scores).tolist() == [-1, 0, 0]
    assert Answer(table, "restrict_370")(scores).tolist() == [1, 0, 0]


def test_a_map_from_a_file_in_both_rules(root, weights, tmp_path) -> None:
    # Outputs: red, something that is no class and likes green, green, blue, and a second red that never wins.
    rows = torch.tensor([[1.0, 0, 0], [0, 1.5, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 0]])
    head = str(colour_head(tmp_path / "head.pth", rows))
    table = tmp_path / "map.json"
    table.write_text(json.dumps({"0": 0, "1": -1, "2": 1, "3": 2, "4": 0}))
    official = run(root, weights, head=head, class_map=str(table))
    assert official.metrics["only_fg"] == pytest.approx(100 * 2 / 3)  # every green one gets the answer without class
    assert official.details["settings"]["only_fg"]["no_class"] == pytest.approx(100 / 3)
    restricted = run(root, weights, head=head, class_map=str(table), rule="restrict_370")
    assert {k: restricted.metrics[k] for k in SETTINGS} == pytest.approx({k: EXPECTED[k] for k in SETTINGS})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([0, 1], "2 entries"),
        ({"0": 0, "1": 1, "3": 2}, r"lacks \[2\]"),
        ([0, 1, 3], "below 3"),
        ([0, 1, 1], "no output for 02_blue"),
        (["a", 1, 2], "'a'"),
        ("x", "a str"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, table, words) -> None:
    (tmp_path / "map.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=words):
        class_answer(3, CLASSES, str(tmp_path / "map.json"))


def test_heads_that_do_not_fit_are_refused(root, weights, tmp_path) -> None:
    with pytest.raises(ConfigError, match="4 outputs and the settings have 3 classes.*CLASS_MAP"):
        run(root, weights, head=str(colour_head(tmp_path / "four.pth", torch.randn(4, 3))))
    with pytest.raises(WeightsError, match=r"do not fit features of 3 numbers; expected \(3, 3\)"):
        run(root, weights, head=str(colour_head(tmp_path / "wide.pth", torch.randn(3, 5))))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="no fc.weight"):
        read_head(tmp_path / "none.pth", 3)
    with pytest.raises(ConfigError, match="expected linear, knn, or a file"):
        run(root, weights, head="liner")
    with pytest.raises(ConfigError, match="BACKGROUNDS.TRAIN is empty"):
        Backgrounds()
    with pytest.raises(ConfigError, match="restrict_370.*CLASS_MAP"):
        Backgrounds(train="x", rule="restrict_370")


def test_the_head_of_a_linear_probe_belongs_to_its_weights(root, weights, tmp_path) -> None:
    # Written with its classes in another order and one more: outputs are matched by name.
    rows = torch.tensor([[0.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    layer = LinearHead(rows, torch.zeros(4), ("02_blue", "grey", "01_green", "00_red"))
    file = head_path(tmp_path, weights.label, 0)
    write_head(file, layer, weights)
    result = run(root, weights, head=str(tmp_path / "heads" / "{label}_seed0.pth"))
    assert result.metrics == pytest.approx(EXPECTED)
    assert result.details["head"] == str(file)
    other = ColourWeights("other", "other", "backbone", "another digest", None)
    with pytest.raises(WeightsError, match="trunk digest; expected one of another digest"):
        run(root, other, head=str(file))
    evaluator = Backgrounds(head=str(file))
    evaluator.check_weights(weights)
    with pytest.raises(ConfigError, match="several weights.*{label}"):
        evaluator.check_weights(other)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_the_linear_protocol_leaves_its_layer(tmp_path, weights, solver) -> None:
    for part, shift in (("train", 0), ("val", 3)):
        for c, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                level = np.random.default_rng(c * 4 + i + shift).integers(0, 200, 3) + 40 * np.eye(3)[c]
                image = np.full((SIDE, SIDE, 3), level, np.uint8)
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    made = LinearProbe(solver, [0.1, 1.0], Recipe(20, 5), features=FeatureOptions(SIDE, 5))
    data = EvalData(str(tmp_path), out=str(tmp_path / "out"))
    result = made(weights, data)
    layer = read_head(result.details["head"], 3, "digest")
    assert layer.classes == tuple(CLASSES)
    x, y = extract_split(weights, data.labelled_splits()[1], FeatureOptions(SIDE, 5))
    assert 100 * float((layer(x).argmax(1) == y).double().mean()) == pytest.approx(result.metrics["top1"])
    assert 40 < result.metrics["top1"] < 100  # neither chance nor trivial


def test_missing_settings_are_named_and_a_part_is_asked_for(root, weights, tmp_path) -> None:
    head = str(colour_head(tmp_path / "head.pth"))
    for name in ("no_fg", "mixed_rand"):
        (root / name).rename(tmp_path / name)
    with pytest.raises(DataError, match=r"lacks mixed_rand/val, no_fg/val \(6 of 8.*BACKGROUNDS.SETTINGS"):
        run(root, weights, head=head)
    result = run(root, weights, head=head, settings=["only_fg", "mixed_same"])
    assert result.metrics == {"mixed_same": 100.0, "only_fg": 100.0}
    with pytest.raises(ConfigError, match="mixed_some"):
        run(root, weights, head=head, settings=["mixed_some"])
    with pytest.raises(DataError, match="none of the settings"):
        run(tmp_path, weights, head=head, settings=["original"])


def test_settings_with_other_classes_are_refused(root, weights, tmp_path) -> None:
    (root / "only_bg_t" / "val" / "02_blue").rename(root / "only_bg_t" / "val" / "02_violet")
    with pytest.raises(DataError, match=r"only_bg_t and of original differ \(02_blue, 02_violet\)"):
        run(root, weights, head=str(colour_head(tmp_path / "head.pth")))


def fools(root: Path, ground: str, name: str) -> bool:
    """Whether one background makes the largest mean channel another than that of the foreground's class."""
    mask = np.load(root / "fg_mask" / "val" / f"{name}.npy")
    mixed = np.array(Image.open(root / "only_bg_t" / "val" / f"{ground}.png"))
    mixed[mask] = np.asarray(Image.open(root / "original" / "val" / f"{name}.png"))[mask]
    return int(mixed.reshape(-1, 3).mean(0).argmax()) != CLASSES.index(name.split("/")[0])


def brute_force(root: Path) -> dict[str, bool]:
    """Foreground -> whether every background leaves the largest mean channel right, pixel by pixel."""
    grounds = [p.relative_to(root / "only_bg_t" / "val").with_suffix("") for p in root.glob("only_bg_t/val/*/*.png")]
    names = [p.relative_to(root / "fg_mask" / "val").with_suffix("") for p in root.glob("fg_mask/val/*/*.npy")]
    return {str(name): not any(fools(root, str(ground), str(name)) for ground in grounds) for name in names}


def test_adversarial_score_in_closed_form_and_by_brute_force(root, weights, tmp_path) -> None:
    result = run(root, weights, head=str(colour_head(tmp_path / "head.pth")), challenge=True)
    # The strong half survives; among weak ones red and green fall to each other's ground, and blue to both.
    assert result.metrics["challenge_robust"] == result.metrics["challenge_vulnerable"] == 50.0
    fooled = result.details["challenge"]["fooled_by"]
    assert {name: not by for name, by in fooled.items()} == brute_force(root)
    assert result.details["challenge"]["backgrounds"] == 12


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_adversarial_score_equals_brute_force_on_noise(root, batch) -> None:
    rng = np.random.default_rng(0)
    for file in itertools.chain((root / "original").rglob("*.png"), (root / "only_bg_t").rglob("*.png")):
        level = rng.uniform(0.35, 0.65, 3) * 255
        noise = rng.normal(level, 40, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(file)
    for file in (root / "fg_mask").rglob("*.npy"):
        np.save(file, rng.random((SIDE, SIDE)) < rng.uniform(0.3, 1))
    expected = brute_force(root)

    shown = []

    def classify(images: Tensor) -> Tensor:
        shown.append(len(images))
        return images.float().mean((2, 3)).argmax(1)

    found = run_challenge(root, CLASSES, classify, SIDE, batch)
    assert {name: not by for name, by in found.fooled_by.items()} == expected
    assert found.robust == pytest.approx(100 * sum(expected.values()) / 12)
    assert 0 < sum(expected.values()) < 12  # both kinds are there
    for name, ground in found.fooled_by.items():
        assert not ground or fools(root, ground, name)
    if batch == 1:  # nothing is looked at after the first wrong answer
        assert sum(shown) < 12 * 12
    assert len(run_challenge(root, CLASSES, classify, SIDE, batch, most=3).fooled_by) == 3


def test_adversarial_score_says_what_is_missing(root, weights, tmp_path) -> None:
    settings = {"head": str(colour_head(tmp_path / "head.pth")), "challenge": True}
    np.save(root / "fg_mask" / "val" / "00_red" / "0.npy", np.zeros((4, 4), bool))
    with pytest.raises(DataError, match=r"0.npy is \(4, 4\)"):
        run(root, weights, **settings)
    (root / "fg_mask" / "val" / "00_red" / "0.npy").write_bytes(b"no numpy")
    with pytest.raises(DataError, match="cannot read the mask"):
        run(root, weights, **settings)
    (root / "original" / "val" / "01_green" / "1.png").rename(root / "original" / "val" / "01_green" / "x.png")
    with pytest.raises(DataError, match=r"1.npy has no picture 01_green/1\.\*"):
        run(root, weights, **settings)
    (root / "fg_mask").rename(tmp_path / "fg_mask")
    with pytest.raises(DataError, match="fg_mask"):
        run(root, weights, **settings)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [True, False])
def test_the_folded_layer_is_the_logistic_regression(classes, scale) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % classes
    y[y == classes - 1] = classes  # a gap: class number classes - 1 has no image
    x = torch.randn(60, 4, generator=g) * torch.tensor([1.0, 10, 0.1, 3]) + y[:, None] + 5
    test = torch.randn(40, 4, generator=g) * 3 + 6
    layer, iterations = fit_linear(x, y, classes + 1, 0.7, scale)
    assert iterations > 1
    scaler = StandardScaler(with_mean=scale, with_std=scale).fit(x.double().numpy())
    model = LogisticRegression(C=0.7, max_iter=1000).fit(scaler.transform(x.double().numpy()), y.numpy())
    logits = layer(test)
    assert logits[:, classes - 1].isneginf().all()  # can never be the answer
    seen = [i for i in range(classes + 1) if i != classes - 1]
    expected = model.predict_proba(scaler.transform(test.double().numpy()))
    np.testing.assert_allclose(F.softmax(logits[:, seen], 1).numpy(), expected, atol=2e-4)


def test_score_of_a_class_without_images() -> None:
    row = score(torch.tensor([0, -1, 0, 0]), torch.tensor([0, 0, 2, 0]), 3)
    assert row["top1"] == 50.0 and row["no_class"] == 25.0
    assert row["per_class"] == [pytest.approx(200 / 3), None, 0.0]


def test_options_reach_the_protocol(tmp_path) -> None:
    options = load_options(
        overrides=["BACKGROUNDS.TRAIN", "t", "BACKGROUNDS.HEAD", "knn", "KNN.K", "3", "BACKGROUNDS.CHALLENGE", "True"]
    )
    made = Backgrounds(**Backgrounds.from_config(options))
    assert (made.train, made.head, made.k, made.challenge) == ("t", "knn", 3, True)
    with pytest.raises(UserError, match="BACKGROUNDS.TRAN"):
        load_options(overrides=["BACKGROUNDS.TRAN", "t"])


def test_the_drawn_scenes_are_such_a_set(tmp_path, weights) -> None:
    params = SceneParams(width=32, height=32, families=2, kinds=1)
    scenes = write_scenes(
        tmp_path / "scenes", params, SetPlan(0, 0, 8, 0, 4, image_format="png"), workers=0, progress=False
    )
    result = run(scenes / "backgrounds", weights, train=str(scenes / "objects" / "train"), challenge=True)
    assert result.details["classes"] == sorted(params.classes)
    assert set(SETTINGS) < set(result.metrics)
    assert all(row["images"] == 4 for row in result.details["settings"].values())
