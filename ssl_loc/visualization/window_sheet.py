"""A contact sheet of the quiet windows of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssl_loc.data.image_io import read_image
from ssl_loc.saliency.windows import WindowList
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import atomic_write

COUNT, COLUMNS, SIDE, GAP = 48, 8, 120, 4


def write_window_sheet(found: WindowList, out: str | Path, count: int = COUNT) -> Path:
    """Draw up to ``count`` windows, evenly spread, each as its image with the window framed.

    Raises:
        DataError: there is no window.
    """
    if not found.windows:
        raise DataError("no image has a quiet window; raise --max-mean or --max-max, or take smaller windows (--side)")
    keys = list(found.windows)
    chosen = [keys[int(i)] for i in np.linspace(0, len(keys) - 1, min(count, len(keys))).round()]
    rows = -(-len(chosen) // COLUMNS)
    columns = min(COLUMNS, len(chosen))
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, rows * (SIDE + GAP) + GAP), (255, 255, 255))
    for i, key in enumerate(chosen):
        picture = Image.fromarray(read_image(found.paths[key]))
        scale = SIDE / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
        x1, y1, x2, y2 = (v * scale for v in found.windows[key][:4])
        ImageDraw.Draw(picture).rectangle((x1, y1, x2 - 1, y2 - 1), outline=(0, 158, 115), width=3)
        sheet.paste(picture, (GAP + (i % COLUMNS) * (SIDE + GAP), GAP + (i // COLUMNS) * (SIDE + GAP)))
    with atomic_write(out) as stream:
        sheet.save(stream, format=Image.registered_extensions().get(Path(out).suffix.lower(), "PNG"))
    return Path(out)
