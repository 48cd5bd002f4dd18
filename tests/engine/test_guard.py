"""A broken loss is named, with its files, and nothing is written over the last checkpoint."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import last_state, tiny_cfg

from ssl_loc.config import CfgNode, register_config
from ssl_loc.config.fragments import isolated
from ssl_loc.engine import train
from ssl_loc.engine.guard import NonFiniteLossError
from ssl_loc.losses.build import LOSS_REGISTRY, Loss
from ssl_loc.modeling.method.moco import MoCo


class BreaksAtTheFourth(Loss):
    """0 three times, then NaN; it still depends on the query, so a backward exists."""

    node = "BREAKS"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {}

    def forward(self, views: Any, output: Any, method: Any) -> Any:
        self.calls += 1
        return output.pairs[0].q.sum() * (0.0 if self.calls < 4 else float("nan")), {}


def test_nan_names_term_iteration_rate_and_files(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with isolated(), LOSS_REGISTRY.temporarily("Breaks", BreaksAtTheFourth):

        @register_config("LOSS.BREAKS")
        def breaks() -> CfgNode:
            return CfgNode({"WEIGHT": 1.0})

        cfg = tiny_cfg(
            drawn, out, *("LOSS.NAMES", ["InfoNCE", "Breaks"], "ENGINE.CHECKPOINT_PERIOD", 2, "ENGINE.LOG_PERIOD", 1)
        )
        with pytest.raises(NonFiniteLossError) as error:
            train(cfg)
    text = str(error.value)
    rate = 0.03 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 6)).item())  # cosine at step 3 of 6
    assert "loss term Breaks is nan at iteration 3" in text and f"lr {rate:.3g}" in text
    assert "InfoNCE" not in text
    listed = (out / "nonfinite_batch.txt").read_text().split()
    assert len(listed) == 8 and all(Path(path).is_file() for path in listed)
    assert listed[0] in text and "(all 8 in" in text
    state = last_state(out)
    assert state["iteration"] == 2 and len(list((out / "checkpoints").glob("iter_*"))) == 1
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_broken_weights_are_never_written(
    drawn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient can overflow while the loss is still finite."""
    real = MoCo.after_step

    def after_step(self: MoCo, iteration: int) -> None:
        real(self, iteration)
        if iteration == 3:
            self.trunk().layer4[0].conv2.weight.data[0, 0, 0, 0] = float("inf")

    monkeypatch.setattr(MoCo, "after_step", after_step)
    with pytest.raises(
        NonFiniteLossError, match="1 of .* is method.query_trunk.layer4.0.conv2.weight.*iter_0000002.pth"
    ):
        train(tiny_cfg(drawn, tmp_path, "ENGINE.CHECKPOINT_PERIOD", 2, "ENGINE.LOG_PERIOD", 100))
    assert last_state(tmp_path)["iteration"] == 2


def test_last_checkpoint_keeps_its_bytes(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 1))
    file = out / "checkpoints" / "iter_0000001.pth"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_loc.losses.functional.F.cross_entropy", lambda logits, *_, **__: logits.sum() * float("inf"))
        with pytest.raises(NonFiniteLossError, match="InfoNCE is (inf|-inf|nan) at iteration 1"):
            train(tiny_cfg(drawn, out, "SOLVER.MAX_ITER", 2), resume=True)
    assert before == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [p.name for p in (out / "checkpoints").glob("*.pth")] == [file.name]
