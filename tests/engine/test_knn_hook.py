"""k-NN beside a training: the right number, and a training that does not notice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_runs import assert_equal_bits, last_state, tiny_cfg
from helpers.ddp import run_in_processes

from ssl_loc.config import construct
from ssl_loc.engine import train
from ssl_loc.engine.knn_hook import EvalKNN
from ssl_loc.evaluation import EvalData, open_weights
from ssl_loc.evaluation.features import FeatureOptions
from ssl_loc.evaluation.knn import KNN
from ssl_loc.modeling import build_method
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.events import read_metrics

PERIOD = 3


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured noise, 5 training and 3 test images each (odd numbers, so that processes pad)."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(1)
    for split, count in (("train", 5), ("val", 3)):
        for c in range(3):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 200, (40, 44, 3), dtype=np.uint8)
                picture[..., c] //= 2
                cv2.imwrite(str(folder / f"{i}.png"), picture)
    return root


def keys(labelled: Path) -> list:
    return ["ENGINE.EVAL_KNN.PERIOD", PERIOD, "ENGINE.EVAL_KNN.DATA", str(labelled), "ENGINE.EVAL_KNN.K", 4]


def test_training_is_the_same_to_the_bit_and_the_number_is_the_protocols(
    drawn: tuple[Path, Path], labelled: Path, tmp_path: Path
) -> None:
    train(tiny_cfg(drawn, tmp_path / "without", "SOLVER.MAX_ITER", 5))
    cfg = tiny_cfg(drawn, tmp_path / "with", "SOLVER.MAX_ITER", 5, *keys(labelled))
    result = train(cfg)
    assert_equal_bits(last_state(tmp_path / "without"), last_state(tmp_path / "with"))

    rows = read_metrics(tmp_path / "with")
    measured = {row["iteration"]: row["knn_top1"] for row in rows if "knn_top1" in row}
    assert list(measured) == [3, 5]
    # Windows of two steps are as without: 2, 4, 5; the measurement at 3 has a row of its own.
    assert [row["iteration"] for row in rows if "loss" in row] == [2, 4, 5]
    plain = read_metrics(tmp_path / "without")
    assert [row["loss"] for row in plain] == [row["loss"] for row in rows if "loss" in row]
    protocol = KNN(k=4, features=FeatureOptions())(open_weights(str(tmp_path / "with"), "cpu"), EvalData(str(labelled)))
    assert measured[5] == pytest.approx(protocol.metrics["top1"]) == result["metrics"]["knn_top1"]


def measure(rank: int, labelled: str) -> dict:
    torch.manual_seed(0)
    from ssl_loc.components import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.RESNET.DEPTH", 18, "MODEL.RESNET.WIDTH", 8, "MODEL.RESNET.STEM", "small"])
    cfg.merge_from_list(["MODEL.MOCO.K", 24, "AUGMENT.SIZE", 32, *keys(Path(labelled))])
    method = build_method(cfg).train()
    hook = construct(EvalKNN, cfg)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    modes = [module.training for module in method.modules()]
    draw = torch.get_rng_state()
    top1 = hook.measure(method, torch.device("cpu"))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), draw)
    # 15 and 9 images over two processes: both lists are padded.
    order = comm.gather_strided(torch.arange(7)[rank :: comm.get_world_size()], 7)
    return {"top1": top1, "order": order}


def test_two_processes_measure_what_one_does(labelled: Path) -> None:
    alone = measure(0, str(labelled))
    together = run_in_processes(measure, 2, str(labelled))
    assert [part["top1"] for part in together] == [alone["top1"]] * 2
    assert all(part["order"].tolist() == list(range(7)) for part in [alone, *together])
    assert 0 < alone["top1"] < 100


@pytest.mark.parametrize(
    ("overrides", "words", "kind"),
    [
        (["ENGINE.EVAL_KNN.PERIOD", 2], "ENGINE.EVAL_KNN.DATA is empty", ConfigError),
        (["ENGINE.EVAL_KNN.PERIOD", 2, "ENGINE.EVAL_KNN.DATA", "nowhere"], "EVAL_KNN.DATA nowhere does not", DataError),
        (["ENGINE.EVAL_KNN.PERIOD", -2], "PERIOD -2", ConfigError),
    ],
)
def test_what_cannot_work_is_said_before_training(
    overrides: list, words: str, kind: type, drawn: tuple[Path, Path], labelled: Path, tmp_path: Path
) -> None:
    if -2 in overrides:
        overrides = [*overrides, "ENGINE.EVAL_KNN.DATA", str(labelled)]
    with pytest.raises(kind, match=words):
        train(tiny_cfg(drawn, tmp_path / "run", *overrides))
    assert not (tmp_path / "run" / "checkpoints").exists()
