"""The manifest of a folder of saliency maps: who made them, from what, and what each one looks like.

Layout: ``ROOT/manifest.json`` beside ``ROOT/<key>.png``. A map covers its whole image, at the image's size or at an
integer fraction of it; 255 is salient.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssl_loc.saliency.journal import folder_lock, read_journals, remove_journals
from ssl_loc.saliency.map_io import MAP_SUFFIX, read_map
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, write_text
from ssl_loc.utils.json_rows import json_with_rows
from ssl_loc.utils.progress import progress_bar

_LOGGER = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.json"
FORMAT = "ssl_loc.saliency"
FORMAT_VERSION = 1
# A grey value above this is salient (official CAST code: > 128 of 255).
DEFAULT_THRESHOLD = 128


class MapEntry(NamedTuple):
    """One map.

    Attributes:
        height, width: size in px.
        mean: mean grey value / 255.
        share: share of pixels above the manifest's threshold.
        low, high: smallest and largest grey value; the map is empty at threshold t if high <= t, full if low > t.
        bytes: size of the file, to notice maps that changed after they were listed.
        mtime_ns: time of the file, so that listing again skips unchanged maps.
        flags: any of "unreadable", "empty", "full" (the last two at the manifest's threshold), and for a black map that
            stands in for an answer: "failed" (the estimator had none), "timeout" (it took too long), "died" (it ended
            its process).
    """

    height: int
    width: int
    mean: float
    share: float
    low: int
    high: int
    bytes: int
    mtime_ns: int
    flags: list[str]


@dataclass
class Manifest:
    """Everything that is written down about a folder of maps.

    Attributes:
        root: the folder.
        estimator: what made the maps, e.g. "rbd", "deep-usps", "ground_truth".
        preset: named settings of the estimator, "" where it has none.
        uses_labels: True if labels of any kind went into the maps (ground truth, or a network trained with them).
        version: version of the estimator.
        threshold: grey value above which ``share`` and ``flags`` count a pixel as salient.
        maps: key -> entry, sorted by key.
        unreadable_images: key -> why, for images that have no map because they could not be read.
    """

    root: str
    estimator: str
    preset: str
    uses_labels: bool
    version: str
    threshold: int = DEFAULT_THRESHOLD
    maps: dict[str, MapEntry] = field(default_factory=dict)
    unreadable_images: dict[str, str] = field(default_factory=dict)

    def path(self, key: str) -> Path:
        """File of the map of ``key``."""
        return Path(self.root) / f"{key}{MAP_SUFFIX}"

    def info(self) -> dict[str, Any]:
        """Provenance without the maps: what travels with trained weights."""
        values = asdict(self)
        del values["maps"], values["root"], values["unreadable_images"]
        return values


def scan_maps(root: str | os.PathLike) -> dict[str, os.stat_result]:
    """Key -> file status of every map below ``root``, sorted by key; one walk, nothing is opened."""
    found: dict[str, os.stat_result] = {}
    for folder, folders, files in os.walk(os.fspath(root), followlinks=True):
        folders.sort()
        for name in files:
            if name.endswith(MAP_SUFFIX) and not name.startswith("."):
                path = os.path.join(folder, name)
                key = os.path.relpath(path, root)[: -len(MAP_SUFFIX)].replace(os.sep, "/")
                found[key] = os.stat(path)
    return dict(sorted(found.items()))


def describe_map(path: str | os.PathLike, status: os.stat_result, threshold: int) -> MapEntry:
    """Read one map and describe it; an unreadable one is described as such."""
    try:
        grey = read_map(path)
    except DataError as error:
        _LOGGER.warning("%s", error)
        return MapEntry(0, 0, 0.0, 0.0, 0, 0, status.st_size, status.st_mtime_ns, ["unreadable"])
    return describe_array(grey, status, threshold)


def describe_array(grey: np.ndarray, status: os.stat_result, threshold: int = DEFAULT_THRESHOLD) -> MapEntry:
    """Describe the map that was just written to the file with this status; uint8 (H, W)."""
    low, high = int(grey.min()), int(grey.max())
    flags = ["empty"] if high <= threshold else ["full"] if low > threshold else []
    share = float(np.count_nonzero(grey > threshold) / grey.size)
    mean = round(float(grey.mean()) / 255, 6)
    height, width = grey.shape
    return MapEntry(height, width, mean, round(share, 6), low, high, status.st_size, status.st_mtime_ns, flags)


def write_manifest(
    root: str | os.PathLike,
    *,
    estimator: str,
    preset: str = "",
    uses_labels: bool,
    version: str = "",
    threshold: int = DEFAULT_THRESHOLD,
    measured: Mapping[str, MapEntry] | None = None,
    progress: bool = False,
) -> Manifest:
    """Describe every ROOT/**/*.png and write ROOT/manifest.json atomically; returns the manifest.

    Maps that an earlier manifest or the journal of their run describes, and whose size and time have not changed, are
    not read again; nor are those of ``measured``, which the caller has just described. Several shards may end at the
    same time in one folder: the last one lists everything.

    Raises:
        DataError: ``root`` is no folder or holds no map.
    """
    if not Path(root).is_dir():
        raise DataError(_no_maps(root))
    manifest = Manifest(str(root), estimator, preset, uses_labels, version, threshold)
    with folder_lock(root):
        files = scan_maps(root)
        known, unreadable = known_entries(manifest)
        known |= measured or {}
        for key, status in progress_bar(files.items(), desc="manifest", unit="map", show=progress):
            entry = known.get(key)
            if entry is None or (entry.bytes, entry.mtime_ns) != (status.st_size, status.st_mtime_ns):
                entry = describe_map(manifest.path(key), status, threshold)
            manifest.maps[key] = entry
        manifest.unreadable_images = {key: why for key, why in sorted(unreadable.items()) if key not in files}
        if not files and not unreadable:
            raise DataError(_no_maps(root))
        _write(manifest)
    return manifest


def _no_maps(root: str | os.PathLike) -> str:
    return f"no maps in {root}; expected PNG files ROOT/<path of the image without suffix>.png"


def claim_folder(
    root: str | os.PathLike,
    *,
    estimator: str,
    preset: str,
    uses_labels: bool,
    version: str,
    overwrite: bool = False,
    whole: bool = True,
) -> None:
    """Write an empty manifest before the first map, so that a folder never holds two kinds of maps.

    Of two processes that claim one folder at once, the second finds what the first wrote. With ``overwrite`` all maps
    of another maker are removed before the folder changes hands: wherever that is interrupted, one kind is there.

    Args:
        root: the folder.
        estimator, preset, uses_labels, version: the maker of the maps to come.
        overwrite: take over a folder of another maker.
        whole: the maps to come are all of the folder's, not a shard of them.

    Raises:
        DataError: the folder belongs to maps of another estimator, preset or version, or holds pictures that nobody
            listed (maps of unknown origin, or the photos themselves).
    """
    _refuse_unlisted(root)  # before anything is written: these may be somebody's photos
    Path(root).mkdir(parents=True, exist_ok=True)
    with folder_lock(root):
        _refuse_unlisted(root)
        if (Path(root) / MANIFEST_NAME).is_file():
            old = _old_manifest(root) if overwrite else read_manifest(root)
            if old is not None and (old.estimator, old.preset, old.version) == (estimator, preset, version):
                return
            was = _maker(old.estimator, old.preset, old.version) if old else "an unknown maker"
            if not overwrite:
                raise DataError(
                    f"{root} holds maps of {was}, not of {_maker(estimator, preset, version)}; give another folder, or "
                    "overwrite them"
                )
            if not whole:
                raise DataError(
                    f"{root} holds maps of {was}, which --overwrite with --shard cannot replace: other shards would "
                    "keep them; give another folder, or remove this one"
                )
            _remove_maps(root, old, was)
        _write(Manifest(str(root), estimator, preset, uses_labels, version))


def _maker(estimator: str, preset: str, version: str) -> str:
    return f"{estimator} '{preset}' version '{version}'"


def _refuse_unlisted(root: str | os.PathLike) -> None:
    if (Path(root) / MANIFEST_NAME).is_file() or not Path(root).is_dir():
        return
    strange = next(iter(scan_maps(root)), None)
    if strange is not None:
        raise DataError(
            f"{root} already holds PNG files ({strange}{MAP_SUFFIX}, ...) that no manifest describes; give a new "
            "folder, or list them with --method precomputed if they are maps"
        )


def _remove_maps(root: str | os.PathLike, old: Manifest | None, was: str) -> None:
    """Remove the maps that the old manifest or a journal lists; with one that neither lists, nothing."""
    files = scan_maps(root)
    listed = set(read_journals(root)) | set(old.maps if old else ())
    strange = [key for key in files if key not in listed]
    if strange:
        raise DataError(
            f"{root} holds maps of {was}, and {len(strange)} PNG files that its manifest does not describe "
            f"({strange[0]}{MAP_SUFFIX}, ...), so nothing was overwritten; give another folder, or remove this one"
        )
    if files:
        _LOGGER.warning("%s held maps of %s: these %d files are removed (--overwrite)", root, was, len(files))
    for key in files:
        (Path(root) / f"{key}{MAP_SUFFIX}").unlink(missing_ok=True)
    remove_journals(root)


def _write(manifest: Manifest) -> None:
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "count": len(manifest.maps), **manifest.info()}
    content["unreadable_images"] = manifest.unreadable_images
    content["fields"] = list(MapEntry._fields)
    rows = {key: list(entry) for key, entry in manifest.maps.items()}
    write_text(Path(manifest.root) / MANIFEST_NAME, json_with_rows(content, "maps", rows))


def _old_manifest(root: str | os.PathLike) -> Manifest | None:
    """The folder's manifest, if there is one and it can be used."""
    if not (Path(root) / MANIFEST_NAME).is_file():
        return None
    try:
        return read_manifest(root)
    except DataError as error:
        _LOGGER.warning("the old manifest is not used: %s", error)
        return None


def known_entries(manifest: Manifest) -> tuple[dict[str, MapEntry], dict[str, str]]:
    """Descriptions by the journals and the old manifest, and the images known to be unreadable."""
    entries: dict[str, MapEntry] = {}
    unreadable: dict[str, str] = {}
    if (old := _old_manifest(manifest.root)) is not None:
        unreadable |= old.unreadable_images
        entries |= old.maps if old.threshold == manifest.threshold else {}
    for key, (entry, reason) in read_journals(manifest.root, manifest.info()).items():
        if entry is None:
            unreadable[key] = reason
        else:
            entries[key] = MapEntry(*entry)
            unreadable.pop(key, None)
    return entries, unreadable


def read_manifest(root: str | os.PathLike) -> Manifest:
    """Read ROOT/manifest.json.

    Raises:
        DataError: there is none (the message says how to make one) or it cannot be used.
    """
    path = Path(root) / MANIFEST_NAME
    if not path.is_file():
        raise DataError(
            f"no saliency manifest at {path.absolute()}; expected a folder of maps <key>.png. Make them from photos "
            f"(python tools/make_saliency.py PHOTOS --method rbd --out {root}), or list those of another program "
            f"(python tools/make_saliency.py --method precomputed --out {root} --estimator NAME --uses-labels yes|no)"
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is no saliency manifest; list the maps again with tools/make_saliency.py")
    if content.get("format_version") != FORMAT_VERSION or content.get("fields") != list(MapEntry._fields):
        raise DataError(
            f"{path} has format version {content.get('format_version')}, expected {FORMAT_VERSION}; "
            "list the maps again with tools/make_saliency.py"
        )
    names = ("estimator", "preset", "uses_labels", "version", "threshold")
    maps = {key: MapEntry(*row) for key, row in content["maps"].items()}
    unreadable = content.get("unreadable_images", {})
    return Manifest(str(root), **{name: content[name] for name in names}, maps=maps, unreadable_images=unreadable)
