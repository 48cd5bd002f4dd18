"""Strips of small pictures with captions and coloured frames: a query and what belongs to it, model under model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_loc.visualization.style import INK, MET, UNMET, figure, look

# Inches. A phone shows a strip of five cells at half this size, where captions can still be read.
CELL, GAP, LINE, BLOCK_GAP = 1.2, 0.12, 0.165, 0.16
CAPTION, HEAD = 9.0, 10.5  # points
# Mean width of a letter as a share of the font size (DejaVu Sans).
_LETTER = 0.58
FRAME = 3.2  # points
RIGHT, WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


@dataclass
class Cell:
    """A picture uint8 (h, w, 3), the lines below it, and the colour of its frame ("" = none)."""

    picture: np.ndarray
    lines: Sequence[str] = ()
    frame: str = ""
    color: str = INK


@dataclass
class Row:
    """Pictures side by side; ``label`` (a model's name, in ``color``) stands above them."""

    cells: Sequence[Cell]
    label: str = ""
    color: str = INK


@dataclass
class Block:
    """What belongs to one query: its picture on the left, a row per model beside it."""

    query: Cell
    rows: Sequence[Row] = field(default_factory=list)


def strips_figure(
    blocks: Sequence[Block], heads: Sequence[str] = (), key: Sequence[tuple[str, str]] = (), head_colors: Sequence = ()
) -> Figure:
    """Blocks below each other.

    Args:
        heads: words above the columns of the first block, the query's first.
        key: (words, colour) of a line at the very top.
        head_colors: one per head; INK by default.
    """
    columns = 1 + max(len(row.cells) for block in blocks for row in block.rows)
    width = columns * (CELL + GAP) + GAP
    rows = [row for block in blocks for row in block.rows]
    lines = max(len(cell.lines) for cell in [*(b.query for b in blocks), *(c for r in rows for c in r.cells)])
    heads_height = (max(head.count("\n") for head in heads) + 1) * 1.2 * LINE if heads else 0.0
    top = heads_height + (1.4 * LINE if key else 0.0) + 0.08
    height = top + sum(_height(block, lines) for block in blocks)
    with look():
        fig = figure(width, height)
        fig.set_layout_engine("none")
        _draw_key(fig, key, width, height)
        colors = [*head_colors, *[INK] * (len(heads) - len(head_colors))]
        for column, (head, color) in enumerate(zip(heads, colors, strict=True)):
            x = (GAP + column * (CELL + GAP) + CELL / 2) / width
            y = 1 - (top - 0.08) / height
            fig.text(x, y, head, ha="center", va="bottom", fontsize=HEAD, fontweight="bold", color=color)
        y = height - top
        for block in blocks:
            _draw_block(fig, block, y, lines, (width, height))
            y -= _height(block, lines)
    return fig


def _height(block: Block, lines: int) -> float:
    return sum(_row_height(row, lines) for row in block.rows) + BLOCK_GAP


def _row_height(row: Row, lines: int) -> float:
    return CELL + (lines + 0.45) * LINE + (LINE * 1.15 if row.label else 0.0)


def _draw_key(fig: Figure, key: Sequence[tuple[str, str]], width: float, height: float) -> None:
    x = GAP
    for words, color in key:
        fig.text(x / width, 1 - 0.04 / height, words, ha="left", va="top", fontsize=CAPTION, color=color)
        x += (len(words) + 3) * _LETTER * CAPTION / 72


def _draw_block(fig: Figure, block: Block, y: float, lines: int, size: tuple[float, float]) -> None:
    for i, row in enumerate(block.rows):
        if row.label:
            x = (2 * GAP + CELL) / size[0]
            fig.text(x, y / size[1], row.label, ha="left", va="top", fontsize=HEAD, fontweight="bold", color=row.color)
            y -= LINE * 1.15
        cells = [(0, block.query)] if i == 0 else []
        for column, cell in [*cells, *enumerate(row.cells, start=1)]:
            _draw_cell(fig, cell, GAP + column * (CELL + GAP), y - CELL, size)
        y -= CELL + (lines + 0.45) * LINE


def _draw_cell(fig: Figure, cell: Cell, x: float, y: float, size: tuple[float, float]) -> None:
    ax: Axes = fig.add_axes((x / size[0], y / size[1], CELL / size[0], CELL / size[1]))
    # Photos are larger than their cell: averaged down, not point-sampled.
    ax.imshow(cell.picture, interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=bool(cell.frame), color=cell.frame or INK, linewidth=FRAME)
    text = "\n".join(shorten(line) for line in cell.lines)
    ax.text(
        0.5, -0.05, text, transform=ax.transAxes, ha="center", va="top", fontsize=CAPTION, color=cell.color,
        linespacing=1.15,
    )  # fmt: skip


def shorten(line: str, inches: float = CELL + GAP) -> str:
    """A line that fits a cell: a longer one loses its end."""
    room = int(inches * 72 / (_LETTER * CAPTION))
    return line if len(line) <= room else line[: room - 1].rstrip() + "…"


def verdict(same: bool | None) -> tuple[str, str]:
    """Frame and mark of an answer: right, wrong, or unknown (no frame, no mark)."""
    if same is None:
        return "", ""
    return (MET, RIGHT) if same else (UNMET, WRONG)
