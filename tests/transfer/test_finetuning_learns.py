"""A detector learns from random weights on either engine: AP50 above 20 within 200 iterations."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe

from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.run import run_transfer
from ssl_loc.utils.events import read_metrics

HERE, WHY = Detectron2Engine().available()
NEEDS = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
LEARNING = (
    *("SOLVER.MAX_ITER", 200, "SOLVER.STEPS", (160,), "SOLVER.WARMUP_ITERS", 20, "SOLVER.BASE_LR", 0.02),
    *("SOLVER.CHECKPOINT_PERIOD", 0, "TEST.PRECISE_BN.NUM_ITER", 10, "TRANSFER.LOG_PERIOD", 20),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 64),
)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=NEEDS)])
def test_a_detector_learns(engine: str, tmp_path: Path) -> None:
    """Two coloured shapes on noise. AP50 of seeds 0, 1, 2: 43, 45, 12 (torchvision) and 58, 29, 16 (detectron2): from
    random weights some runs only begin to learn within 200 iterations of two images, so the seed is fixed."""
    names = draw_detection_data(tmp_path / "data", train=40, test=16)
    result = run_transfer(tiny_recipe("FPN", names, tmp_path / "out", *LEARNING), "random", engine)
    assert result is not None and result.metrics["bbox/AP50"] > 20
    rows = read_metrics(tmp_path / "out")
    # The sum first rises, when the RPN starts to find objects for the box head to learn from.
    assert rows[-1]["loss_rpn_cls"] < 0.3 * rows[0]["loss_rpn_cls"]
    assert rows[-1]["total_loss"] < max(row["total_loss"] for row in rows[1:])
