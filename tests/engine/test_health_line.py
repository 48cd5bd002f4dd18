"""The log line below the progress line carries what users ask of the curves."""

from __future__ import annotations

from ssl_loc.engine.log_hook import health_line


def test_words_and_order() -> None:
    values = {"pos_similarity": 0.5, "queue_real_share": 1.0, "crop_unmet_rate": 0.0123456, "loss": 3.0}
    assert health_line(values) == "  queue real 1, pos sim 0.5, crop unmet 0.0123"


def test_nothing_to_say() -> None:
    assert health_line({"loss": 3.0}).strip() == ""
