"""Windows of photos without salient response: backgrounds to paste objects on (DiLo paper: "non-salient" crops).

The paper does not say how it picks them. Here: of every image the square window of least mean saliency, accepted if its
mean and its maximum are low.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np

from ssl_loc.saliency.map_io import MAP_SUFFIX, read_map
from ssl_loc.saliency.metrics import match_size
from ssl_loc.saliency.store import fits
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import read_json, safe_join, write_text
from ssl_loc.utils.json_rows import json_with_rows
from ssl_loc.utils.progress import progress_bar

FORMAT, FORMAT_VERSION = "ssl_loc.windows", 1
# Side of the window (that of pretraining views), and how little saliency it may have, in [0, 1].
SIDE, MAX_MEAN, MAX_MAX = 224, 0.02, 0.2
_CHUNK, _THREADS = 1024, 8


class Window(NamedTuple):
    """A square of an image.

    Attributes:
        x1, y1, x2, y2: px of the image, half-open.
        mean, high: mean and largest saliency inside, in [0, 1].
    """

    x1: int
    y1: int
    x2: int
    y2: int
    mean: float
    high: float


def quietest_window(grey: np.ndarray, side: int = SIDE) -> Window:
    """The square of ``side`` px (less if the image is smaller) with the least mean saliency.

    Args:
        grey: uint8 (H, W) map at the image's size.
        side: of the square.

    Of several equal ones the first in reading order is taken.
    """
    height, width = grey.shape
    side = min(side, height, width)
    sums = cv2.integral(grey, sdepth=cv2.CV_64F)
    totals = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = (int(v) for v in np.unravel_index(int(totals.argmin()), totals.shape))
    inside = grey[y : y + side, x : x + side]
    mean = round(float(totals[y, x]) / (255 * side * side), 5)
    return Window(x, y, x + side, y + side, mean, round(int(inside.max()) / 255, 5))


@dataclass
class WindowList:
    """Windows of a dataset.

    Attributes:
        windows: key -> window, for the accepted images, in the dataset's order.
        paths: key -> image file.
        salient: how many images have no quiet window.
        nearest: the quietest window of those images; not written down.
        missing: keys of images without a usable map.
        settings: side and limits.
        maps: what the maps are (manifest without its entries).
    """

    windows: dict[str, Window] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    salient: int = 0
    missing: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Any] = field(default_factory=dict)
    nearest: Window | None = None


def list_windows(
    images: Iterable[tuple[str, str, tuple[int, int]]],
    root: str | os.PathLike,
    *,
    side: int = SIDE,
    max_mean: float = MAX_MEAN,
    max_max: float = MAX_MAX,
    maps: dict[str, Any] | None = None,
    total: int | None = None,
    progress: bool = True,
) -> WindowList:
    """The quiet window of every image that has one.

    Args:
        images: (key, path, (H, W)) of each image; the map is ROOT/<key>.png.
        root: folder of the maps.
        side: of the windows in px; smaller images give their largest square.
        max_mean, max_max: a window is accepted up to these, in [0, 1].
        maps: what the maps are, written into the list.
        total: number of images, for the bar.
        progress: show a bar.

    Raises:
        ConfigError: a setting is out of range.
    """
    if side < 1 or not 0 <= max_mean <= 1 or not 0 <= max_max <= 1:
        raise ConfigError(
            f"windows of side {side}, mean {max_mean}, max {max_max}: expected side >= 1 and limits in 0..1"
        )
    found = WindowList(settings={"side": side, "max_mean": max_mean, "max_max": max_max}, maps=maps or {})
    bar = progress_bar(total=total, desc="windows", unit="image", show=progress)
    with ThreadPoolExecutor(_THREADS) as pool:
        rest = iter(images)
        while chunk := list(islice(rest, _CHUNK)):
            windows = pool.map(lambda image: _window_of(root, image[0], image[2], side), chunk)
            for (key, path, _), window in zip(chunk, windows, strict=True):
                if window is None:
                    found.missing.append(key)
                elif window.mean <= max_mean and window.high <= max_max:
                    found.windows[key], found.paths[key] = window, path
                else:
                    found.salient += 1
                    found.nearest = min(found.nearest or window, window, key=lambda w: (w.mean, w.high))
            bar.update(len(chunk))
    bar.close()
    return found


def _window_of(root: str | os.PathLike, key: str, size: tuple[int, int], side: int) -> Window | None:
    """None where the map is missing, unreadable, or of another shape than its image."""
    try:
        grey = read_map(safe_join(root, key + MAP_SUFFIX))
    except DataError:
        return None
    if not fits((grey.shape[0], grey.shape[1]), size):
        return None
    return quietest_window(match_size(grey, size)[0], side)


def write_windows(found: WindowList, path: str | os.PathLike) -> None:
    """Write the list as json: one line per window."""
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "count": len(found.windows),
        "salient": found.salient,
        "missing": found.missing,
        **{key: found.settings[key] for key in ("side", "max_mean", "max_max")},
        "maps": found.maps,
        "fields": ["path", *Window._fields],
    }
    rows = {key: [found.paths[key], *window] for key, window in found.windows.items()}
    write_text(path, json_with_rows(head, "windows", rows))


def read_windows(path: str | os.PathLike) -> WindowList:
    """Read what :func:`write_windows` wrote.

    Raises:
        DataError: it is no such list.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no list of windows; make one with tools/make_windows.py")
    if content["format_version"] != FORMAT_VERSION or content["fields"] != ["path", *Window._fields]:
        raise DataError(
            f"{path} has format version {content['format_version']}, expected {FORMAT_VERSION}; make it again"
        )
    settings = {key: content[key] for key in ("side", "max_mean", "max_max")}
    windows = {key: Window(*row[1:]) for key, row in content["windows"].items()}
    paths = {key: row[0] for key, row in content["windows"].items()}
    return WindowList(windows, paths, content["salient"], content["missing"], settings, content["maps"])
