"""Where an image's mask comes from (``DATA.MASKS``), decided and checked once, when the loader is built."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from ssl_loc.config import CfgNode
from ssl_loc.data.ground_truth import has_objects, rasterize
from ssl_loc.data.image_check import UNREADABLE, image_sizes
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.saliency.manifest import read_manifest
from ssl_loc.saliency.store import MAX_REDUCE, MapReport, MapStore, check_maps, first_names, reduce_mask
from ssl_loc.utils.errors import ConfigError, DataError, check_choice

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")
SOURCES = ("none", "folder", "ground_truth")
BAD_POLICIES = ("error", "skip_att")
EMPTY_POLICIES = ("drop", "skip_att")


class MaskSource(Protocol):
    """Gives each image its mask. ``info`` says where masks come from; it travels with the trained weights."""

    info: dict[str, Any]

    def load(self, index: int, record: Record, size: tuple[int, int]) -> np.ndarray | None:
        """Mask uint8 (h, w) with 0..255 of image ``index`` with size (H, W), or None if it is trained without one."""

    def load_graded(self, index: int, record: Record, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        """The mask, and the map it was made from, which keeps its grey values; both (h, w)."""


@dataclass
class NoMasks:
    """Every image is trained without a mask."""

    info: dict[str, Any] = field(default_factory=lambda: {"source": "none", "estimator": "", "uses_labels": False})

    def load(self, index: int, record: Record, size: tuple[int, int]) -> np.ndarray | None:
        return None

    def load_graded(self, index: int, record: Record, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        return None


@dataclass
class FolderMasks:
    """Masks from a folder of maps; ``usable`` is bool (dataset size,)."""

    store: MapStore
    usable: np.ndarray
    on_bad: str
    info: dict[str, Any]

    def load(self, index: int, record: Record, size: tuple[int, int]) -> np.ndarray | None:
        return self._read(self.store.load, index, record, size)

    def load_graded(self, index: int, record: Record, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        return self._read(self.store.load_graded, index, record, size)

    def _read(
        self, load: Callable[[str, tuple[int, int]], _T], index: int, record: Record, size: tuple[int, int]
    ) -> _T | None:
        if not self.usable[index]:
            return None
        try:
            return load(record.key, size)
        except DataError as error:
            if self.on_bad == "error":
                raise
            _LOGGER.warning("%s; the image is trained without a mask", error)
            return None


@dataclass
class GroundTruthMasks:
    """Union of the image's own objects."""

    reduce: int
    info: dict[str, Any] = field(
        default_factory=lambda: {"source": "ground_truth", "estimator": "ground_truth", "uses_labels": True}
    )

    def load(self, index: int, record: Record, size: tuple[int, int]) -> np.ndarray | None:
        if not has_objects(record):
            return None
        mask = rasterize(record, size)
        if not mask.any():
            _LOGGER.warning("the objects of %s cover no pixel; the image is trained without a mask", record.path)
            return None
        return reduce_mask(mask, size, self.reduce)

    def load_graded(self, index: int, record: Record, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
        mask = self.load(index, record, size)
        return None if mask is None else (mask, mask)  # objects have no grey values


def build_masks(cfg: CfgNode, records: RecordTable, sizes: np.ndarray) -> tuple[MaskSource, np.ndarray]:
    """Check the masks of ``records`` and apply the policies of ``DATA.MASKS``.

    Args:
        cfg: the config.
        records: images.
        sizes: int (len(records), 2), heights and widths; -1 where unknown.

    Returns:
        The mask source, and the positions of the records to keep (images with empty masks may be dropped). The source
        counts images as in ``records.select(positions)``.

    Raises:
        ConfigError, DataError: with the key, the counts and the first names.
    """
    node = cfg.DATA.MASKS
    check_choice("DATA.MASKS.SOURCE", node.SOURCE, SOURCES)
    check_choice("DATA.MASKS.ON_BAD", node.ON_BAD, BAD_POLICIES)
    check_choice("DATA.MASKS.EMPTY", node.EMPTY, EMPTY_POLICIES)
    if not 1 <= node.REDUCE <= MAX_REDUCE:
        raise ConfigError(f"DATA.MASKS.REDUCE is {node.REDUCE}; expected 1 to {MAX_REDUCE}")
    if not 0 <= node.THRESHOLD < 255:
        raise ConfigError(f"DATA.MASKS.THRESHOLD is {node.THRESHOLD}; expected a grey value, 0 to 254")
    if node.SOURCE == "none":
        return NoMasks(), np.arange(len(records))
    if node.SOURCE == "ground_truth":
        return _ground_truth(node, records)
    return _folder(node, records, sizes)


def _ground_truth(node: CfgNode, records: RecordTable) -> tuple[MaskSource, np.ndarray]:
    if not any(record.boxes is not None for record in records):
        raise DataError(
            "DATA.MASKS.SOURCE is 'ground_truth' but the dataset of DATA.TRAIN has no boxes or masks; expected one "
            "with annotations (coco:..., voc:..., scenes:...), or set DATA.MASKS.SOURCE folder with DATA.MASKS.ROOT"
        )
    empty = np.array([not has_objects(record) for record in records])
    names = [records[int(i)].key for i in np.flatnonzero(empty)]
    return GroundTruthMasks(node.REDUCE), _keep(node, empty, names)


def _folder(node: CfgNode, records: RecordTable, sizes: np.ndarray) -> tuple[MaskSource, np.ndarray]:
    if not node.ROOT:
        raise ConfigError("DATA.MASKS.SOURCE is 'folder' but DATA.MASKS.ROOT is empty; set it to the folder of maps")
    store = MapStore(node.ROOT, node.THRESHOLD, node.REDUCE)
    manifest = store.manifest()
    keys = unique_keys(records)
    report = check_maps(manifest, dict(zip(keys, _known(sizes), strict=True)), node.THRESHOLD)
    for line in report.lines():
        _LOGGER.info("maps in %s: %s", node.ROOT, line)
    bad, empty = report.bad_keys, set(report.empty)
    if bad and node.ON_BAD == "error":
        raise DataError(bad_maps_message(node.ROOT, report))
    if bad:
        _LOGGER.warning("%d of %d images are trained without a mask (DATA.MASKS.ON_BAD)", len(bad), len(keys))
    is_empty = np.array([key in empty for key in keys])
    if is_empty.all() and len(keys) and node.EMPTY == "drop":
        raise DataError(_all_empty(node, max(manifest.maps[key].high for key in keys)))
    keep = _keep(node, is_empty, report.empty)
    usable = np.array([key not in bad and key not in empty for key in keys])[keep]
    return FolderMasks(store, usable, node.ON_BAD, {"source": "folder", **manifest.info()}), keep


def check_dataset_maps(records: RecordTable, root: str, threshold: int) -> MapReport:
    """Compare a folder of maps with the images of a dataset (what ``tools/make_saliency.py --check`` prints)."""
    manifest = read_manifest(root)
    sizes = dict(zip(unique_keys(records), _known(image_sizes(records)), strict=True))
    return check_maps(manifest, sizes, threshold, measure=True)


def bad_maps_message(root: str, report: MapReport) -> str:
    """What is wrong with a folder of maps and what can be done."""
    lines = "; ".join(f"{len(keys)} {kind}: {first_names(keys)}" for kind, keys in report.bad.items() if keys)
    return (
        f"{len(report.bad_keys)} of {report.checked} images have no usable map in {root} ({lines}); expected "
        "ROOT/<path of the image without suffix>.png. Make or list them with tools/make_saliency.py, or set "
        "DATA.MASKS.ON_BAD skip_att to train these images without a mask"
    )


def _all_empty(node: CfgNode, highest: int) -> str:
    """What to do where no map has a salient pixel."""
    text = (
        f"no image of DATA.TRAIN is left to train on: every map in {node.ROOT} is empty, since no grey value is above "
        f"DATA.MASKS.THRESHOLD ({node.THRESHOLD}); the highest is {highest}"
    )
    if highest == 0:
        return f"{text}, so the maps are black: make them again (tools/make_saliency.py)"
    kind = "the maps hold 0 and 1, not 0 and 255" if highest == 1 else "lower it"
    return f"{text}; {kind}: set DATA.MASKS.THRESHOLD {0 if highest == 1 else highest // 2}"


def _keep(node: CfgNode, empty: np.ndarray, names: list[str]) -> np.ndarray:
    if not empty.any():
        return np.arange(len(empty))
    done = "dropped" if node.EMPTY == "drop" else "kept without a mask"
    _LOGGER.warning(
        "%d of %d images have an empty mask and are %s (DATA.MASKS.EMPTY): %s",
        *(empty.sum(), len(empty), done, first_names(names)),
    )
    return np.flatnonzero(~empty) if node.EMPTY == "drop" else np.arange(len(empty))


def _known(sizes: np.ndarray) -> list[tuple[int, int] | None]:
    return [None if h == UNREADABLE else (int(h), int(w)) for h, w in sizes]


def unique_keys(records: RecordTable) -> list[str]:
    """The key of every record.

    Raises:
        DataError: two images share a key, and so would share a map.
    """
    seen: dict[str, str] = {}
    for record in records:
        other = seen.setdefault(record.key, record.path)
        if other != record.path:
            raise DataError(
                f"{other} and {record.path} would share the map '{record.key}.png'; expected image names that differ "
                "in more than their suffix"
            )
    return list(seen)
