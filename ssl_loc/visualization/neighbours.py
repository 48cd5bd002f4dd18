"""Photos with their nearest neighbours in the embedding spaces of several models (DiLo paper, Figures 2, 5 and 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ssl_loc.data.eval_transforms import eval_transform
from ssl_loc.data.labelled import even_sample
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.neighbours import NearestNeighbours, Neighbours, Photos, find_neighbours
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import DataError, check_choice
from ssl_loc.visualization.pictures import to_rgb
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.strips import RIGHT, WRONG, Block, Cell, Row, strips_figure, verdict
from ssl_loc.visualization.style import INK, MET, UNMET, method_colors

HEADING = "Nearest neighbours"
# "spread": evenly over the data. "errors": those whose nearest neighbour (of the first model) is of another class,
# and first those where both stand on one background.
SHOW = ("spread", "errors")
# Photos are drawn from this many px.
SIDE = 224


def compute_neighbours(weights: Sequence[Weights], data: EvalData, protocol: NearestNeighbours) -> list[Neighbours]:
    """The neighbours of every query, one per model."""
    return [find_neighbours(w, data, protocol.k, protocol.features) for w in weights]


def choose(found: Neighbours, count: int, show: str = "spread") -> Tensor:
    """Numbers of the queries to draw, int64.

    Raises:
        DataError: errors are asked for where there are none, or no labels to tell.
    """
    check_choice("--show", show, SHOW)
    if show == "spread":
        return even_sample(len(found.queries), count)
    if not bool((found.queries.labels >= 0).any()):
        raise DataError("--show errors needs class labels, and these photos have none; leave it out")
    nearest = found.index[:, 0]
    wrong = found.queries.labels != found.bank.labels[nearest]
    grounds = found.queries.backgrounds
    alike = wrong & (grounds == found.bank.backgrounds[nearest]) & (grounds >= 0)
    rows = [part.nonzero()[:, 0] for part in (alike, wrong & ~alike)]
    if not len(rows[0]) + len(rows[1]):
        raise DataError("every photo's nearest neighbour is of its class: there is no error to show")
    first = rows[0][even_sample(len(rows[0]), count)]
    room = count - len(first)
    return torch.cat([first, rows[1][even_sample(len(rows[1]), room)]]) if room else first


def neighbours_figure(found: Sequence[Neighbours], labels: Sequence[str], queries: Tensor) -> Figure:
    """Blocks: queries. Rows: models. Columns: the query, then its neighbours, nearest first, framed by their class."""
    colors = method_colors(labels)
    several = len(labels) > 1
    blocks = []
    for i in queries.tolist():
        rows = [
            Row(neighbour_cells(one, i), label if several else "", colors[label])
            for one, label in zip(found, labels, strict=True)
        ]
        photos = found[0].queries
        blocks.append(Block(Cell(photo_of(photos, i), [class_name(photos, i) or ""]), rows))
    heads = ["query", *(["nearest", *(f"{n}." for n in range(2, found[0].index.shape[1] + 1))])]
    return strips_figure(blocks, heads, class_key(found[0].queries))


def class_key(photos: Photos) -> list[tuple[str, str]]:
    """What the frames mean, where classes are known."""
    known = bool((photos.labels >= 0).any())
    return [(f"{RIGHT} same class", MET), (f"{WRONG} other class", UNMET)] if known else []


def neighbour_cells(found: Neighbours, i: int) -> list[Cell]:
    """The neighbours of query ``i`` with class, cosine, and whether the background is the query's."""
    cells = []
    for j, cosine in zip(found.index[i].tolist(), found.cosine[i].tolist(), strict=True):
        ground = int(found.queries.backgrounds[i])
        alike = ground >= 0 and ground == int(found.bank.backgrounds[j])
        own, other = int(found.queries.labels[i]), int(found.bank.labels[j])
        same = None if min(own, other) < 0 else own == other
        cells.append(neighbour_cell(found.bank, j, cosine, same, alike))
    return cells


def neighbour_cell(bank: Photos, j: int, cosine: float, same: bool | None, alike: bool) -> Cell:
    """One neighbour: its photo, class and cosine; ``alike`` says that its background is the query's."""
    frame, mark = verdict(same)
    lines = [f"{mark} {class_name(bank, j) or ''}".strip(), f"{cosine:.2f}" + (", same ground" if alike else "")]
    return Cell(photo_of(bank, j), [line for line in lines if line], frame, frame or INK)


def photo_of(photos: Photos, i: int) -> Any:
    """What the network sees of a photo, uint8 (S, S, 3)."""
    return to_rgb(eval_transform(photos.source.image(i), SIDE))


def class_name(photos: Photos, i: int) -> str:
    """Name of the photo's class, "" where it is unknown."""
    label = int(photos.labels[i])
    return photos.source.classes[label] if 0 <= label < len(photos.source.classes) else ""


def neighbours_picture(
    weights: Sequence[Weights], data: EvalData, protocol: NearestNeighbours, count: int = 6, show: str = "spread"
) -> Picture:
    """The figure, and what to look for in it."""
    found = compute_neighbours(weights, data, protocol)
    fig = neighbours_figure(found, [w.label for w in weights], choose(found[0], count, show))
    return Picture(fig, neighbours_caption(found[0], show, weights[0].label))


def neighbours_caption(found: Neighbours, show: str, first: str) -> str:
    """What is drawn and what to look for."""
    which = {
        "spread": "Photos, evenly spread over the data",
        "errors": f"Photos whose nearest neighbour for {first} is of another class",
    }[show]
    where = "the other photos" if found.within else f"{len(found.bank)} training photos"
    return (
        f"{which}, and the most alike of {where} (cosine of pooled features). Look for neighbours of another class "
        "that share the background, not the object: the error pattern of section 3 of the DiLo paper."
    )
