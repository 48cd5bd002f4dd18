"""All commands of the demo fit together: from drawn scenes to the report, in two steps of training each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssl_loc.demo.plan import ROOT, build_plan
from ssl_loc.demo.table import COLUMNS, MEANINGLESS, collect


@pytest.mark.slow
def test_demo_runs_from_scenes_to_report_and_does_nothing_twice(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--out", str(tmp_path), "--size", "smoke"]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    numbers = collect(tmp_path, [0])
    assert {row for row, column in numbers if column == "grounding IoU %"} == {"random", "MoCo", "MoCo + crop", "CAST"}
    assert {column for _, column in numbers} == set(COLUMNS)
    assert (tmp_path / "seed0" / "report" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "table.txt").read_text() in first.stdout and MEANINGLESS in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    count = len(build_plan(tmp_path, 0, "smoke"))
    assert again.returncode == 0 and f"{count} of {count} stages were finished before" in again.stdout
