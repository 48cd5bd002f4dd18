"""One self-contained HTML file: headings, text, tables and figures, readable on a wide screen and on a phone.

Compose it from :class:`Section` objects::

    build_report("CAST on scenes", [Section("Numbers", text="...", table=Table(["model", "IoU"], rows))], "report.html")

Pictures are embedded, so the file can be mailed; it loads nothing from anywhere.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import ssl_loc
from ssl_loc.utils.file_io import write_text
from ssl_loc.visualization.html_style import CSS
from ssl_loc.visualization.style import to_data_uri, to_png

# Share of their width that wide pictures keep on a phone, so that words are as large in all of them; and the most, px.
LEAST_SHARE, LEAST_WIDTH = 0.62, 680
# Letters of a cell that gets a wide column.
LONG = 40


@dataclass(frozen=True)
class Spread:
    """A number measured several times: mean and sample deviation; shown as "41.2 ± 0.3", compared by its mean."""

    mean: float
    std: float


@dataclass
class Table:
    """A table.

    Attributes:
        columns: headings.
        rows: values; None is an empty cell; floats and spreads are rounded alike within a column, the rest is shown as
            text.
        caption: what one sees; stands above the table.
        best: column -> "max" or "min": the best number of that column is set in bold, unless most rows share it.
        marked: numbers of the rows to set off.
        muted: numbers of the rows that are only quoted: in italics, and never the best.
        decimals: of floats and spreads; None chooses them by the largest of a column.
        places: column -> its decimals, before ``decimals``.
        tall: a long table, shown in a window of its own that scrolls.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    best: dict[str, str] = field(default_factory=dict)
    marked: Sequence[int] = ()
    muted: Sequence[int] = ()
    decimals: int | None = None
    places: dict[str, int] = field(default_factory=dict)
    tall: bool = False


@dataclass
class Picture:
    """A figure with its caption. ``image`` is a matplotlib figure, PNG bytes, or the path of a PNG. ``wide`` pictures
    keep a readable width on a phone and scroll sideways. ``alt`` is read aloud where there is no caption.
    """

    image: Figure | bytes | str | Path
    caption: str = ""
    wide: bool = False
    alt: str = ""


@dataclass
class Gallery:
    """Pictures beside each other, at most ``columns``, below each other on a phone, with one caption."""

    pictures: Sequence[Picture]
    caption: str = ""
    columns: int = 3


@dataclass
class Section:
    """One part of the report; everything but the heading is optional and shown in this order.

    Attributes:
        heading: also the entry in the table of contents.
        text: paragraphs separated by empty lines; plain text.
        tables, figures: shown one after the other.
        folded: title -> long plain text behind a fold (configs, environments).
    """

    heading: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Picture | Gallery] = ()
    folded: dict[str, str] = field(default_factory=dict)


def build_report(title: str, sections: Sequence[Section], out: str | Path, subtitle: str = "") -> Path:
    """Write the report and return its path. Sections without any content are left out."""
    shown = [s for s in sections if s.text or s.tables or s.figures or s.folded]
    anchors = _anchors([s.heading for s in shown])
    links = "".join(f'<a href="#{a}">{_text(s.heading)}</a>' for a, s in zip(anchors, shown, strict=True))
    body = "".join(_section(s, a) for s, a in zip(shown, anchors, strict=True))
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{_text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{_text(title)}</h1><div class="soft">{_text(subtitle)}</div></header>\n'
        f'<nav aria-label="Contents">{links}</nav>\n{body}'
        f"<footer>ssl_loc {ssl_loc.__version__}, {made}</footer>\n</main>\n</body>\n</html>\n"
    )
    write_text(out, page)
    return Path(out)


def _section(section: Section, anchor: str) -> str:
    paragraphs = [p.strip() for p in section.text.split("\n\n") if p.strip()]
    parts = [f"<p>{_text(p)}</p>\n" for p in paragraphs]
    parts += [_table(t) for t in section.tables]
    parts += [_gallery(p) if isinstance(p, Gallery) else _picture(p) for p in section.figures]
    parts += [
        f"<details><summary>{_text(name)}</summary><pre>{_text(text)}</pre></details>\n"
        for name, text in section.folded.items()
    ]
    return f'<section id="{anchor}">\n<h2>{_text(section.heading)}</h2>\n{"".join(parts)}</section>\n'


