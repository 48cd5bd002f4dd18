"""CAST with everything switched off is MoCo, bit for bit, through the whole engine."""

from __future__ import annotations

from pathlib import Path

import torch
from engine_runs import assert_equal_bits, cast_keys, last_state, tensors, tiny_cfg

from ssl_loc.engine import train


def test_phi_0_lambda_0_is_moco(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    train(tiny_cfg(drawn, tmp_path / "moco", "SOLVER.MAX_ITER", 4))
    train(tiny_cfg(drawn, tmp_path / "off", *cast_keys(drawn, phi=0.0, weight=0.0), "SOLVER.MAX_ITER", 4))
    assert_equal_bits(last_state(tmp_path / "moco"), last_state(tmp_path / "off"))


def test_switches_do_something(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    """The equality above would also hold if the keys were not read."""
    found = {}
    for name, phi, weight in (("off", 0.0, 0.0), ("crop", 0.8, 0.0), ("attention", 0.0, 3.0)):
        train(tiny_cfg(drawn, tmp_path / name, *cast_keys(drawn, phi, weight), "SOLVER.MAX_ITER", 2))
        found[name] = tensors(last_state(tmp_path / name))["model.method.query_trunk.layer4.0.conv1.weight"]
    assert not torch.equal(found["off"], found["crop"])
    assert not torch.equal(found["off"], found["attention"])
