"""A folder of maps as masks: checked against the images at build, read one by one in training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ssl_loc.saliency.manifest import Manifest, MapEntry, describe_map, read_manifest, scan_maps
from ssl_loc.saliency.map_io import MAP_SUFFIX, read_map
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import safe_join

# Names are printed up to this many per kind of problem.
NAMES_SHOWN = 5
# More than this and a single salient pixel would round to nothing in an averaged uint8 cell (255 / 16^2 = 1).
MAX_REDUCE = 16
BAD_KINDS = ("missing", "unlisted", "unreadable", "changed", "wrong size")


@dataclass
class MapReport:
    """What the check of a folder of maps found: kind of problem -> keys.

    "missing" has no file, "unlisted" a file that the manifest does not describe, "changed" a file of another size than
    described (or, where maps are measured, with other contents), "wrong size" neither the image's size nor an integer
    fraction of it. "empty" and "full" are usable.
    """

    checked: int = 0
    bad: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in BAD_KINDS})
    empty: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)

    @property
    def bad_keys(self) -> set[str]:
        return {key for keys in self.bad.values() for key in keys}

    def found(self) -> dict[str, list[str]]:
        """Kind -> keys, for the kinds that occurred, "empty" and "full" included."""
        return {kind: keys for kind, keys in {**self.bad, "empty": self.empty, "full": self.full}.items() if keys}

    def lines(self) -> list[str]:
        """One line per kind that occurred, with the first names."""
        return [f"{len(keys)} {kind}: {first_names(keys)}" for kind, keys in self.found().items()]


def first_names(names: Sequence[str]) -> str:
    """The first few names, and how many follow."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def fits(map_size: tuple[int, int], image_size: tuple[int, int]) -> bool:
    """True if a map (h, w) is the image's size or that size divided by an integer, rounded either way."""
    if map_size == image_size:
        return True
    h, w = map_size
    if h < 1 or w < 1:
        return False
    # The image's longer side tells the divisor best.
    small, large = (h, image_size[0]) if image_size[0] >= image_size[1] else (w, image_size[1])
    divisors = range(max(2, large // (small + 1)), large // max(1, small - 1) + 2)
    return any(_divides(h, image_size[0], n) and _divides(w, image_size[1], n) for n in divisors)


def _divides(small: int, large: int, n: int) -> bool:
    return small in (max(1, large // n), -(-large // n))


def check_maps(
    manifest: Manifest, sizes: Mapping[str, tuple[int, int] | None], threshold: int, measure: bool = False
) -> MapReport:
    """Compare a manifest with the images it should serve; no map is opened without ``measure``.

    Args:
        manifest: as read from the folder.
        sizes: key -> (height, width) of each image; None where the image itself could not be read (not compared).
        threshold: grey value above which a pixel is salient (may differ from the manifest's).
        measure: read maps whose file has another time than listed, and compare what they look like: an edited map of
            the same size in bytes is found, a copied folder is not taken for a changed one.
    """
    files = scan_maps(manifest.root)
    report = MapReport(checked=len(sizes))
    for key, size in sizes.items():
        status, entry = files.get(key), manifest.maps.get(key)
        if status is None:
            report.bad["missing"].append(key)
        elif entry is None:
            report.bad["unlisted"].append(key)
        elif status.st_size != entry.bytes or (measure and _looks_different(manifest, key, entry, status)):
            report.bad["changed"].append(key)
        else:
            _judge(report, key, entry, size, threshold)
    return report


def _looks_different(manifest: Manifest, key: str, entry: MapEntry, status: os.stat_result) -> bool:
    if status.st_mtime_ns == entry.mtime_ns:
        return False
    found = describe_map(manifest.path(key), status, manifest.threshold)
    return (found.height, found.width, found.mean, found.share, found.low, found.high) != (
        *(entry.height, entry.width, entry.mean, entry.share, entry.low, entry.high),
    )


def _judge(report: MapReport, key: str, entry: MapEntry, size: tuple[int, int] | None, threshold: int) -> None:
    if "unreadable" in entry.flags:
        report.bad["unreadable"].append(key)
    elif size is not None and not fits((entry.height, entry.width), size):
        report.bad["wrong size"].append(key)
    elif entry.high <= threshold:
        report.empty.append(key)
    elif entry.low > threshold:
        report.full.append(key)


def reduce_mask(mask: np.ndarray, size: tuple[int, int], reduce: int) -> np.ndarray:
    """Bring a mask to 1 / ``reduce`` of its image by area averaging.

    Args:
        mask: uint8 (h, w), 0 or 255; at the image's size or already a fraction of it.
        size: (height, width) of the image.
        reduce: 1 keeps the mask as it is.

    Returns:
        uint8 (ceil(height / reduce), ceil(width / reduce)), 0..255, covering the same extent.
    """
    if reduce == 1:
        return mask
    height, width = (-(-side // reduce) for side in size)
    if mask.shape[0] <= height and mask.shape[1] <= width:
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)


class MapStore:
    """Reads the maps of one folder as binary masks.

    Args:
        root: folder with manifest.json.
        threshold: grey value above which a pixel is salient.
        reduce: masks come back at 1 / ``reduce`` of the image size.
    """

    def __init__(self, root: str | os.PathLike, threshold: int, reduce: int = 1) -> None:
        self.root = os.path.abspath(root)
        self.threshold = threshold
        self.reduce = reduce

    def load(self, key: str, size: tuple[int, int]) -> np.ndarray:
        """Mask of the image ``key`` of ``size`` (height, width) -> uint8 (h, w), 0..255.

        Raises:
            DataError: the map cannot be read or does not fit the image.
        """
        return self._mask(self._grey(key, size), size)

    def load_graded(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """The same mask, and the grey values it was made from, at the same resolution."""
        grey = self._grey(key, size)
        return self._mask(grey, size), reduce_mask(grey, size, self.reduce)

    def _mask(self, grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        binary = cv2.threshold(grey, self.threshold, 255, cv2.THRESH_BINARY)[1]
        return reduce_mask(binary, size, self.reduce)

    def _grey(self, key: str, size: tuple[int, int]) -> np.ndarray:
        path = safe_join(self.root, key + MAP_SUFFIX)
        grey = read_map(path)
        if not fits(grey.shape, size):
            raise DataError(
                f"map {path} is {grey.shape[1]} x {grey.shape[0]} px, its image {size[1]} x {size[0]}; expected "
                "the same size or an integer fraction of it"
            )
        return grey

    def manifest(self) -> Manifest:
        """Read the folder's manifest (not kept: it is large and only needed once)."""
        return read_manifest(self.root)
