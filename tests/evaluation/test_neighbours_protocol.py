"""Neighbours against brute force, percentages by hand, chance by enumeration, backgrounds of drawn scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.evaluation import tiny_config
from torch import Tensor

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.datasets.scenes.draw import draw_scene
from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.write import SetPlan, write_scenes
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.evaluation import open_weights
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.neighbours import (
    NearestNeighbours,
    Neighbours,
    Photos,
    examples,
    find_neighbours,
    open_photos,
    summarize,
    without_self,
)
from ssl_loc.utils.errors import ConfigError, DataError


def known_photos(labels: list[int], backgrounds: list[int], name: str = "p") -> Photos:
    records = RecordTable.pack(Record(f"{name}{i}.png", label, str(i)) for i, label in enumerate(labels))
    return Photos(LabelledSplit(name, records, ["a", "b", "c"]), torch.tensor(labels), torch.tensor(backgrounds))


def test_nobody_is_its_own_neighbour() -> None:
    index = torch.tensor([[0, 2, 1], [2, 1, 0], [0, 1, 3], [3, 2, 0]])  # row 2: its equals crowded it out
    cosine = torch.tensor([[1.0, 0.9, 0.8]] * 4)
    found, values = without_self(index, cosine)
    assert found.tolist() == [[2, 1], [2, 0], [0, 1], [2, 0]]
    torch.testing.assert_close(values, torch.tensor([[0.9, 0.8], [1.0, 0.8], [1.0, 0.9], [0.9, 0.8]]))


def test_percentages_by_hand() -> None:
    bank = known_photos([0, 0, 1, 1, 2], [0, 1, 0, 0, 1])
    queries = known_photos([0, 1, 2], [0, 0, 1])
    index = torch.tensor([[2, 0], [3, 0], [1, 4]])
    #   query 0: class no, ground yes | class yes, ground yes
    #   query 1: class yes, ground yes | class no, ground yes
    #   query 2: class no, ground yes | class yes, ground yes
    found = Neighbours(queries, bank, index, torch.zeros(3, 2), within=False)
    metrics = summarize(found)
    assert metrics == pytest.approx(
        {
            "nearest_same_class": 100 / 3,
            "same_class": 50.0,
            "same_class_chance": 100 * (2 + 2 + 1) / 5 / 3,
            "same_background": 100.0,
            "same_background_chance": 100 * (3 + 3 + 2) / 5 / 3,
            "background_errors": 200 / 3,
            "wrong_on_same_background": 100.0,
            # Of other classes: query 0 has 2 alike of 3, query 1 has 1 of 3, query 2 has 1 of 4; one error each.
            "wrong_on_same_background_chance": 100 * (2 / 3 + 1 / 3 + 1 / 4) / 3,
        }
    )


def test_unknown_classes_and_backgrounds_are_like_nothing() -> None:
    bank, queries = known_photos([0, -1], [-1, -1]), known_photos([0, -1], [-1, -1])
    found = Neighbours(queries, bank, torch.tensor([[0], [1]]), torch.zeros(2, 1), within=False)
    assert summarize(found) == pytest.approx(
        {"nearest_same_class": 50.0, "same_class": 50.0, "same_class_chance": 25.0}
    )
    nothing = known_photos([-1, -1], [-1, -1])
    assert summarize(Neighbours(nothing, nothing, torch.tensor([[1], [0]]), torch.zeros(2, 1), True)) == {}


def test_chances_by_enumeration() -> None:
    """Random neighbours, every one of them: what chance says they give."""
    generator = torch.Generator().manual_seed(0)
    one = known_photos(torch.randint(0, 3, (40,), generator=generator).tolist(), (torch.arange(40) % 4).tolist())
    everybody = torch.tensor([[j for j in range(40) if j != i] for i in range(40)])
    metrics = summarize(Neighbours(one, one, everybody, torch.zeros(40, 39), within=True))
    assert metrics["same_class"] == pytest.approx(metrics["same_class_chance"])
    assert metrics["same_background"] == pytest.approx(metrics["same_background_chance"])
    assert metrics["wrong_on_same_background"] == pytest.approx(metrics["wrong_on_same_background_chance"])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "scenes"
    plan = SetPlan(train=12, val=5, objects_train=0, objects_val=0, backgrounds=0)
    return write_scenes(folder, SceneParams(width=64, height=64, seed=3), plan, progress=False)


def test_scenes_know_their_backgrounds(scenes: Path) -> None:
    dataset = get_dataset(f"scenes:{scenes}:train")
    found = [dataset.metadata["backgrounds"][record.key] for record in dataset.records]
    assert found == [draw_scene(SceneParams(width=64, height=64, seed=3), "train", i).background for i in range(12)]
    queries, bank, within = open_photos(EvalData(f"scenes:{scenes}:train,scenes:{scenes}:val"))
    assert (len(queries), len(bank), within) == (5, 12, False)
    assert bank.backgrounds.tolist() == found
    limited, _, _ = open_photos(EvalData(f"scenes:{scenes}:train", limit=3))
    assert limited.backgrounds.tolist() == [found[0], found[6], found[11]]  # evenly spread: 0, 5.5, 11


def brute_force(x: Tensor, y: Tensor, k: int, within: bool) -> Tensor:
    rows = []
    for i, one in enumerate(x):
        cosines = [-2.0 if within and i == j else float(F.cosine_similarity(one, y[j], dim=0)) for j in range(len(y))]
        rows.append(sorted(range(len(y)), key=lambda j: -cosines[j])[:k])
    return torch.tensor(rows)


def test_protocol_end_to_end(scenes: Path, run_folder: Path) -> None:
    weights = open_weights(str(run_folder), "cpu")
    protocol = NearestNeighbours(k=3, examples=2)
    for spec, within in ((f"scenes:{scenes}:train,scenes:{scenes}:val", False), (f"scenes:{scenes}:train", True)):
        data = EvalData(spec)
        found = find_neighbours(weights, data, 3, protocol.features)
        features = [value for key, value in weights.cache.items() if key[0] == "features"]
        bank = next(x for x in features if len(x) == 12)
        queries = bank if within else next(x for x in features if len(x) == 5)
        assert torch.equal(found.index, brute_force(queries, bank, 3, within))
        result = protocol(weights, data)
        assert result.metrics == summarize(found)
        assert result.details["searched"] == (11 if within else 12) and len(result.details["examples"]) == 2
    first = examples(found, 1)[0]
    assert first["path"].endswith("000000.jpg") and len(first["neighbours"]) == 3
    assert first["class"] in found.queries.source.classes


def test_unlabelled_photos_and_wrong_options(photos: tuple[Path, Path], run_folder: Path, tmp_path: Path) -> None:
    images, _ = photos
    result = NearestNeighbours()(open_weights(str(run_folder), "cpu"), EvalData(f"folder:{images}"))
    assert result.metrics == {} and result.details["k"] == 3
    two = open_photos(EvalData(f"folder:{images},folder:{images}"))
    assert two[0].labels.tolist() == [-1] * 6 and not two[2]
    with pytest.raises(DataError, match="1 image; neighbours need at least two"):
        open_photos(EvalData(f"folder:{images}", limit=1))
    with pytest.raises(ConfigError, match=r"NEIGHBOURS\.K is 0"):
        NearestNeighbours(k=0)
    assert tiny_config().AUGMENT.SIZE == result.details["input_size"]
