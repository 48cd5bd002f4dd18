"""Reports of evaluations: every number of the jsons appears, published ones beside them, what is missing is named."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_report import read

from ssl_loc.utils.errors import DataError
from ssl_loc.visualization import commands
from ssl_loc.visualization.bars import Bars, bars_figures, grouped_bars_figure
from ssl_loc.visualization.full_report import MISSING, Material, drawn, full_sections, missing_section
from ssl_loc.visualization.labels import RunFolder
from ssl_loc.visualization.metric_names import sense
from ssl_loc.visualization.report import Gallery, Picture, Section, Spread, Table, build_report
from ssl_loc.visualization.result_sections import (
    by_protocol,
    glance_section,
    headline,
    numbers_section,
    provenance_section,
    weight_colors,
    write_comparison_html,
)
from ssl_loc.visualization.style import PALETTE, PHOTO_BYTES, to_data_uri

EVIL = '<b>"CAST" & co</b>'
SETTINGS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")


def result(label: str, protocol: str, metrics: dict[str, float], **details: Any) -> dict[str, Any]:
    known = {"label": label, "data": "folder:photos", "made": "2030-01-02T03:04:05.000+00:00", "chance": 12.5}
    return {
        "protocol": protocol, "version": "1", "metrics": metrics, "digest": f"d-{label}", "weights": "w.pth", "seed": 0,
        "file": f"eval/results/{protocol}_{len(label)}.json", "details": {**known, **details},
    }  # fmt: skip


@pytest.fixture
def results() -> list[dict[str, Any]]:
    settings = {name: 20.125 + 3.25 * i for i, name in enumerate(SETTINGS)}
    knn = {"top1": 41.25, "top5": 77.75}
    published = {"published": {"top1": {"value": 43.0, "source": "Paper A, Table 2"}}}
    references = [["Supervised", "top1", 76.5, "Paper B"]]
    return [
        result(
            "MoCo", "knn", knn, **published, references=list(references), std={"top1": 0.75, "top5": None}, seeds=[0, 1]
        ),
        result(EVIL, "knn", {"top1": 44.5, "top5": 78.5}, references=list(references), seeds=[0, 1]),
        result("MoCo", "backgrounds", {**settings, "bg_gap": -3.25}, per_class=list(range(99))),
        result(EVIL, "backgrounds", {name: value + 0.5 for name, value in settings.items()}),
    ]


def test_every_number_appears_and_nothing_else_is_loaded(results: list[dict[str, Any]], tmp_path: Path) -> None:
    path = write_comparison_html(results, tmp_path, title=EVIL)
    assert path.name == "comparison.html"
    text, page = read(path)
    assert page.open == [] and all(src.startswith("data:") for src in page.loads)
    assert "http" not in re.sub(r"data:image/\w+;base64,\S+", "", text)
    assert "<b>" not in text and "&lt;b&gt;&quot;CAST&quot; &amp; co&lt;/b&gt;" in text
    cells = [data for data, _ in page.cells]
    for r in results:
        for metric, value in r["metrics"].items():
            std = (r["details"].get("std") or {}).get(metric)
            # As many decimals as the largest of its column needs.
            digits = 1 if abs(value) >= 10 or metric == "bg_gap" else 3
            assert f"{value:.{digits}f}" + (f" ± {std:.{digits}f}" if std else "") in cells, (metric, value)
    assert "43.0" in cells and "76.5" in cells and "Paper A, Table 2, Paper B" in text
    assert text.count("<img") == 3, "a bar panel per protocol, and the settings"


def test_published_rows_are_quoted_and_never_win(results: list[dict[str, Any]]) -> None:
    knn = numbers_section(results).tables[0]
    assert knn.columns == ["weights", "seeds", "top-1 %", "top-1 %, published", "top-5 %"]
    assert knn.rows == [
        ["MoCo", 2, Spread(41.25, 0.75), 43.0, 77.75],
        [EVIL, 2, 44.5, None, 78.5],
        ["Supervised (published)", None, 76.5, None, None],
    ]
    assert list(knn.muted) == [2] and knn.best["top-1 %"] == "max"
    # Measured weights of the same name have the number in a column; a row of it would be a second one.
    results[0]["details"]["references"].append(["moco", "top1", 43.0, "Paper A, Table 2"])
    assert len(numbers_section(results).tables[0].rows) == 3


def test_quoted_rows_are_not_bold(tmp_path: Path) -> None:
    table = Table(["w", "up"], [["a", 1.5], ["b", 2.5], ["paper", 9.5]], best={"up": "max"}, muted=[2])
    text, page = read(build_report("t", [Section("s", tables=[table])], tmp_path / "r.html"))
    assert [data for data, classes in page.cells if "best" in classes] == ["2.500"]
    assert text.count("<tr class=muted>") == 1


def test_versions_and_datasets_never_share_a_table(results: list[dict[str, Any]]) -> None:
    newer = {**results[0], "version": "2"}
    other = result("MoCo", "knn", {"top1": 1.0})
    other["details"]["data"] = "folder:elsewhere"
    captions = [table.caption for table in numbers_section([*results, newer, other]).tables]
    assert [c.split(" (")[0] for c in captions] == [
        "knn v1 on photos", "backgrounds v1 on photos", "knn v2 on photos", "knn v1 on elsewhere",
    ]  # fmt: skip


def test_at_a_glance_has_one_number_per_protocol(results: list[dict[str, Any]]) -> None:
    section = glance_section(results)
    (table,) = section.tables
    assert list(table.columns) == ["weights", "knn: top-1 %", "backgrounds: mixed-rand"]
    assert table.rows == [["MoCo", Spread(41.25, 0.75), 26.625], [EVIL, 44.5, 27.125]]
    assert isinstance(section.figures[0], Gallery) and len(section.figures[0].pictures) == 2
    assert headline([result("a", "new", {"odd": 1.0, "even": 2.0})]) == "odd"
    assert not glance_section(results[:1]).tables, "one number needs no summary"


def test_which_way_is_better() -> None:
    words = {"top1": "max", "iou_mean": "max", "zero_cam_rate": "min", "background_errors": "min", "bg_gap": ""}
    words |= {"on_background_right": "min", "wrong_on_same_background": "min", "wrong_on_same_background_chance": ""}
    assert {metric: sense(metric) for metric in words} == words


def test_two_weights_of_one_name_stay_two(results: list[dict[str, Any]]) -> None:
    twin = {**results[1], "digest": "another", "details": {**results[1]["details"], "label": "MoCo"}}
    rows = glance_section([results[0], twin]).tables[0].rows
    assert [row[0] for row in rows] == ["MoCo", "MoCo (2)"]
    assert set(weight_colors(results)) == {"MoCo", EVIL}


def test_how_numbers_were_made_is_behind_folds(results: list[dict[str, Any]]) -> None:
    for r in results:
        r["details"]["environment"] = {"version/torch": "9.9.9"}
    section = provenance_section(results)
    assert [row[0] for row in section.tables[0].rows] == ["MoCo", EVIL]
    assert section.folded["Environment"] == "version/torch: 9.9.9"
    settings = section.folded["MoCo: settings and counts"]
    assert '"per_class": "list of 99"' in settings and "eval/results/knn_4.json" in settings
    assert "9.9.9" not in settings


def test_what_is_missing_is_named_with_the_command(results: list[dict[str, Any]], tmp_path: Path) -> None:
    text = missing_section(Material(results=results)).text
    absent = re.search(r"Numbers of the protocols (.+?): measure", text)
    assert absent is not None and "linear" in absent[1] and "grounding" in absent[1]
    assert not {"knn", "backgrounds", "saliency"} & set(absent[1].split(", "))
    assert "--data D" in text and "tools/finetune_det.py" in text and "--run" in text
    text = missing_section(Material(runs=[RunFolder("bare", tmp_path)])).text
    assert f"Training curves of bare: there is no metrics.jsonl in {tmp_path}" in text
    assert missing_section(Material()).text == ""


def test_a_picture_that_cannot_be_drawn_says_why(results: list[dict[str, Any]]) -> None:
    def gone() -> Section:
        raise DataError("the photos are gone")

    there = Section("There", "drawn")
    assert drawn({"Pictures": gone, "There": lambda: there}) == ([there], ["Pictures: the photos are gone"])
    sections = full_sections(Material(results=results, pictures={"Pictures": gone, "There": lambda: there}))
    headings = [s.heading for s in sections]
    assert headings[:2] == ["At a glance", "Numbers"] and "There" in headings and "Pictures" not in headings
    assert headings[-1] == MISSING and sections[-1].text.startswith("Pictures: the photos are gone\n\n")


def test_the_report_of_an_evaluation_alone(results: list[dict[str, Any]]) -> None:
    title = commands._title(Material(results=results))
    assert title == f"Evaluation: MoCo, {EVIL}"
    assert commands._subtitle(Material(results=results)) == "eval/results"


def test_bars_have_the_lengths_of_the_numbers() -> None:
    values = {"a": 30.0, "b": Spread(45.0, 2.0), "c": None}
    (fig,) = bars_figures([Bars("t", "u", values, chance=10.0)], dict(zip("abc", PALETTE, strict=False)))
    ax = fig.axes[0]
    assert [patch.get_width() for patch in ax.patches] == [30.0, 45.0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"], "what was not measured has no bar"
    assert [text.get_text() for text in ax.texts] == ["30.0", "45.0 ± 2.0"]
    assert ax.lines[-1].get_xdata()[0] == 10.0
    grouped = grouped_bars_figure(["x", "y"], {"a": [1.0, None], "b": [3.0, 4.0]}, {"a": "k", "b": "r"}, 2.0, "%")
    assert sorted(patch.get_height() for patch in grouped.axes[0].patches) == [0.0, 1.0, 3.0, 4.0]


def test_pictures_stand_beside_each_other_with_one_caption(tmp_path: Path) -> None:
    pictures = [Picture(Figure(figsize=(1, 1)), alt=word) for word in ("first", "second")]
    text, page = read(build_report("t", [Section("s", figures=[Gallery(pictures, "both")])], tmp_path / "r.html"))
    assert page.open == [] and text.count('<div class="gallery" style="--columns:3">') == 1
    assert 'alt="first"' in text and 'alt="second"' in text and '<p class="soft">both</p>' in text


def test_photos_are_carried_small_and_drawings_exactly() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "png")
    assert len(stream.getvalue()) > PHOTO_BYTES
    uri = to_data_uri(stream.getvalue())
    assert uri.startswith("data:image/webp;base64,")
    content = base64.b64decode(uri.split(",", 1)[1])
    assert len(content) < 0.7 * len(stream.getvalue()) and Image.open(io.BytesIO(content)).size == (400, 400)
    small = io.BytesIO()
    Image.fromarray(noise[:20]).save(small, "png")
    assert base64.b64decode(to_data_uri(small.getvalue()).split(",", 1)[1]) == small.getvalue()


def test_numbers_of_the_backgrounds_settings_are_no_options(results: list[dict[str, Any]]) -> None:
    # Every model has its own numbers there; they share a table all the same.
    for i, r in enumerate(results[2:]):
        r["details"]["settings"] = {"original": {"top1": 20.0 + i}}
    assert [len(part) for part in by_protocol(results[2:]).values()] == [2]
