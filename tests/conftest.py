"""Shared by all tests: one thread per process, no user data found by accident."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_loc.config import fragments
from ssl_loc.losses import build as losses
from ssl_loc.utils.registry import Registry

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _no_datasets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named datasets are looked up in an empty folder unless a test says otherwise."""
    empty: Path = tmp_path_factory.getbasetemp() / "no_datasets"
    empty.mkdir(exist_ok=True)
    monkeypatch.setenv("SSL_LOC_DATASETS", str(empty))


# Names of modules that ssl_loc.config.node.import_part makes of a project's files.
_PART = "ssl_loc_part_"
_OWN_NEEDS = frozenset(losses.METHOD_NEEDS)


def _tables() -> list[dict[str, Any]]:
    """Every table that a project's file writes into when it is imported."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("ssl_loc.")]
    registries = {id(v): v for module in modules for v in vars(module).values() if isinstance(v, Registry)}
    return [fragments._FRAGMENTS, losses.METHOD_NEEDS, sys.modules, *(r._obj_map for r in registries.values())]


def _of_project(key: str, value: Any) -> bool:
    """Was this entry made by a project's file?"""
    made_by = getattr(getattr(value, "make", value), "__module__", "") or ""
    return key.startswith(_PART) or made_by.startswith(_PART) or (isinstance(value, str) and key not in _OWN_NEEDS)


@pytest.fixture(autouse=True)
def _no_parts_of_projects() -> Iterator[None]:
    """A project that another test file imported is not there, and what this test imports is gone after it: otherwise a
    config written here would hold keys that a program started on it does not know."""
    before = [(table, {k: v for k, v in table.items() if _of_project(k, v)}) for table in _tables()]
    for table, parts in before:
        for key in parts:
            del table[key]
    yield
    for table in _tables():
        for key in [k for k, v in table.items() if _of_project(k, v)]:
            del table[key]
    for table, parts in before:
        table.update(parts)
