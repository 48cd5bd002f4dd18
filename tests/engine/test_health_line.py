"""The log line below the progress line carries what users ask of the curves."""

from __future__ import annotations

import re

import pytest

from ssl_loc.engine.log_hook import Log, health_line


def test_words_and_order() -> None:
    values = {"pos_similarity": 0.5, "queue_real_share": 1.0, "crop_unmet_rate": 0.0123456, "loss": 3.0}
    assert health_line(values) == "  queue real 1, pos sim 0.5, crop unmet 0.0123"


def test_nothing_to_say() -> None:
    assert health_line({"loss": 3.0}).strip() == ""


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"attention_skipped_rate": 1.0}, "no image up to iteration 5 had a usable mask"),
        ({"attention_skipped_rate": 0.99}, ""),
    ],
)
def test_missing_masks_are_said_once(values: dict[str, float], words: str, caplog: pytest.LogCaptureFixture) -> None:
    log = Log([], period=5, batch_size=8, batches_per_epoch=2)
    log._watch(5, values)
    log._watch(10, values)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == bool(words)
    assert not words or re.search(words, said[0])
