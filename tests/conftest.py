"""Shared by all tests: one thread per process, no user data found by accident."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _no_datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named datasets are looked up in an empty folder unless a test says otherwise."""
    empty: Path = tmp_path_factory.getbasetemp() / "no_datasets"
    empty.mkdir(exist_ok=True)
    monkeypatch.setenv("SSL_LOC_DATASETS", str(empty))
