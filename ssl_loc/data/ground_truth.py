"""Masks from a dataset's own objects: an oracle that uses labels, for upper bounds and tests."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ssl_loc import __version__
from ssl_loc.data.catalog import Dataset
from ssl_loc.data.image_io import read_size
from ssl_loc.data.records import Record, Segment
from ssl_loc.saliency.manifest import Manifest, claim_folder, write_manifest
from ssl_loc.saliency.map_io import write_map
from ssl_loc.saliency.resume import standing_maps
from ssl_loc.saliency.store import reduce_mask
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import safe_join
from ssl_loc.utils.progress import progress_bar


def rasterize(record: Record, size: tuple[int, int], prefer: str = "masks") -> np.ndarray:
    """Union of the objects of a record -> uint8 (H, W), 0 or 255.

    Args:
        record: with boxes, and segments where the dataset has them (polygons and run-length code, crowds included).
        size: (H, W) of the image.
        prefer: "masks" uses segments where there are any, "boxes" always the boxes.
    """
    if prefer == "masks" and record.segments is not None:
        return union_of_segments(record.segments, size)
    return union_of_boxes(np.zeros((0, 4)) if record.boxes is None else record.boxes, size)


def union_of_boxes(boxes: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies in one of the boxes (XYXY, half-open) -> uint8 (H, W), 0 or 255."""
    mask = np.zeros(size, dtype=np.uint8)
    for box in boxes:
        x1, y1, x2, y2 = (max(0, math.ceil(float(v) - 0.5)) for v in box)
        mask[y1:y2, x1:x2] = 255
    return mask


def union_of_segments(segments: Iterable[Segment], size: tuple[int, int]) -> np.ndarray:
    """Union of COCO segments, rasterised by pycocotools -> uint8 (H, W), 0 or 255."""
    codes: list[dict[str, Any]] = []
    for segment in segments:
        if isinstance(segment, dict):
            codes.append(_compressed(segment, size))
        elif len(segment):
            codes += coco_mask.frPyObjects([np.asarray(p, dtype=np.float64).tolist() for p in segment], *size)
    if not codes:
        return np.zeros(size, dtype=np.uint8)
    return coco_mask.decode(coco_mask.merge(codes)) * np.uint8(255)


def _compressed(code: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    if tuple(code["size"]) != tuple(size):
        raise DataError(f"run-length mask has size {code['size']}, its image {list(size)}; expected the same")
    return coco_mask.frPyObjects(code, *size) if isinstance(code["counts"], list) else code


def has_objects(record: Record) -> bool:
    """True if the record has a box of at least one pixel; decides at build what counts as an empty mask."""
    if record.boxes is None or not len(record.boxes):
        return False
    extent = record.boxes[:, 2:] - record.boxes[:, :2]
    return bool((extent >= 1).all(axis=1).any())


def write_ground_truth_maps(
    dataset: Dataset,
    root: str | Path,
    *,
    prefer: str = "masks",
    reduce: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Write ROOT/<key>.png for every record, and the manifest.

    Each file is written atomically and readable files that exist are kept, so an interrupted run is continued by
    running it again. With ``reduce`` N the maps are stored at 1/N of the image size (N^2 times less to decode).

    Raises:
        DataError: the dataset has no objects, or the folder holds other maps.
    """
    if not any(record.boxes is not None for record in dataset.records):
        raise DataError(
            f"dataset '{dataset.name}' has no boxes or masks; expected one with annotations "
            "(coco:..., voc:..., scenes:...)"
        )
    preset = prefer if reduce == 1 else f"{prefer} at 1/{reduce}"
    identity: dict[str, Any] = {
        "estimator": "ground_truth",
        "preset": preset,
        "uses_labels": True,
        "version": __version__,
    }
    claim_folder(root, **identity, overwrite=overwrite)
    shell = Manifest(str(root), **identity)
    kept = {} if overwrite else standing_maps(shell, {record.key: record.path for record in dataset.records}).kept
    for record in progress_bar(dataset.records, desc="ground truth", unit="map", show=progress):
        if record.key not in kept:
            size = read_size(record.path, record.trim_bottom)
            write_map(safe_join(root, f"{record.key}.png"), reduce_mask(rasterize(record, size, prefer), size, reduce))
    return write_manifest(root, **identity, measured=kept, progress=progress)
