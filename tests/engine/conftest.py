"""One drawn data set for all engine tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_runs import draw_images


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(images, masks) folders."""
    return draw_images(tmp_path_factory.mktemp("drawn"))
