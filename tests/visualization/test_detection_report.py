"""The report of fine-tunings: seeds become one row, engines never share a column, a failure never costs the result."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.detection_data import CLASSES, draw_detection_data
from helpers.detection_results import write_detection_run

from ssl_loc.transfer.published import PUBLISHED
from ssl_loc.transfer.seeds import combine, read_result
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, write_json
from ssl_loc.visualization import detection_report
from ssl_loc.visualization.detection_numbers import duration
from ssl_loc.visualization.detection_report import try_report, write_report
from ssl_loc.visualization.detection_runs import is_detection_folder, read_groups
from ssl_loc.visualization.report import Spread, format_column

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return draw_detection_data(tmp_path_factory.mktemp("report_shapes"), train=2, test=5)


@pytest.fixture
def visualize(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("visualize")

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, words)])
        tool.main()

    return run


class Tables(HTMLParser):
    """Rows of cell texts per table, by the caption above it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._caption, self._rows, self._cell, self._in_caption = "", [], None, False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "p":
            self._in_caption = ("class", "caption") in attrs
            self._caption = "" if self._in_caption else self._caption
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data
        elif self._in_caption:
            self._caption += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell or "")
            self._cell = None
        if tag == "p":
            self._in_caption = False
        if tag == "table":
            self.found[self._caption] = self._rows
            self._caption = ""


def seeds_folder(out: Path, names: dict[str, str], noises: tuple[float, ...], **keys: object) -> Path:
    """OUT as ``--seeds`` leaves it."""
    for seed, noise in enumerate(noises):
        write_detection_run(out / f"seed_{seed}", names, seed=seed, noise=noise, **keys)
    folders = [f"seed_{seed}" for seed in range(len(noises))]
    result = combine([read_result(out / name) for name in folders], "w.pth", folders)
    write_json(out / "result.json", result.to_dict())
    return out


def test_the_report_of_one_fine_tuning(names: dict[str, str], tmp_path: Path) -> None:
    folder = write_detection_run(tmp_path / "mine", names, kind="mask", noise=5.0)
    text = try_report(folder).read_text(encoding="utf-8")
    metrics = read_json(folder / "result.json")["metrics"]
    tables = Tables(text).found
    for task, title in (("bbox", "Box"), ("segm", "Mask")):
        rows = tables[f"{title} AP on COCO, test (torchvision, protocol v1)"]
        at = rows[0].index("AP75")
        assert rows[1][0] == "mine" and rows[1][at] == f"{metrics[f'{task}/AP75']:.2f}"
    per_class = tables["COCO, test (torchvision, protocol v1)"]
    assert per_class[0] == ["class", "objects", "box AP", "box AP50", "box AP75", "mask AP", "mask AP50", "mask AP75"]
    assert {row[0] for row in per_class[1:]} == set(CLASSES)
    assert sum(int(row[1]) for row in per_class[1:]) == 8  # two objects on each image but the last
    assert [row[2] for row in per_class[1:]] == sorted((row[2] for row in per_class[1:]), key=float, reverse=True)
    assert "Best and worst of 4 by the image&#x27;s own AP50" in text
    assert text.count("<img") == 3  # detections, precision and recall, losses
    for words in ("rbd", "1 h 07 min", "torchvision 9.9", "Mask R-CNN FPN", "8.8.8", "digest of backbone.pth"):
        assert words in text
    assert "http" not in re.sub(r"data:image/png;base64,\S+", "", text)  # loads nothing


def test_seeds_are_one_row_with_their_spread(names: dict[str, str], tmp_path: Path) -> None:
    out = seeds_folder(tmp_path / "det", names, (1.0, 3.0, 5.0))
    values = [read_json(out / f"seed_{s}" / "result.json")["metrics"]["bbox/AP"] for s in range(3)]
    mean = sum(values) / 3
    std = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    assert std > 0.5
    write_report([out], tmp_path / "r.html")
    tables = Tables((tmp_path / "r.html").read_text(encoding="utf-8")).found
    rows = tables["Box AP on VOC 2007, test (torchvision, protocol v1)"]
    assert rows[0][:3] == ["run", "seeds", "AP"] and rows[1][:3] == ["det", "3", f"{mean:.2f} ± {std:.2f}"]
    each = tables["det: each seed (torchvision)"]
    assert [row[:2] for row in each[1:]] == [[str(s), f"{v:.2f}"] for s, v in enumerate(values)]


