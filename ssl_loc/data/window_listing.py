"""The quiet windows of a dataset's images, from a folder of its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_loc.data.catalog import Dataset
from ssl_loc.data.image_check import UNREADABLE, image_sizes
from ssl_loc.saliency.manifest import read_manifest
from ssl_loc.saliency.windows import WindowList, list_windows


def window_list(dataset: Dataset, root: str | Path, **settings: Any) -> WindowList:
    """Windows of every readable image of ``dataset``; ``settings`` as in ``saliency.windows.list_windows``.

    Raises:
        DataError: ``root`` has no manifest.
    """
    sizes = image_sizes(dataset.records)
    images = (
        (record.key, str(Path(record.path).absolute()), (int(height), int(width)))
        for record, (height, width) in zip(dataset.records, sizes, strict=True)
        if height != UNREADABLE
    )
    return list_windows(images, root, maps=read_manifest(root).info(), total=len(dataset), **settings)
