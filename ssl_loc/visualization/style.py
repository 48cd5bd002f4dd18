"""One look for every picture: fonts, colours by method, and figures as PNG bytes. No display is needed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from ssl_loc.utils.file_io import atomic_write

# Okabe and Ito's palette: told apart by colour-blind readers and in print.
BASIC = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
# Past eight models: colours after Tol's muted scheme. Nobody tells sixteen colours apart, so these have a mark too.
EXTRA = ("#332288", "#882255", "#999933", "#44AA99", "#A6761D", "#AA4499", "#661100", "#6699CC")
PALETTE = BASIC + EXTRA
# Of bars and of lines, by the rounds of :func:`method_rounds`.
HATCHES = ("", "////", "....", "xxxx")
MARKERS = ("", "o", "s", "^")
# The three models of the CAST paper keep their colour in every picture (Figure 7: CAST is green).
KNOWN = (("cast", "#009E73"), ("crop", "#D55E00"), ("moco", "#0072B2"), ("random", "#7F7F7F"))
MET, UNMET, INK, PALE = "#009E73", "#D55E00", "#222222", "#D9D9D9"
DPI = 110
# Curves and bars stay well below this size as PNG, pictures with photos above.
PHOTO_BYTES = 250_000

_SHARED: ContextVar[Mapping[str, str]] = ContextVar("shared_colors", default=MappingProxyType({}))
_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def look() -> Iterator[None]:
    """Draw inside this block in the project's look; the caller's own matplotlib settings are left alone."""
    with matplotlib.rc_context(_RC):
        yield


@contextmanager
def shared_colors(labels: Sequence[str]) -> Iterator[None]:
    """Inside this block these labels have the same colour in every picture, whichever of them it shows."""
    before = _SHARED.set(method_colors(labels))
    try:
        yield
    finally:
        _SHARED.reset(before)


def method_colors(labels: Sequence[str]) -> dict[str, str]:
    """A colour per label: the known methods have theirs, the others take what is left of the palette, in order.

    No colour is given twice to up to sixteen labels; see :func:`method_rounds` for more.
    """
    shared = _SHARED.get()
    if all(label in shared for label in labels):
        return {label: shared[label] for label in labels}
    colors: dict[str, str] = {}
    known = [color for _, color in KNOWN]
    taken = {color for word, color in KNOWN if any(word in label.lower() for label in labels)}
    order = [
        *(c for c in BASIC if c not in known),
        *(c for c in BASIC if c in known and c not in taken),
        *EXTRA,
        *(c for c in BASIC if c in taken),
    ]
    for label in labels:
        wanted = next((color for word, color in KNOWN if word in label.lower()), None)
        if wanted is None or wanted in colors.values():
            wanted = next((c for c in order if c not in colors.values()), PALETTE[len(colors) % len(PALETTE)])
        colors[label] = wanted
    return colors


def method_rounds(colors: Mapping[str, str]) -> dict[str, int]:
    """Label -> 0 for a basic colour, 1 for an extra one, higher where its colour repeats: an index into ``HATCHES`` and
    ``MARKERS``.

    Args:
        colors: label -> colour, as :func:`method_colors` gives them.
    """
    shared = _SHARED.get()
    every = shared if all(label in shared for label in colors) else colors
    rounds: dict[str, int] = {}
    seen: list[str] = []
    for label, color in every.items():
        rounds[label] = (int(color in EXTRA) + 2 * seen.count(color)) % len(HATCHES)
        seen.append(color)
    return {label: rounds[label] for label in colors}


def figure(width: float, height: float, **kwargs: Any) -> Figure:
    """An empty figure (inches) with constrained layout, bound to no window."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", **kwargs)


def to_png(fig: Figure) -> bytes:
    """The figure as PNG bytes."""
    stream = io.BytesIO()
    fig.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def to_data_uri(png: bytes) -> str:
    """PNG bytes as an address that an ``<img>`` shows without any other file.

    A large picture, which is one with photos, is carried as WebP of quality 88, a fifth of the size; drawings stay
    exact.
    """
    kind = "png"
    if len(png) > PHOTO_BYTES:
        stream = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(stream, "webp", quality=88)
        png, kind = stream.getvalue(), "webp"
    return f"data:image/{kind};base64," + base64.b64encode(png).decode("ascii")


def save(fig: Figure, path: str | Path) -> Path:
    """Write the figure as PNG and return the path."""
    with atomic_write(path) as stream:
        stream.write(to_png(fig))
    return Path(path)
