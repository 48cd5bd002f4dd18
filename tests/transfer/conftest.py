"""Shared by the tests of detection transfer."""

from __future__ import annotations

import pytest
from helpers.detection_data import draw_detection_data


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of drawn detection sets; read only."""
    return draw_detection_data(tmp_path_factory.mktemp("shapes"))