def test_single_runs_that_differ_in_the_seed_only_are_a_group(names: dict[str, str], tmp_path: Path) -> None:
    for seed in (0, 1):
        write_detection_run(tmp_path / "cast" / f"s{seed}", names, seed=seed)
        write_detection_run(tmp_path / "moco" / f"s{seed}", names, seed=seed, weights="moco.pth")
    write_detection_run(tmp_path / "long", names, overrides=("SOLVER.MAX_ITER", 9))
    write_detection_run(tmp_path / "d2", names, engine="detectron2")
    given = [tmp_path / name for name in ("cast/s0", "cast/s1", "moco/s0", "moco/s1", "long", "d2")]
    assert [(g.label, len(g.runs)) for g in read_groups(given)] == [("cast", 2), ("moco", 2), ("long", 1), ("d2", 1)]
    labelled = [f"A={given[0]}", f"A={given[2]}", f"B={given[1]}", str(given[0])]
    assert [(g.label, len(g.runs)) for g in read_groups(labelled)] == [("A", 2), ("B", 1), ("s0", 1)]
    twice = [given[0], given[2]]
    assert [g.label for g in read_groups(twice)] == ["cast/s0", "moco/s0"]
    assert len(read_groups([given[0], given[0]])[0].runs) == 1  # the same folder twice is no seed


def test_engines_never_share_a_table(names: dict[str, str], tmp_path: Path) -> None:
    given = [f"{e}={write_detection_run(tmp_path / e, names, engine=e)}" for e in ("torchvision", "detectron2")]
    write_report(given, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    for caption, rows in Tables(text).found.items():
        if "protocol" in caption:
            assert len([row for row in rows if row[0] in ("torchvision", "detectron2")]) <= 1
            assert "AP, detectron2" not in " ".join(rows[0])
    assert "Numbers of different engines stand in different tables" in text


def test_a_failed_drawing_is_a_warning_with_the_command(
    names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_detection_run(tmp_path / "det", names)

    def broken(*given: object) -> None:
        raise ZeroDivisionError("a bug in a picture")

    monkeypatch.setattr(detection_report, "pr_section", broken)
    assert try_report(folder) is None
    assert "a bug in a picture" in caplog.text
    assert f"tools/visualize.py report {folder} --out {folder / 'report.html'}" in caplog.text
    assert not (folder / "report.html").exists() and (folder / "result.json").is_file()
    caplog.clear()
    assert try_report(tmp_path) is None and "no result.json" in caplog.text and "Traceback" not in caplog.text


def test_images_or_scores_that_are_gone(tmp_path: Path) -> None:
    mine = draw_detection_data(tmp_path / "data", train=2, test=3)
    folder = write_detection_run(tmp_path / "det", mine)
    for file in (folder / "inference").glob("*_scores.json"):
        file.unlink()  # a run of an older version
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    text = try_report(folder).read_text(encoding="utf-8")
    assert "the test data is not here" in text
    rows = Tables(text).found["VOC 2007, test (torchvision, protocol v1)"]
    assert rows[0] == ["class", "box AP"] and {row[0] for row in rows[1:]} == set(CLASSES)


def test_what_is_no_fine_tuning(names: dict[str, str], tmp_path: Path) -> None:
    folder = write_detection_run(tmp_path / "det", names)
    assert is_detection_folder(folder) and is_detection_folder(folder / "result.json")
    (folder / "result.json").unlink()
    assert is_detection_folder(folder)  # begun
    with pytest.raises(DataError, match="--resume finishes it"):
        read_groups([folder])
    write_json(tmp_path / "result.json", {"protocol": "knn", "metrics": {}})
    assert not is_detection_folder(tmp_path)
    with pytest.raises(DataError, match="not a result of tools/finetune_det.py"):
        read_groups([tmp_path])


def test_the_tool_takes_fine_tunings(visualize, names: dict[str, str], tmp_path: Path) -> None:
    a, b = seeds_folder(tmp_path / "a", names, (1.0, 2.0)), write_detection_run(tmp_path / "b", names)
    out = tmp_path / "out"
    visualize("report", f"A={a}", f"B={b}", "--out", tmp_path / "r.html", "--count", 2)
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>Fine-tuning: A, B</h1>" in text and "One line per seed" in text
    visualize("curves", f"A={a}", "--run", f"B={b}", "--out", out)
    visualize("detections", "--results", f"A={a}", f"B={b}", "--out", out)
    assert sorted(p.name for p in out.iterdir()) == ["curves.png", "detections.png"]
    (a / "inference").mkdir()  # nothing of its own: the seeds' pictures are taken
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text("")
    (begun / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "loss_cls": 1.0}) + "\n")
    visualize("curves", begun, "--out", out)  # no result yet


