"""N processes are the same program as one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from engine_runs import cast_keys, last_state, tensors, tiny_cfg

from ssl_loc.config import CfgNode
from ssl_loc.data.build import PretrainLoader, build_pretrain_loader
from ssl_loc.engine import launch, train
from ssl_loc.engine.run import build_step
from ssl_loc.modeling import Method, build_method
from ssl_loc.structures import Views
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError, UserError
from ssl_loc.utils.events import read_metrics

Data = tuple[Path, Path]
STEPS = 4
# Batches of 8 as 2 processes x 4, or 2 processes x 2 parts x 2.
CASES: dict[str, list[Any]] = {
    "SyncBN": ["MODEL.NORM", "SyncBN"],
    "SplitBN": ["MODEL.NORM", "SplitBN", "MODEL.NORM_GROUPS", 2],
    # Parameters, targets and norm statistics of a loss; target maps that travel between processes with the keys.
    "alignment": [
        *("MODEL.NORM", "SplitBN", "MODEL.NORM_GROUPS", 2, "LOSS.NAMES", ["InfoNCE", "CrossViewAlignment"]),
        *("LOSS.CROSS_VIEW_ALIGNMENT.LOGIT", "scaled", "LOSS.CROSS_VIEW_ALIGNMENT.HIDDEN", 16),
    ],
    "accumulated": ["MODEL.NORM", "FrozenBN", "SOLVER.ACCUMULATE", 2, "SOLVER.CLIP_NORM", 0.5],
    "float64 SyncBN": ["MODEL.NORM", "SyncBN"],
    "float64 SplitBN": ["MODEL.NORM", "SplitBN", "MODEL.NORM_GROUPS", 2],
}
# Sums over processes round differently, and steep steps amplify that (a ReLU may switch): small steps in float32. In
# float64 the same program must agree to many more digits, whatever the step.
GENTLE = ["AUGMENT.SIZE", 64, "MODEL.MOCO.T", 0.2, "SOLVER.BASE_LR", 0.003]
FLOAT64_TOLERANCE = 1e-9


class SignalledLoader:
    """The real loader; before batch ``at`` it sends SIGTERM to its own process."""

    def __init__(self, loader: PretrainLoader, at: int) -> None:
        self.loader, self.at = loader, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Views]:
        for i, batch in enumerate(self.loader):
            if i == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def case_cfg(data: Data, root: Path, name: str) -> CfgNode:
    keys = cast_keys(data) if name != "accumulated" else []
    gentle = GENTLE if not exact(name) else []
    return tiny_cfg(data, root / name, *keys, *CASES[name], *gentle, "SOLVER.MAX_ITER", STEPS)


def exact(name: str) -> bool:
    return name.startswith("float64")


def double_method(cfg: CfgNode) -> Method:
    method = build_method(cfg).double()
    method.normalize = lambda images: (images.double() - method.pixel_mean) / method.pixel_std  # type: ignore
    return method


def train_case(cfg: CfgNode, name: str) -> None:
    builder = double_method if exact(name) else build_method
    with mock.patch("ssl_loc.engine.run.build_method", builder):
        train(cfg)


def two_processes(data: Data, root: Path) -> dict[str, Any]:
    """Everything that needs two processes, in one pair of them (starting one costs seconds)."""
    for name in CASES:
        train_case(case_cfg(data, root, name), name)

    def signalled(cfg: CfgNode, **kwargs: Any) -> Any:
        loader = build_pretrain_loader(cfg, **kwargs)
        return SignalledLoader(loader, at=2) if comm.get_rank() == 1 else loader

    # Buffers stay as the layers keep them, and nobody searches for unused parameters: all are used in every step.
    wrapped = build_step(tiny_cfg(data, root / "wrapped"), torch.device("cpu"), dataset_size=100).wrapped
    ddp = {name: getattr(wrapped, name) for name in ("find_unused_parameters", "broadcast_buffers")}
    with mock.patch("ssl_loc.engine.run.build_pretrain_loader", signalled):
        stopped = train(tiny_cfg(data, root / "stopped", "SOLVER.MAX_ITER", 50))
    return {"world": comm.get_world_size(), "stopped": stopped, "ddp": ddp}


@pytest.fixture(scope="module")
def pair(drawn: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("two")
    return root, launch(partial(two_processes, drawn, root), num_processes=2, device="cpu")


@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_are_one(drawn: Data, tmp_path: Path, pair: tuple[Path, dict[str, Any]], name: str) -> None:
    root, result = pair
    assert result["world"] == 2
    train_case(case_cfg(drawn, tmp_path, name), name)
    one, two = tensors(last_state(tmp_path / name)), tensors(last_state(root / name))
    names = [n for n in one if n.startswith("model") or (n.startswith("optimizer") and exact(name))]
    assert len(names) > 50 and "model.method.queue.features" in names
    tolerance = FLOAT64_TOLERANCE if exact(name) else 1e-5
    for n in names:
        torch.testing.assert_close(two[n], one[n], rtol=tolerance, atol=tolerance, msg=lambda text, n=n: f"{n}: {text}")
    moved = one["model.method.query_trunk.conv1.weight"] - one["model.method.key_trunk.conv1.weight"]
    assert moved.abs().max() > 1e-4, "the comparison is idle if nothing was learnt"
    compared = ["loss", "loss/InfoNCE", "crop_unmet_rate", "has_mask_rate", "feature_std", "effective_rank"]
    compared += ["trunk_std", "trunk_effective_rank"]
    compared += ["grad_norm"] if exact(name) else []
    for a, b in zip(read_metrics(root / name), read_metrics(tmp_path / name), strict=True):
        for key in compared:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-6), key


def test_random_states_of_all_processes_are_saved(pair: tuple[Path, dict[str, Any]]) -> None:
    assert len(last_state(pair[0] / "SyncBN")["rng"]["cpu"]) == 2


def test_who_arrived_and_only_one_log(pair: tuple[Path, dict[str, Any]]) -> None:
    text = (pair[0] / "SyncBN" / "log.txt").read_text()
    assert "2 processes arrived (gloo" in text and "0: " in text and "; 1: " in text
    assert "global batch 8 = 2 processes x 4" in text
    assert text.count(f"iter {STEPS}/{STEPS}") == 1


def test_a_signal_to_one_process_stops_all_at_the_same_iteration(pair: tuple[Path, dict[str, Any]]) -> None:
    stopped = pair[1]["stopped"]
    assert (stopped["stopped_by"], stopped["iteration"]) == (signal.SIGTERM, 3)
    assert last_state(pair[0] / "stopped")["iteration"] == 3


def test_nothing_is_sent_round_that_the_layers_keep_themselves(pair: tuple[Path, dict[str, Any]]) -> None:
    assert pair[1]["ddp"] == {"find_unused_parameters": False, "broadcast_buffers": False}


def fail_in_one(message: str) -> None:
    if comm.get_rank() == 1:
        raise ConfigError(message)
    comm.barrier()


def test_an_error_in_one_process_is_one_sentence_and_ends_all() -> None:
    with pytest.raises(UserError, match="^only here$"):
        launch(partial(fail_in_one, "only here"), num_processes=2, device="cpu")


def test_bad_counts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--num-gpus is -1"):
        launch(dict, num_processes=-1, device="cpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--num-gpus is 3 but torchrun started 2"):
        launch(dict, num_processes=3, device="cpu")
