"""Folders of saliency maps under evaluation, and the masks they are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.ground_truth import rasterize
from ssl_loc.data.image_io import read_map, read_size
from ssl_loc.data.labelled import even_sample
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.weights import MAPS, Weights
from ssl_loc.saliency.manifest import MANIFEST_NAME, read_manifest
from ssl_loc.utils.errors import ConfigError, DataError

FOLDER = "folder:"


def pictures_by_stem(folder: str | Path) -> dict[str, str]:
    """Key (path below ``folder`` without suffix) -> file, for every picture of any suffix.

    Raises:
        DataError: there is none, or two differ in their suffix only.
    """
    found: dict[str, str] = {}
    for name in list_files(folder) if Path(folder).is_dir() else ():
        key = stem(name)
        if key in found:
            raise DataError(f"{found[key]} and {name} differ in their suffix only; expected one picture per image")
        found[key] = str(Path(folder) / name)
    if not found:
        raise DataError(f"no pictures in {folder}; expected a folder with one grey picture per image")
    return found


def open_maps(given: str) -> Weights:
    """A folder of maps, ``[LABEL=]DIR``, in the place where protocols expect weights.

    The digest is that of the names and sizes of its files.
    """
    label, folder = given.split("=", 1) if "=" in given and not Path(given).exists() else ("", given)
    files = pictures_by_stem(folder)
    digest = hashlib.blake2b(digest_size=8)
    for key, path in sorted(files.items()):
        digest.update(f"{key}:{Path(path).stat().st_size};".encode())
    meta = {}
    if (Path(folder) / MANIFEST_NAME).is_file():
        info = read_manifest(folder).info()
        meta = {"mask_source": info, "uses_labels": info["uses_labels"]}
    return Weights(folder, label or Path(folder).resolve().name, MAPS, digest.hexdigest(), None, meta)


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """True if one size (h, w) is the other one scaled, give or take a pixel of the smaller: maps may be stored small.

    What is turned by 90 degrees, cropped or squeezed to a square is not.
    """
    (h, w), (tall, wide) = sorted((a, b), key=lambda size: size[0] * size[1])
    # The scales at which the larger side would round to the smaller one, for rows and columns, have to overlap.
    return (h - 1) * wide < (w + 1) * tall and (w - 1) * tall < (h + 1) * wide


@dataclass(frozen=True)
class Masks:
    """The masks to compare with.

    Attributes:
        names: the images, in order.
        read: name -> uint8 (H, W), above 127 the object.
    """

    names: list[str]
    read: Callable[[str], np.ndarray]


def open_masks(data: EvalData) -> Masks:
    """Masks of ``--masks folder:DIR`` (by stem, of the images of ``--data`` where it is given), or a dataset's objects.

    Raises:
        ConfigError: neither ground_truth nor folder:DIR.
        DataError: there are no masks.
    """
    if data.masks.startswith(FOLDER):
        files = pictures_by_stem(data.masks.removeprefix(FOLDER))
        names = list(files)
        if data.spec:
            names = [record.key for record in get_dataset(data.spec).records if record.key in files]
            if not names:
                raise DataError(f"{data.masks} has no mask for any image of {data.spec}; names must agree")
        return Masks(_limited(names, data.limit), lambda name: read_map(files[name]))
    if data.masks != "ground_truth":
        raise ConfigError(f"--masks is '{data.masks}'; expected ground_truth or folder:DIR")
    if not data.spec:
        raise ConfigError(
            "maps are compared with masks; expected --masks folder:DIR, or --data with a dataset's objects"
        )
    dataset = get_dataset(data.spec, annotations=True)
    if not any(record.boxes is not None for record in dataset.records):
        raise DataError(
            f"{data.spec} has no boxes or masks; expected --masks folder:DIR, or a dataset with annotations"
        )
    index = {record.key: i for i, record in enumerate(dataset.records)}

    def draw(name: str) -> np.ndarray:
        record = dataset.records[index[name]]
        return rasterize(record, read_size(record.path, record.trim_bottom))

    return Masks(_limited(list(index), data.limit), draw)


def _limited(names: list[str], limit: int) -> list[str]:
    """An even sample of the names."""
    return [names[i] for i in even_sample(len(names), limit).tolist()]
