"""The base methods' recipes are those of their papers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_loc.components import setup_cfg
from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters.recipes import recipe
from ssl_loc.losses import build_losses
from ssl_loc.solver import build_schedule, scaled_lr

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "baselines"
# Images of the ImageNet-1k training set.
IMAGENET = 1281167


def _cfg(name: str) -> CfgNode:
    return setup_cfg(str(CONFIGS / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "depth", "loss"), [("R18", 18, "NCE"), ("R50", 50, "NCE"), ("softmax_R50", 50, "InfoNCE")]
)
def test_instdisc(name: str, depth: int, loss: str) -> None:
    cfg = _cfg(f"instdisc_{name}")
    node, solver = cfg.MODEL.INSTDISC, cfg.SOLVER
    assert (node.K, node.T, node.M, node.DIM, node.HEAD) == (4096, 0.07, 0.5, 128, "linear")
    assert (solver.BASE_LR, solver.IMS_PER_BATCH, solver.WEIGHT_DECAY, solver.MOMENTUM) == (0.03, 256, 1e-4, 0.9)
    assert solver.OPTIMIZER == "SGD" and [solver.EPOCHS * step for step in solver.STEPS] == [120, 160]
    assert cfg.MODEL.RESNET.DEPTH == depth and list(build_losses(cfg).weights) == [loss]
    assert cfg.AUGMENT.VIEWS == recipe("instdisc")[:1]


@pytest.mark.parametrize(
    ("name", "lr", "decay", "epochs"),
    [("simclr_R50", 4.8, 1e-6, 1000), ("byol_R50", 3.2, 1.5e-6, 1000), ("byol_300ep_R50", 4.8, 1e-6, 300)],
)
def test_large_batches(name: str, lr: float, decay: float, epochs: float) -> None:
    """LARS at 4096 images, lr * batch / 256, 10 epochs of warm-up from 0, cosine per step, statistics of all."""
    cfg = _cfg(name)
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH, solver.MOMENTUM, solver.LARS.ETA) == ("LARS", 4096, 0.9, 0.001)
    assert scaled_lr(cfg) == pytest.approx(lr) and solver.WEIGHT_DECAY == decay and solver.EPOCHS == epochs
    batches = IMAGENET // 4096
    schedule = build_schedule(cfg, round(epochs * batches), batches)
    assert (
        solver.WARMUP_ITERS == 10 * batches
        and schedule(0) == 0
        and schedule(batches * 10) == pytest.approx(lr, rel=0.01)
    )
    assert (solver.SCHEDULE, solver.LR_UPDATE, cfg.MODEL.NORM) == ("cosine", "iter", "SyncBN")


def test_simclr() -> None:
    cfg = _cfg("simclr_R50")
    assert (cfg.MODEL.SIMCLR.T, cfg.MODEL.SIMCLR.DIM, cfg.MODEL.SIMCLR.HEAD_BN) == (0.1, 128, "hidden")
    assert cfg.AUGMENT.VIEWS == recipe("simclr") and list(build_losses(cfg).weights) == ["NTXent"]


@pytest.mark.parametrize(("name", "tau"), [("byol_R50", 0.996), ("byol_300ep_R50", 0.99)])
def test_byol(name: str, tau: float) -> None:
    cfg = _cfg(name)
    assert (cfg.MODEL.BYOL.TAU, cfg.MODEL.BYOL.DIM, cfg.MODEL.BYOL.HIDDEN) == (tau, 256, 4096)
    first, second = recipe("byol")
    assert [first[:-1], second] == cfg.AUGMENT.VIEWS  # the first view is never solarised
    assert first[-1] == {"Solarize": {"P": 0.0}} and cfg.LOSS.NEGATIVE_COSINE.FORM == "byol"