def _table(table: Table) -> str:
    numeric = [all(_is_number(row[i]) for row in table.rows if row[i] is not None) for i in range(len(table.columns))]
    best = {name: _best_rows(table, name, sense) for name, sense in table.best.items()}
    columns = ([row[i] for row in table.rows] for i in range(len(table.columns)))
    places = [table.places.get(name, table.decimals) for name in table.columns]
    shown = list(zip(*map(format_column, columns, places), strict=True))
    caption = f'<p class="caption">{_text(table.caption)}</p>\n' if table.caption else ""
    head = "".join(f"<th{_class(num)}>{_text(c)}</th>" for c, num in zip(table.columns, numeric, strict=True))
    rows = []
    for r, texts in enumerate(shown):
        cells = [
            f"<td{_class(num, r in best.get(name, ()), len(text) > LONG)}>{_text(text)}</td>"
            for name, num, text in zip(table.columns, numeric, texts, strict=True)
        ]
        kind = "marked" if r in table.marked else "muted" if r in table.muted else ""
        rows.append(f"<tr{f' class={kind}' if kind else ''}>{''.join(cells)}</tr>")
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    kind = "scroll tall" if table.tall else "scroll"
    return f'{caption}<div class="{kind}"><table>{inner}</table></div>\n'


def _best_rows(table: Table, name: str, sense: str) -> list[int]:
    column = list(table.columns).index(name)
    own = ((i, row[column]) for i, row in enumerate(table.rows) if i not in table.muted)
    values = {i: _size(value) for i, value in own if _is_number(value)}
    if len(set(values.values())) < 2:
        return []
    top = (max if sense == "max" else min)(values.values())
    winners = [i for i, value in values.items() if value == top]
    # What most have sets nobody apart.
    return winners if len(winners) <= max(2, len(values) // 2) else []


def _picture(picture: Picture) -> str:
    image = picture.image
    if isinstance(image, Figure):
        image = to_png(image)
    elif not isinstance(image, bytes):
        image = Path(image).read_bytes()
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    tag = f'<img alt="{_text(picture.caption or picture.alt or "figure")}" src="{to_data_uri(image)}">'
    inner = f'<div class="scroll">{tag}</div>' if picture.wide else tag
    # The width at which its smallest text can still be read; no picture is blown up for it.
    least = min(LEAST_WIDTH, round(LEAST_SHARE * png_width(image)))
    wide = f' class=wide style="--least:{least}px"' if picture.wide else ""
    return f"<figure{wide}>{inner}{caption}</figure>\n"


def png_width(png: bytes) -> int:
    """Pixels; the number stands in the header, which is the first part of every PNG."""
    return int.from_bytes(png[16:20], "big")


def _gallery(gallery: Gallery) -> str:
    caption = f'<p class="soft">{_text(gallery.caption)}</p>\n' if gallery.caption else ""
    pictures = "".join(map(_picture, gallery.pictures))
    return f'<div class="gallery" style="--columns:{gallery.columns}">{pictures}</div>\n{caption}'


def format_column(values: Sequence[Any], decimals: int | None = None) -> list[str]:
    """The cells of a column as text: floats with equal decimals (by the largest of them), None as an empty cell."""
    floats = [abs(_size(v)) for v in values if _is_real(v)]
    largest = max(floats, default=0.0)
    if decimals is not None:
        pattern = f".{decimals}f"
    elif largest >= 10:
        pattern = ".1f"
    elif largest >= 0.01 or largest == 0:
        pattern = ".3f"
    else:
        pattern = ".3g"
    return [_number(v, pattern) if _is_real(v) else _word(v) for v in values]


def _number(value: float | Spread, pattern: str) -> str:
    if isinstance(value, Spread):
        # One measurement has no deviation.
        return format(value.mean, pattern) + (f" ± {value.std:{pattern}}" if math.isfinite(value.std) else "")
    return format(value, pattern)


def _size(value: Any) -> float:
    return value.mean if isinstance(value, Spread) else value


def _is_real(value: Any) -> bool:
    return isinstance(value, (float, Spread)) and math.isfinite(_size(value))


def _word(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "n/a" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Spread)) and not isinstance(value, bool)


def _class(numeric: bool, best: bool = False, long: bool = False) -> str:
    names = [name for name, on in (("num", numeric), ("best", best), ("long", long and not numeric)) if on]
    return f' class="{" ".join(names)}"' if names else ""


def _anchors(headings: Sequence[str]) -> list[str]:
    anchors: list[str] = []
    for heading in headings:
        base = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") or "part"
        name, n = base, 2
        while name in anchors:
            name, n = f"{base}-{n}", n + 1
        anchors.append(name)
    return anchors


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
