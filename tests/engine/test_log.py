"""What a run writes down."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import cast_keys, draw_images, tiny_cfg

from ssl_loc.components import setup_cfg
from ssl_loc.engine import train
from ssl_loc.engine.log_hook import progress_line
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.events import JsonlWriter, ScalarWindow, read_metrics
from ssl_loc.utils.logger import PROGRESS, close_logger, setup_logger

Data = tuple[Path, Path]
# What people ask of the curves of a queue method.
ASKED = (
    "loss",
    "loss/InfoNCE",
    "loss/GradCAMAttention",
    "chance_loss",
    "queue_real_share",
    "pos_similarity",
    "neg_similarity",
    "feature_std",
    "feature_std_ideal",
    "effective_rank",
    "trunk_std",
    "trunk_std_ideal",
    "trunk_effective_rank",
    "crop_unmet_rate",
    "has_mask_rate",
    "attention_skipped_rate",
    "zero_cam_rate",
    "passed_over_images",
    "lr",
    "grad_norm",
    "images_per_second",
    "data_seconds",
    "max_memory_mb",
    "epoch",
)


def test_a_run_folder_holds_what_is_promised(drawn: Data, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cfg = tiny_cfg(drawn, out, *cast_keys(drawn), "SOLVER.MAX_ITER", 5)
    result = train(cfg)
    rows = read_metrics(out)
    assert [row["iteration"] for row in rows] == [2, 4, 5]
    for name in ASKED:
        assert all(math.isfinite(row[name]) for row in rows), name
    assert rows[0]["chance_loss"] == pytest.approx(math.log(24 + 1))
    # 24 keys, 8 a step, seen by the loss before it enqueues: 0 and 1/3 real; then 2/3 and all; then all.
    assert [row["queue_real_share"] for row in rows] == pytest.approx([1 / 6, 5 / 6, 1])
    assert [row["epoch"] for row in rows] == pytest.approx([1, 2, 2.5])
    assert rows[1]["lr"] == pytest.approx(0.03 * 0.5 * (1 + math.cos(math.pi * 3 / 5)))
    total = rows[0]["loss/InfoNCE"] + 3 * rows[0]["loss/GradCAMAttention"]
    assert rows[0]["loss"] == pytest.approx(total, rel=1e-5)
    text = (out / "log.txt").read_text()
    assert "iter 4/5 epoch 2.00 eta 0:00:0" in text and "images/s" in text and "chance 3.219" in text
    assert "version/torch " in (out / "env.txt").read_text()
    assert setup_cfg(str(out / "config.yaml")).to_dict() == cfg.to_dict()
    assert list(out.glob("events.out.tfevents*"))
    assert result["metrics"]["loss"] == rows[-1]["loss"]
    json.dumps(result)


def test_corrupt_images_are_counted_and_bounded(tmp_path: Path) -> None:
    data = draw_images(tmp_path / "data")
    bad = sorted(data[0].iterdir())[5]
    content = bad.read_bytes()
    # Up to the frame header, which tells the size: the list of images finds nothing wrong, decoding does.
    bad.write_bytes(content[: content.index(b"\xff\xc0") + 19])
    train(tiny_cfg(data, tmp_path / "run", "SOLVER.MAX_ITER", 4, "DATA.NUM_WORKERS", 1))
    # Two epochs of 16 images in batches of 8: the bad one comes twice.
    assert [row["passed_over_images"] for row in read_metrics(tmp_path / "run")] == [1, 2]


def test_an_error_in_a_data_worker_is_one_sentence(drawn: Data, tmp_path: Path) -> None:
    data = (tmp_path / "images", drawn[1])
    shutil.copytree(drawn[0], data[0])
    cfg = tiny_cfg(data, tmp_path / "run", "DATA.NUM_WORKERS", 1, "DATA.MAX_BAD_IMAGES", 0, "SOLVER.MAX_ITER", 4)

    def spoil(*args: Any, **kwargs: Any) -> Any:
        from ssl_loc.data.build import build_pretrain_loader

        loader = build_pretrain_loader(*args, **kwargs)
        for path in data[0].iterdir():
            path.write_bytes(b"no picture")
        return loader

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssl_loc.engine.run.build_pretrain_loader", spoil)
        with pytest.raises(DataError) as error:
            train(cfg)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value), str(error.value)
    assert ".jpg" in str(error.value)


def test_window_averages_and_empties() -> None:
    window = ScalarWindow()
    window.update({"a": torch.tensor(1.0), "b": 2.0})
    window.update({"a": torch.tensor([3.0])})
    assert window.reduce() == {"a": 2.0, "b": 2.0}
    assert window.reduce() == {}


def test_curve_of_a_resumed_run_has_one_row_per_iteration(tmp_path: Path) -> None:
    first = JsonlWriter(tmp_path)
    for i in (2, 4, 6):
        first.write(i, {"loss": float(i)})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"iteration": 8, "lo')  # the process died here
    second = JsonlWriter(tmp_path, start_iteration=4)
    second.write(6, {"loss": 60.0})
    second.close()
    assert [(r["iteration"], r["loss"]) for r in read_metrics(tmp_path)] == [(2, 2.0), (4, 4.0), (6, 60.0)]


def test_progress_line() -> None:
    values = {"loss": 2.5, "loss/A": 1.5, "loss/B": 1.0, "epoch": 0.5, "lr": 0.03, "chance_loss": 3.0}
    values |= {"step_seconds": 0.25, "data_seconds": 0.01, "images_per_second": 32.0, "max_memory_mb": 100.0}
    line = progress_line(10, 20, values, ["A", "B"], timedelta(seconds=90))
    assert line == (
        "iter 10/20 epoch 0.50 eta 0:01:30 loss 2.5000 (A 1.5000, B 1.0000, chance 3.000) lr 0.03 "
        "0.25 s/it (data 0.01) 32 images/s mem 100 MB"
    )


def test_a_terminal_with_a_bar_does_without_progress_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = setup_logger(tmp_path)
    try:
        logger.info("before", extra=PROGRESS)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        logger.info("periodic", extra=PROGRESS)
        logger.info("said")
        logging.getLogger("a.library").warning("heard")
    finally:
        close_logger()
    shown = capsys.readouterr().err
    assert "before" in shown and "periodic" not in shown and "said" in shown and "heard" in shown
    assert "periodic" in (tmp_path / "log.txt").read_text()


def test_other_processes_do_not_repeat_what_the_first_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = setup_logger(tmp_path, rank=1)
    try:
        logger.warning("the queue is long")
        logger.error("my disk is full")
    finally:
        close_logger()
    shown = capsys.readouterr().err
    assert "the queue" not in shown and "[process 1]" in shown and "my disk is full" in shown
    assert "the queue is long" in (tmp_path / "log.rank1.txt").read_text()
