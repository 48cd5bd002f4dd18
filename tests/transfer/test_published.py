"""The published numbers in a recipe's header reach the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.detection_recipe import CONFIGS

from ssl_loc.transfer.published import parse_header, read_published


def test_rows_of_boxes_and_masks() -> None:
    found = parse_header(
        "# A recipe.\n# Published (AP / AP50 / AP75 on X (test); of all; a README), box, then mask:\n"
        "#   MoCo v2 200 epochs 57.0 / 82.4 / 63.6, 34.9 / 55.7 / 37.2; A (table 2) 1.5 / 2.5 / 3.5, 4.5 / 5.5 / 6.5.\n"
        "# Protocol: 9.9 / 9.9 / 9.9.\nKEY: 1\n# Published (no header): a 1.0 / 2.0 / 3.0.\n"
    )
    assert found["what"] == "AP / AP50 / AP75 on X (test); of all; a README"
    assert [row["label"] for row in found["rows"]] == ["MoCo v2 200 epochs", "A (table 2)"]
    assert found["rows"][1] == {
        "label": "A (table 2)", "bbox/AP": 1.5, "bbox/AP50": 2.5, "bbox/AP75": 3.5,
        "segm/AP": 4.5, "segm/AP50": 5.5, "segm/AP75": 6.5,
    }  # fmt: skip
    assert parse_header("# Published: none.\nA: 1\n") == {} == parse_header("A: 1\n")


@pytest.mark.parametrize(
    "file, label, numbers",
    [
        ("voc_R50_C4_24k.yaml", "CAST", (54.2, 80.1, 59.9)),
        ("scaled/voc_R50_C4_24k_1gpu.yaml", "CAST", (54.2, 80.1, 59.9)),
        ("voc_R50_C4_24k_moco.yaml", "MoCo v2 800 epochs", (57.4, 82.5, 64.0)),
        ("voc07_R50_C4_9k.yaml", "DiLo", (46.7, 74.7, 50.5)),
        ("coco_R50_FPN_2x.yaml", "CAST", (39.4, 60.0, 42.8, 35.8, 57.1, 38.6)),
    ],
)
def test_recipes(file: str, label: str, numbers: tuple[float, ...]) -> None:
    rows = {row["label"]: row for row in read_published(CONFIGS / file)["rows"]}
    assert tuple(v for k, v in rows[label].items() if k != "label") == numbers


def test_every_announced_row_is_read() -> None:
    for path in sorted(CONFIGS.glob("*.yaml")):
        announced = "# Published (" in Path(path).read_text(encoding="utf-8")
        assert bool(read_published(path)) == announced, path
        if announced:
            assert len(read_published(path)["rows"]) >= 3
    assert read_published(CONFIGS / "quick" / "voc_R18_C4.yaml") == {}
