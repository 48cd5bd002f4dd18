"""A contact sheet of saliency maps: each image beside its map, with what the manifest says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ssl_loc.data.catalog import Dataset
from ssl_loc.data.image_io import read_image
from ssl_loc.data.records import Record
from ssl_loc.saliency.manifest import Manifest, MapEntry
from ssl_loc.saliency.map_io import read_map
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import atomic_write

COUNT, FLAGGED, COLUMNS = 48, 12, 4
# px: a cell holds image and map side by side, each in a square, and a line of text below.
SIDE, TEXT, GAP = 150, 14, 8
INK, WARN, PAPER = (34, 34, 34), (200, 60, 0), (255, 255, 255)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Sheet(NamedTuple):
    """A contact sheet that was written: the file, how many images it shows, and of how many that have a map."""

    path: Path
    shown: int
    there: int

    def line(self) -> str:
        """One line for the terminal."""
        return f"wrote {self.path}" + (f" ({self.shown} of {self.there} shown)" if self.shown < self.there else "")


def check_sheet_file(out: str | Path, root: str | Path) -> None:
    """Refuse what a sheet of the maps in ``root`` cannot be written to; to be asked before the long work.

    Raises:
        ConfigError: ``out`` is no picture, or lies among the maps.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES or out.is_dir() or Path(root).resolve() in out.resolve().parents:
        raise ConfigError(
            f"--preview is {out}; expected a picture ({', '.join(SUFFIXES)}) outside of the folder of the maps, where "
            "it would be taken for a map"
        )


def write_map_sheet(dataset: Dataset, manifest: Manifest, out: str | Path, count: int = COUNT) -> Sheet:
    """Draw up to ``count`` images of the dataset that have a map, evenly spread, those with a flag first.

    Raises:
        ConfigError: ``out`` is no picture, or lies among the maps.
        DataError: no image of the dataset has a map.
    """
    out = Path(out)
    check_sheet_file(out, manifest.root)
    chosen = choose(dataset.records, manifest, count)
    if not chosen:
        raise DataError(f"no image of {dataset.name} has a map in {manifest.root}")
    rows = [chosen[i : i + COLUMNS] for i in range(0, len(chosen), COLUMNS)]
    heights = [max(_height(manifest.maps[record.key]) for record in row) + TEXT + GAP for row in rows]
    width = 2 * SIDE + 2 * GAP
    sheet = Image.new("RGB", (len(rows[0]) * width + GAP, sum(heights) + GAP), PAPER)
    for i, row in enumerate(rows):
        for j, record in enumerate(row):
            _draw_cell(sheet, record, manifest, GAP + j * width, GAP + sum(heights[:i]))
    with atomic_write(out) as stream:
        sheet.save(stream, format=Image.registered_extensions()[out.suffix.lower()])
    return Sheet(out, len(chosen), sum(record.key in manifest.maps for record in dataset.records))


def choose(records: Sequence[Record], manifest: Manifest, count: int) -> list[Record]:
    """Images with a map: up to a dozen flagged ones, then evenly spread others."""
    listed = [(i, manifest.maps.get(record.key)) for i, record in enumerate(records)]
    flagged = [i for i, entry in listed if entry is not None and entry.flags][: min(FLAGGED, count)]
    others = [i for i, entry in listed if entry is not None and not entry.flags]
    places = np.linspace(0, len(others) - 1, min(len(others), count - len(flagged))).round().astype(int)
    return [records[i] for i in [*flagged, *(others[int(p)] for p in places)]]


def caption(key: str, entry: MapEntry) -> str:
    """The end of the name, the mean, the salient share, and the flags."""
    name = key if len(key) <= 20 else f"...{key[-17:]}"
    return f"{name}  mean {entry.mean:.2f}  area {entry.share:.0%}" + "".join(f"  {flag}" for flag in entry.flags)


def _height(entry: MapEntry) -> int:
    """Height of a cell's pictures in px."""
    return max(1, round(SIDE * entry.height / max(entry.height, entry.width))) if entry.height else SIDE


def _draw_cell(sheet: Image.Image, record: Record, manifest: Manifest, x: int, y: int) -> None:
    pen = ImageDraw.Draw(sheet)
    entry = manifest.maps[record.key]
    left = x
    for read in (lambda: read_image(record.path, record.trim_bottom), lambda: read_map(manifest.path(record.key))):
        try:
            picture = Image.fromarray(read())
        except DataError:
            pen.text((left + 4, y + SIDE // 2), "cannot be read", fill=WARN)
            left += SIDE + 1
            continue
        scale = SIDE / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR), (left, y))
        # The map follows its image, however narrow that is.
        left += size[0] + 1
    pen.text((x, y + _height(entry) + 1), caption(record.key, entry), fill=WARN if entry.flags else INK)