def test_numbers_with_a_spread() -> None:
    column = [Spread(41.25, 0.31), Spread(7.0, math.nan), None]
    assert format_column(column) == ["41.2 ± 0.3", "7.0", ""]
    assert format_column(column, decimals=2) == ["41.25 ± 0.31", "7.00", ""]


def test_durations() -> None:
    assert [duration(s) for s in (0.26, 59.96, 61, 3599.7, 4000)] == [
        "0.3 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "1 h 07 min",
    ]  # fmt: skip


def test_published_numbers_stand_in_a_table_of_their_own(names: dict[str, str], tmp_path: Path) -> None:
    folder = write_detection_run(tmp_path / "det", names)
    result = read_json(folder / "result.json")
    row = {"label": "CAST", "bbox/AP": 54.2, "bbox/AP50": 80.1, "bbox/AP75": 59.9}
    result["details"][PUBLISHED] = {"what": "AP / AP50 / AP75 on VOC", "rows": [row]}
    write_json(folder / "result.json", result)
    write_report([folder, f"again={folder}"], tmp_path / "r.html")
    tables = Tables((tmp_path / "r.html").read_text(encoding="utf-8")).found
    assert tables["Published box AP with this recipe (AP / AP50 / AP75 on VOC)"] == [
        ["published", "AP", "AP50", "AP75"], ["CAST", "54.2", "80.1", "59.9"],
    ]  # fmt: skip
    # A run that changed the recipe says so where its numbers stand beside the published ones.
    changed = {"file": "configs/voc.yaml", "differs": ["SOLVER.MAX_ITER 24000 there, 3 now", "SOLVER.BASE_LR 1 there"]}
    result["details"][PUBLISHED] |= changed
    write_json(folder / "result.json", result)
    write_report([folder], tmp_path / "r.html")
    found = Tables((tmp_path / "r.html").read_text(encoding="utf-8")).found
    words = "the recipe voc.yaml, from which the run differs in SOLVER.MAX_ITER, SOLVER.BASE_LR"
    assert f"Published box AP with {words} (AP / AP50 / AP75 on VOC)" in found


def test_several_test_sets_have_their_own_tables(names: dict[str, str], tmp_path: Path) -> None:
    both = (names["coco_test"], names["coco_train"])
    folder = write_detection_run(tmp_path / "det", names, kind="mask", overrides=("DATASETS.TEST", str(both)))
    metrics = read_json(folder / "result.json")["metrics"]
    assert f"{both[1]}/segm/AP50" in metrics
    tables = Tables(try_report(folder).read_text(encoding="utf-8")).found
    for spec, name in zip(both, ("COCO, test", "COCO, train"), strict=True):
        rows = tables[f"Mask AP on {name} (torchvision, protocol v1)"]
        assert rows[1][rows[0].index("AP50")] == f"{metrics[f'{spec}/segm/AP50']:.2f}"
        assert len(tables[f"{name} (torchvision, protocol v1)"]) == 1 + len(CLASSES)
