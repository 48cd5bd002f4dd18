"""A detector learns from random weights on either engine: AP50 above 20 within 200 iterations on procedural scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.write import SetPlan, write_scenes
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.run import run_transfer
from ssl_loc.utils.events import read_metrics

RECIPE = Path(__file__).parents[2] / "configs" / "detection" / "quick" / "scenes4_narrow_FPN_200it.yaml"
HERE, WHY = Detectron2Engine().available()
NEEDS = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=NEEDS)])
def test_a_detector_learns(engine: str, tmp_path: Path) -> None:
    """The quick recipe on four classes, a tenth of the usual pictures; AP50 is near 90 with all of them."""
    root = write_scenes(tmp_path / "scenes", SceneParams(kinds=1), SetPlan(200, 60, 0, 0, 0))
    sets = [f"('scenes:{root}:{split}',)" for split in ("train", "val")]
    overrides = ["DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1], "OUTPUT_DIR", str(tmp_path / "out")]
    result = run_transfer(load_recipe(RECIPE, overrides), "random", engine)
    assert result is not None and result.metrics["bbox/AP50"] > 20
    rows = read_metrics(tmp_path / "out")
    # The sum first rises, when the RPN starts to find objects for the box head to learn from.
    assert rows[-1]["loss_rpn_cls"] < 0.3 * rows[0]["loss_rpn_cls"]
    assert rows[-1]["total_loss"] < max(row["total_loss"] for row in rows[1:])
