"""Fine-tuning in two processes, on either engine: one model, averaged statistics, and the same bits after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.ddp import run_in_processes
from helpers.detection_recipe import tiny_recipe
from helpers.finetuning import Countdown, different, final_model, fine_tune

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.stop import RunStopped

HERE, WHY = Detectron2Engine().available()
NEEDS = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
both_engines = pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=NEEDS)])
# The trunk's norms are plain, the pyramid's synchronised.
MIXED = ("MODEL.FPN.NORM", "SyncBN", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
# Running statistics are then what is saved in the end.
UNPRECISE = (*MIXED, "TEST.PRECISE_BN.ENABLED", "False", "TEST.EVAL_PERIOD", 2)


class OnlyIn(Countdown):
    """A signal that only one process receives."""

    def __init__(self, here: bool, at: int) -> None:
        super().__init__(at if here else 10**9)


def _in_a_group(rank: int, engine: str, names: dict[str, str], out: str) -> dict[str, Any]:
    """Top level, so that a new process can import it: a run with PreciseBN, then one without, whole and stopped."""
    seen = watch_models(engine)
    found = fine_tune(engine, tiny_recipe("FPN", names, f"{out}/precise", *MIXED))
    state = dict(seen[-1])
    fine_tune(engine, tiny_recipe("FPN", names, f"{out}/whole", *UNPRECISE))
    stopped = tiny_recipe("FPN", names, f"{out}/stopped", *UNPRECISE)
    with pytest.raises(RunStopped, match="after 1 of 3"):
        fine_tune(engine, stopped, request=OnlyIn(rank == 1, at=1))
    fine_tune(engine, stopped, resume=True)
    predictions = [p for part in found.values() for p in part]
    return {
        "precise": state,
        "evaluated": seen[1],  # the second run's evaluation between two steps
        "images": [str(p.image_id) for p in predictions],
        "scores": [torch.as_tensor(p.scores) for p in predictions],
    }


def watch_models(engine: str) -> list[dict[str, torch.Tensor]]:
    """A list that receives a copy of the model's tensors whenever it is about to predict."""
    if engine == "detectron2":
        from ssl_loc.transfer.detectron2_engine import engine as module
    else:
        from ssl_loc.transfer.torchvision_engine import engine as module  # type: ignore[no-redef]
    seen: list[dict[str, torch.Tensor]] = []
    predict = module.predict

    def spy(*values: Any) -> Any:
        model = next(value for value in values if isinstance(value, torch.nn.Module))
        seen.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        return predict(*values)

    module.predict = spy
    return seen


@both_engines
def test_two_processes_train_one_model(engine: str, names: dict[str, str], tmp_path: Path) -> None:
    first, second = run_in_processes(_in_a_group, 2, engine, names, str(tmp_path))
    # The main process gathers the predictions of both, one per image although three images on two processes do not
    # divide; the other one returns none.
    assert first["images"] == ["test_000", "test_001", "test_002"] and second["images"] == []
    # Parameters are equal by DDP; the running statistics of plain norms only because they are averaged.
    assert not different(first["precise"], second["precise"])
    assert not different(first["evaluated"], second["evaluated"])
    saved = final_model(tmp_path / "precise")
    assert not different({key: first["precise"][key] for key in saved}, saved)
    if engine == "detectron2":
        assert (tmp_path / "precise/detectron2_config_adapted.yaml").read_text().count("NORM: naiveSyncBN") == 1
    assert_evaluates_the_same(engine, names, tmp_path, first["scores"])
    # A periodic checkpoint holds the mean, and each process's own for the run that goes on.
    content = torch.load(tmp_path / "whole/model_0000001.pth", weights_only=True)
    a, b = content["own_statistics"]
    # detectron2 goes on with the statistics that it evaluated with; the torchvision engine does not.
    assert bool(different(a, b)) == (engine == "torchvision")
    for key in (key for key in a if key.endswith(("running_mean", "running_var"))):
        assert torch.equal((a[key] + b[key]) / 2, content["model"][key])
    # One process was stopped, so both were, and went on from their own statistics.
    assert not different(final_model(tmp_path / "whole"), final_model(tmp_path / "stopped"))
    stopped = torch.load(tmp_path / "stopped/model_0000000.pth", weights_only=True)
    assert different(*stopped["own_statistics"])


def assert_evaluates_the_same(engine: str, names: dict[str, str], folder: Path, scores: list[torch.Tensor]) -> None:
    """One process finds in the test images what two found with the same detector."""
    if engine == "detectron2":
        from ssl_loc.transfer.detectron2_engine.engine import run_job
    else:
        from ssl_loc.transfer.torchvision_engine.engine import run_job
    recipe = tiny_recipe("FPN", names, folder / "alone", *MIXED)
    job = TransferJob(recipe, folder / "alone", detector=folder / "precise/model_final.pth")
    ((_, alone),) = run_job(job).items()
    assert isinstance(alone[0], ImagePrediction) and sum(map(len, scores)) > 0
    for prediction, expected in zip(alone, scores, strict=True):
        assert np.allclose(prediction.scores, expected.numpy(), atol=1e-6)


@both_engines
def test_what_this_machine_cannot_do_is_changed_said_once_and_written(
    engine: str, names: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    caplog.set_level("INFO")
    keys = ("SOLVER.AMP.ENABLED", "True", "MODEL.FPN.NORM", "SyncBN", "SOLVER.MAX_ITER", 1)
    recipe = tiny_recipe("FPN", names, tmp_path, *keys)
    fine_tune(engine, recipe)
    for change in ("MODEL.DEVICE: 'cuda' -> 'cpu'", "SOLVER.AMP.ENABLED: True -> False"):
        assert caplog.text.count(change) == 1
    if engine == "detectron2":
        asked = (tmp_path / "detectron2_config.yaml").read_text()
        adapted = (tmp_path / "detectron2_config_adapted.yaml").read_text()
        assert caplog.text.count("MODEL.FPN.NORM: 'SyncBN' -> 'BN'") == 1
        assert asked.count("NORM: SyncBN") == 1 and "NORM: SyncBN" not in adapted
        assert "DEVICE: cuda" in asked and "DEVICE: cpu" in adapted
    else:
        adapted_recipe = load_recipe(tmp_path / "recipe_adapted.yaml")
        assert (adapted_recipe.MODEL.DEVICE, adapted_recipe.SOLVER.AMP.ENABLED) == ("cpu", False)
        assert adapted_recipe.MODEL.FPN.NORM == "SyncBN"
    # It is the same run for --resume.
    stored = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (stored.get("about") or stored)["recipe"] == recipe.to_dict()
