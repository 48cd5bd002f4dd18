"""From a dataset to a folder of maps: which images, which estimator, what the folder is said to hold."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from ssl_loc.data.catalog import Dataset
from ssl_loc.data.image_io import read_image, read_size
from ssl_loc.data.masks import unique_keys
from ssl_loc.saliency.build import build_estimator
from ssl_loc.saliency.manifest import Manifest
from ssl_loc.saliency.runner import RunOptions, RunReport, items_of, run_estimator
from ssl_loc.saliency.store import MAX_REDUCE
from ssl_loc.utils.errors import ConfigError, DataError

# s; a day, well below what timers of operating systems hold.
LONGEST = 86400


def write_estimated_maps(
    dataset: Dataset,
    root: str | Path,
    *,
    method: str,
    preset: str = "",
    options: dict[str, Any] | None = None,
    reduce: int = 1,
    processes: int | None = None,
    time_limit: float = 60.0,
    **how: Any,
) -> tuple[Manifest, RunReport]:
    """Write ROOT/<key>.png for every image of ``dataset`` and the manifest; see ``saliency/runner.py``.

    Args:
        dataset: images; annotations are not needed.
        root: folder of the maps; must not hold the images.
        method: registered estimator.
        preset: of the estimator; "" is its default.
        options: further options of the estimator.
        reduce: store maps at 1 / ``reduce`` of the image size.
        processes: None takes one per processor; 0 works in this one, without a time limit.
        time_limit: seconds per image.
        how: shard, overwrite, retry, max_bad, progress of ``saliency.runner.RunOptions``.

    Raises:
        ConfigError: unknown method, preset or option, or a number out of range.
        DataError: two images share a map, the folder holds other things, or too many images have no map.
    """
    _check_numbers(reduce, processes, time_limit, how.get("max_bad"))
    estimator = build_estimator(method, preset, **(options or {}))
    unique_keys(dataset.records)
    _keep_apart(dataset, root)
    said = [estimator.preset, *(f"{key}={_name(value)}" for key, value in sorted((options or {}).items()))]
    said += [f"at 1/{reduce}"] if reduce > 1 else []
    run = RunOptions(
        preset=" ".join(filter(None, said)),
        reduce=reduce,
        processes=available_processors() if processes is None else processes,
        time_limit=time_limit,
        **how,
    )
    items = items_of(dataset.records)
    trim = _same_trim(dataset)
    read, size = partial(read_image, trim_bottom=trim), partial(read_size, trim_bottom=trim)
    return run_estimator(estimator, items, str(root), read=read, read_size=size, options=run)


def _same_trim(dataset: Dataset) -> int:
    """Rows left out at the bottom of every image: workers are told once, not image by image."""
    found = {record.trim_bottom for record in dataset.records}
    if len(found) > 1:
        raise DataError(
            f"the images of '{dataset.name}' leave out different numbers of rows ({sorted(found)}); make the maps of "
            "each part in a command of its own"
        )
    return found.pop() if found else 0


def _check_numbers(reduce: int, processes: int | None, time_limit: float, max_bad: float | None) -> None:
    if not 1 <= reduce <= MAX_REDUCE:
        raise ConfigError(f"--reduce is {reduce}; expected 1 to {MAX_REDUCE}")
    if not 0 < time_limit <= LONGEST:
        raise ConfigError(f"--time-limit is {time_limit}; expected seconds per image, above 0 and at most {LONGEST}")
    if processes is not None and processes < 0:
        raise ConfigError(f"--workers is {processes}; expected a number of processes, or 0 to work in this one")
    if max_bad is not None and not 0 <= max_bad <= 1:
        raise ConfigError(f"--max-bad is {max_bad}; expected a share of the images, 0 to 1")


def _name(value: Any) -> Any:
    """An option as it is written down: of a file its name, wherever it lies."""
    return Path(value).name if isinstance(value, str) and Path(value).is_file() else value


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_apart(dataset: Dataset, root: str | Path) -> None:
    """Maps beside the photos would be taken for photos by the next command that lists the folder."""
    folder = Path(root).resolve()
    for record in dataset.records[:1]:
        stem = os.path.splitext(record.path)[0]
        images = Path(stem.removesuffix(record.key) if stem.endswith(f"/{record.key}") else stem + "/..").resolve()
        if folder == images or images in folder.parents:
            raise DataError(
                f"--out {root} lies inside the folder of the images ({images}), so its maps would be taken for images; "
                "give a folder elsewhere"
            )
