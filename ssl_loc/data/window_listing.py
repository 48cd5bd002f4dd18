"""The quiet windows of a dataset's images, from a folder of its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssl_loc.data.catalog import Dataset
from ssl_loc.data.image_check import UNREADABLE, image_sizes
from ssl_loc.saliency.manifest import read_manifest
from ssl_loc.saliency.store import first_names
from ssl_loc.saliency.windows import WindowList, list_windows
from ssl_loc.utils.errors import DataError


def window_list(dataset: Dataset, root: str | Path, **settings: Any) -> WindowList:
    """Windows of every readable image of ``dataset``; ``settings`` as in ``saliency.windows.list_windows``.

    Raises:
        DataError: ``root`` has no manifest, or maps of other images; or no image has a quiet window.
    """
    manifest = read_manifest(root)
    keys = [record.key for record in dataset.records]
    if not any(key in manifest.maps for key in keys):
        raise DataError(
            f"{root} lists {len(manifest.maps)} maps of {manifest.estimator} ({first_names(list(manifest.maps))}), "
            f"none of them of the {len(keys)} images of {dataset.name} ({first_names(keys)}); expected the folder that "
            "tools/make_saliency.py made of these images"
        )
    sizes = image_sizes(dataset.records)
    images = (
        (record.key, str(Path(record.path).absolute()), (int(height), int(width)))
        for record, (height, width) in zip(dataset.records, sizes, strict=True)
        if height != UNREADABLE
    )
    found = list_windows(images, root, maps=manifest.info(), total=len(dataset), **settings)
    if not found.windows:
        raise DataError(_no_window(found, int(np.median(sizes[sizes[:, 0] > 0].min(axis=1)))))
    return found


def _no_window(found: WindowList, short_side: int) -> str:
    """What to do where no image has a window."""
    side, mean, high = (found.settings[name] for name in ("side", "max_mean", "max_max"))
    if found.nearest is None:
        return f"no image has a usable map ({first_names(found.missing)}); make_saliency.py --check says why"
    text = (
        f"none of {found.salient} images has a window of {side} px with mean saliency up to {mean} and maximum up to "
        f"{high}; the quietest has {found.nearest.mean:.3f} and {found.nearest.high:.3f}"
    )
    if 2 * side > short_side:
        smaller = max(1, short_side // 3)
        text += f". The shorter side of the images is {short_side} px: take smaller windows, --side {smaller}"
    return f"{text}, or raise --max-mean and --max-max"
