"""Batches that cannot be shared out are refused with numbers that can; the log states what follows from the batch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from engine_runs import tiny_cfg

from ssl_loc.config import CfgNode
from ssl_loc.engine.batch import check_batch, describe_run, model_cfg, nearest, run_length
from ssl_loc.engine.run import out_of_memory, train
from ssl_loc.engine.state import restore_rng
from ssl_loc.solver import build_schedule
from ssl_loc.utils.errors import ConfigError, UserError

NOWHERE = (Path("images"), Path("masks"))


def test_nearest_multiples() -> None:
    assert nearest(30, 8) == "24 or 32"
    assert nearest(3, 8) == "8"


@pytest.mark.parametrize(
    ("keys", "world", "words"),
    [
        (("MODEL.NORM", "BN", "SOLVER.IMS_PER_BATCH", 30), 4, "IMS_PER_BATCH is 30.*multiple of 4.*28 or 32"),
        (("MODEL.NORM", "BN", "SOLVER.IMS_PER_BATCH", 30, "SOLVER.ACCUMULATE", 4), 2, "ACCUMULATE 4; .*24 or 32"),
        (("MODEL.NORM_GROUPS", 8, "SOLVER.IMS_PER_BATCH", 20), 2, "NORM_GROUPS 8.*16 or 24"),
        (
            ("MODEL.NORM_GROUPS", 8, "SOLVER.IMS_PER_BATCH", 24),
            3,
            "NORM_GROUPS is 8.*set MODEL.NORM_GROUPS 6 or 12, .*gpus 2 or 4$",
        ),
        (("MODEL.NORM_GROUPS", 2, "SOLVER.IMS_PER_BATCH", 24, "SOLVER.ACCUMULATE", 4), 1, "MODEL.NORM_GROUPS 4"),
        # 256 images are shared by no 3 processes; 9 groups want 252 = 9 x 28 or 261 = 9 x 29 of them.
        (
            ("MODEL.NORM_GROUPS", 8, "SOLVER.IMS_PER_BATCH", 256),
            3,
            "GROUPS 9 with SOLVER.IMS_PER_BATCH 252 or 261, or start",
        ),
        (("SOLVER.ACCUMULATE", 0), 1, "SOLVER.ACCUMULATE is 0"),
    ],
)
def test_indivisible_batches_name_keys_and_numbers(keys: tuple, world: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_batch(tiny_cfg(NOWHERE, "out", *keys), world)


@pytest.mark.parametrize("world", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("keys", [(8, 24, 1), (8, 256, 1), (2, 24, 4), (4, 30, 2), (9, 100, 1)])
def test_suggested_numbers_work(keys: tuple[int, int, int], world: int) -> None:
    """Every number that the message names is taken, with its companion, without another message."""

    def cfg(groups: int, batch: int, parts: int) -> CfgNode:
        given = ("MODEL.NORM_GROUPS", groups, "SOLVER.IMS_PER_BATCH", batch, "SOLVER.ACCUMULATE", parts)
        return tiny_cfg(NOWHERE, "out", *given)

    def numbers(pattern: str) -> list[int]:
        found = re.search(pattern + r" (\d+)(?: or (\d+))?", text)
        return [int(n) for n in found.groups() if n] if found else []

    groups, batch, parts = keys
    try:
        check_batch(cfg(*keys), world)
        return
    except ConfigError as error:
        text = str(error).partition("; ")[2]
    new_groups, new_batches = numbers("NORM_GROUPS") or [groups], numbers("IMS_PER_BATCH") or [batch]
    assert (new_groups, new_batches) != ([groups], [batch])
    for g in new_groups:
        for b in new_batches:
            assert check_batch(cfg(g, b, parts), world) * world == b
    for count in numbers("--num-gpus"):
        assert check_batch(cfg(*keys), count) * count == batch


def test_groups_are_shared_out_over_parts() -> None:
    cfg = tiny_cfg(NOWHERE, "out", "MODEL.NORM_GROUPS", 8, "SOLVER.IMS_PER_BATCH", 32, "SOLVER.ACCUMULATE", 2)
    assert check_batch(cfg, world=2) == 16
    # A group keeps its 32 / 8 = 4 images: each half of the batch has 4 groups.
    assert model_cfg(cfg).MODEL.NORM_GROUPS == 4
    assert cfg.MODEL.NORM_GROUPS == 8


def test_length_of_the_run() -> None:
    assert run_length(tiny_cfg(NOWHERE, "out", "SOLVER.MAX_ITER", 7), 100) == 7
    assert run_length(tiny_cfg(NOWHERE, "out", "SOLVER.MAX_ITER", 0, "SOLVER.EPOCHS", 2.5), 100) == 250
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER and SOLVER.EPOCHS are both 0"):
        run_length(tiny_cfg(NOWHERE, "out", "SOLVER.MAX_ITER", 0, "SOLVER.EPOCHS", 0.0), 100)


def test_the_line_of_the_log() -> None:
    keys = ("SOLVER.IMS_PER_BATCH", 64, "SOLVER.LR_SCALING", "linear", "SOLVER.WARMUP_ITERS", 10, "SOLVER.MAX_ITER", 50)
    cfg = tiny_cfg(NOWHERE, "out", *keys)
    line = describe_run(cfg, build_schedule(cfg, 50, 25), 16, 4, 1600, 25)
    assert "global batch 64 = 4 processes x 16;" in line
    assert "lr 0.03 at 256 images -> 0.0075 (linear scaling" in line
    assert "warm-up 10 iterations = 640 images" in line
    assert "50 iterations = 2 epochs of 25 batches (1600 images)" in line


def test_out_of_memory_names_the_keys_that_help() -> None:
    text = out_of_memory(
        tiny_cfg(NOWHERE, "out", "SOLVER.IMS_PER_BATCH", 256), "CUDA out of memory. Tried 2 GiB.\nmore"
    )
    assert "\n" not in text and "CUDA out of memory. Tried 2 GiB." in text
    for key in (
        "SOLVER.IMS_PER_BATCH 256",
        "SOLVER.ACCUMULATE 2",
        "SOLVER.AMP.ENABLED True",
        "AUGMENT.SIZE",
        "MODEL.MOCO.K 24",
        "--num-gpus",
    ):
        assert key in text
    assert "on 1 process," in text


@pytest.mark.parametrize("k", [10**13, 10**18])
def test_a_queue_beyond_all_memory_is_one_sentence(drawn: tuple[Path, Path], tmp_path: Path, k: int) -> None:
    with pytest.raises(UserError, match=f"^out of CPU memory with .*MODEL.MOCO.K {k}.* a smaller MODEL.MOCO.K"):
        train(tiny_cfg(drawn, tmp_path / "run", "MODEL.MOCO.K", k))


@pytest.mark.parametrize("below", ["", "run", "a/run"])
def test_an_output_dir_that_is_a_file_is_one_sentence(tmp_path: Path, below: str) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(ConfigError, match=f"^OUTPUT_DIR is {file / below}, but {file} is not a folder; give a folder"):
        train(tiny_cfg(NOWHERE, file / below))
    assert file.read_text() == "mine"


def test_random_states_are_handed_round(caplog: pytest.LogCaptureFixture) -> None:
    """A run of two processes continued by one."""
    torch.manual_seed(1)
    first = torch.get_rng_state()
    expected = torch.rand(3)
    restore_rng({"cpu": [first, torch.get_rng_state()], "cuda": []}, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
    assert "written by 2 processes and 1 continue it" in caplog.text


@pytest.mark.parametrize(
    ("keys", "world", "warned"),
    [
        (("MODEL.NORM", "BN"), 1, True),
        (("MODEL.NORM", "BN"), 2, False),
        (("MODEL.NORM_GROUPS", 4, "SOLVER.ACCUMULATE", 4, "SOLVER.IMS_PER_BATCH", 16), 1, True),
        (("MODEL.NORM_GROUPS", 4, "SOLVER.ACCUMULATE", 2, "SOLVER.IMS_PER_BATCH", 16), 1, False),
        (("MODEL.NORM", "SyncBN"), 1, False),
    ],
)
def test_a_leak_through_batch_statistics_is_said(
    keys: tuple, world: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check_batch(tiny_cfg(NOWHERE, Path("out"), *keys), world)
    assert ("can tell the match by its statistics" in caplog.text) == warned
