"""The report is one file that needs nothing else, says what it is told, and cannot be broken by what it shows."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ssl_loc.visualization.report import Picture, Section, Table, build_report, format_column
from ssl_loc.visualization.style import HATCHES, MARKERS, PALETTE, method_colors, method_rounds, shared_colors


class Page(HTMLParser):
    """Collects what a browser would load, what it would link to, and the table cells."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.open: list[str] = []
        self._class = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.loads += [values[k] for k in ("src", "data") if k in values]
        if tag == "link":
            self.loads.append(values["href"])
        if tag == "a":
            self.links.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in self.VOID:
            self.open.append(tag)
        self._class = values.get("class", "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append((data, self._class))


def read(path: Path) -> tuple[str, Page]:
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_self_contained_and_well_formed(tmp_path: Path) -> None:
    fig = Figure(figsize=(1, 1))
    sections = [
        Section("Numbers", text="One.\n\nTwo.", tables=[Table(["a", "b"], [["x", 1.0]], "caption")]),
        Section("Numbers", figures=[Picture(fig, "a picture", wide=True)], folded={"config": "A: 1\n"}),
        Section("Empty"),
    ]
    text, page = read(build_report("Title", sections, tmp_path / "r.html", "sub"))
    assert page.open == []  # every tag is closed, in order
    assert page.loads and all(src.startswith("data:") for src in page.loads)
    assert "http" not in re.sub(r"data:image/png;base64,\S+", "", text)
    assert page.links == ["#numbers", "#numbers-2"] and page.ids == ["numbers", "numbers-2"]
    assert "Empty" not in text
    assert text.count("<p>") == 2
    picture = next(src for src in page.loads if src.startswith("data:image/png;base64,"))
    assert base64.b64decode(picture.split(",", 1)[1])[:8] == b"\x89PNG\r\n\x1a\n"
    assert 'name="viewport"' in text


def test_what_it_shows_cannot_break_it(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script> & "q"'
    sections = [Section(evil, text=evil, tables=[Table([evil], [[evil]], evil)], folded={evil: evil})]
    text, page = read(build_report(evil, sections, tmp_path / "r.html", evil))
    assert "<script" not in text and page.open == []


def test_numbers_of_a_column_share_their_decimals() -> None:
    assert format_column([8.889, 14.4444, None]) == ["8.9", "14.4", ""]
    assert format_column([0.0, 0.31567, float("nan")]) == ["0.000", "0.316", "n/a"]
    assert format_column([1e-4, 2.5e-5]) == ["0.0001", "2.5e-05"]
    assert format_column(["x", 3, True]) == ["x", "3", "yes"]


def test_best_is_bold_unless_all_are_equal(tmp_path: Path) -> None:
    rows = [["a", 0.1, 0.5, 0.0], ["b", 0.3, 0.2, 0.0], ["c", 0.3, 0.9, 0.0], ["d", None, 0.4, 0.0]]
    table = Table(["w", "up", "down", "same"], rows, best={"up": "max", "down": "min", "same": "min"}, marked=[1])
    text, page = read(build_report("t", [Section("s", tables=[table])], tmp_path / "r.html"))
    best = [data for data, classes in page.cells if "best" in classes]
    assert best == ["0.300", "0.200", "0.300"]  # both equal winners of "up", one of "down", none of "same"
    assert text.count("class=marked") == 1


def test_colors_are_the_methods_own() -> None:
    colors = method_colors(["random", "MoCo", "MoCo + crop", "CAST", "BYOL", "DiLo"])
    assert colors["CAST"] == "#009E73" and colors["MoCo"] == "#0072B2" and colors["MoCo + crop"] == "#D55E00"
    assert len(set(colors.values())) == 6
    assert method_colors(["CAST seed 0", "CAST seed 1"])["CAST seed 0"] == "#009E73"
    with shared_colors(["random", "A", "B"]):
        together = method_colors(["random", "A", "B"])
        assert method_colors(["B"]) == {"B": together["B"]}, "alone it has the colour it has beside the others"
    assert method_colors(["B"]) != {"B": together["B"]}
    many = method_colors([f"run {i}" for i in range(20)])
    assert set(many.values()) <= set(PALETTE)


def test_every_model_of_many_looks_different() -> None:
    labels = ["CAST", "MoCo", *(f"run {i}" for i in range(18))]
    colors = method_colors(labels)
    assert len(set(list(colors.values())[:16])) == 16
    rounds = method_rounds(colors)
    assert len({(colors[label], rounds[label]) for label in labels}) == 20
    assert rounds["CAST"] == rounds["MoCo"] == 0 and max(rounds.values()) < len(HATCHES) == len(MARKERS)
    with shared_colors(labels):
        assert method_rounds({"run 17": colors["run 17"]}) == {"run 17": rounds["run 17"]}, "alone as among the others"


def test_what_most_share_is_not_bold(tmp_path: Path) -> None:
    rows = [[f"m{i}", 0.0 if i < 6 else 0.1 * i] for i in range(10)]
    text, page = read(
        build_report("t", [Section("s", tables=[Table(["w", "zero"], rows, best={"zero": "min"})])], tmp_path / "r")
    )
    assert not [data for data, classes in page.cells if "best" in classes]


@pytest.mark.parametrize("width", [False, True])
def test_picture_from_a_file(tmp_path: Path, width: bool) -> None:
    from ssl_loc.visualization.style import save

    path = save(Figure(figsize=(1, 1)), tmp_path / "p.png")
    text, _ = read(build_report("t", [Section("s", figures=[Picture(path, "c", width)])], tmp_path / "r.html"))
    assert base64.b64encode(path.read_bytes()).decode() in text
    # A wide picture stays readable on a phone, but a small one is not blown up: this one is an inch, 110 px, wide.
    assert ('class=wide style="--least:68px"' in text) == width == ("class=wide" in text)
