"""Masks that an evaluation compares with: a dataset's own objects, or a folder of maps (no manifest needed)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssl_loc.data.catalog import Dataset
from ssl_loc.data.ground_truth import has_objects, rasterize
from ssl_loc.data.records import Record
from ssl_loc.saliency.map_io import MAP_SUFFIX
from ssl_loc.saliency.store import MapStore
from ssl_loc.utils.errors import ConfigError, DataError

# A map pixel is salient above this grey value (official CAST code: > 128 of 255).
THRESHOLD = 128
# (record, (H, W)) -> uint8 (H, W) 0 or 255, or None where the image has no mask.
MaskReader = Callable[[Record, tuple[int, int]], np.ndarray | None]


def mask_reader(masks: str, dataset: Dataset) -> MaskReader:
    """The reader meant by ``--masks``: "ground_truth" or "folder:DIR" (DIR/<key>.png).

    Raises:
        DataError: the dataset has no objects, or the folder has no map of any of its images.
    """
    if masks == "ground_truth":
        if not any(has_objects(record) for record in dataset.records):
            raise DataError(
                f"--masks is ground_truth but {dataset.name} has no boxes or masks; expected a dataset with "
                "annotations (coco:..., voc:..., scenes:...) or --masks folder:DIR"
            )
        return lambda record, size: rasterize(record, size) if has_objects(record) else None
    scheme, _, folder = masks.partition(":")
    if scheme != "folder" or not folder:
        raise ConfigError(f"--masks is '{masks}'; expected ground_truth or folder:DIR")
    if not Path(folder).is_dir():
        raise DataError(f"--masks names {folder}, which is no folder; expected DIR/<image path without suffix>.png")
    store = MapStore(folder, THRESHOLD)
    if not any(_path(store, record).is_file() for record in dataset.records):
        first = dataset.records[0].key
        raise DataError(
            f"{folder} has no map for any image of {dataset.name}; expected {first}{MAP_SUFFIX} for the first of them"
        )
    return lambda record, size: store.load(record.key, size) if _path(store, record).is_file() else None


def _path(store: MapStore, record: Record) -> Path:
    return Path(store.root) / f"{record.key}{MAP_SUFFIX}"
