"""Maps of a whole dataset: in processes, with a time limit per image, resumable, in shards.

Whatever happens to one image (no picture, no answer, too slow, process killed) is named, counted and bounded; the other
images go on. Every map is a function of its image alone, so workers, shards and restarts do not change a byte.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from ssl_loc.saliency.build import Estimator, SolveFailed
from ssl_loc.saliency.journal import Journal
from ssl_loc.saliency.manifest import (
    DEFAULT_THRESHOLD,
    Manifest,
    MapEntry,
    claim_folder,
    describe_array,
    write_manifest,
)
from ssl_loc.saliency.map_io import MAP_SUFFIX, write_map
from ssl_loc.saliency.resume import UNREADABLE, standing_maps
from ssl_loc.saliency.store import first_names, reduce_mask
from ssl_loc.saliency.timed_pool import DIED, OVERRUN, Outcome, run_timed
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import safe_join
from ssl_loc.utils.progress import progress_bar

_LOGGER = logging.getLogger(__name__)
FAILED = "failed"
# Kinds of images without an answer that get a black map, so that the folder stays complete.
STAND_INS = (FAILED, OVERRUN, DIED)
# A run stops when more than this share of its images, and more than a handful, had no answer: something is wrong then.
MAX_BAD_SHARE, HANDFUL = 0.05, 10
# What an estimator may raise for an odd image; anything else is a bug that should stop the run.
ESTIMATOR_ERRORS = (ArithmeticError, LookupError, ValueError, RuntimeError, MemoryError, cv2.error)


class Item(NamedTuple):
    """One image to make a map of."""

    key: str
    path: str
    label: int = -1


class Made(NamedTuple):
    """What a worker says of an image: the map's description, or none; "" or why there is no answer."""

    entry: list[Any] | None
    kind: str = ""
    reason: str = ""


@dataclass
class RunReport:
    """What a run did, and whether it was interrupted."""

    made: int = 0
    kept: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)
    interrupted: bool = False

    def line(self) -> str:
        """One line for the terminal."""
        words = [f"{self.made} made", f"{self.kept} kept"]
        words += [f"{len(keys)} {kind} ({first_names(keys)})" for kind, keys in self.bad.items()]
        return ", ".join(words)


@dataclass
class MapWorker:
    """Makes the map of one image; runs in the processes of the pool.

    Args:
        estimator: pixels to map.
        root: folder of the maps.
        read: path -> uint8 (H, W, 3), raising DataError for what is no picture.
        reduce: maps are stored at 1 / ``reduce`` of the image size.
    """

    estimator: Estimator
    root: str
    read: Callable[[str], np.ndarray]
    reduce: int = 1

    def prepare(self) -> None:
        """One thread per process, and everything compiled before the clock runs."""
        limits = [limit_threads()]
        warm(self.estimator)
        # The libraries that the estimator imported at its first call did not exist before.
        self._limits = [*limits, limit_threads()]

    def __call__(self, item: Item) -> Made:
        try:
            image = self.read(item.path)
        except DataError as error:
            return Made(None, UNREADABLE, str(error))
        kind = reason = ""
        size = (image.shape[0], image.shape[1])
        try:
            saliency = self.estimate(image, item)
        except (SolveFailed, *ESTIMATOR_ERRORS) as error:
            kind, reason = FAILED, f"{type(error).__name__}: {error}"
            saliency = np.zeros(size, dtype=np.float32)
        return Made(self.store(item.key, saliency, kind), kind, reason)

    def estimate(self, image: np.ndarray, item: Item) -> np.ndarray:
        """The map of an image; class-specific estimators are told its label."""
        for_label = getattr(self.estimator, "for_label", None)
        return (self.estimator if for_label is None else for_label(item.label))(image)

    def store(self, key: str, saliency: np.ndarray, kind: str = "") -> list[Any]:
        """Write a map (float32 in [0, 1]) and return its description."""
        path = safe_join(self.root, key + MAP_SUFFIX)
        grey = np.rint(saliency * 255).astype(np.uint8)
        grey = reduce_mask(grey, (grey.shape[0], grey.shape[1]), self.reduce)
        write_map(path, grey)
        entry = describe_array(grey, os.stat(path))
        return list(entry._replace(flags=[*entry.flags, kind] if kind else entry.flags))


def limit_threads() -> Any:
    """One thread for every library loaded so far; the result has to be kept."""
    from threadpoolctl import threadpool_limits

    cv2.setNumThreads(1)
    # PyTorch sets its threads anew at its first parallel call, from what the machine has.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    return threadpool_limits(1)


def warm(estimator: Estimator) -> None:
    """Call the estimator once on a small picture, so that compiled parts are ready.

    Compiled code is kept on disk: where the process that starts others does this first, it is compiled once and every
    process finds it. What keeps the estimator from working at all is also said once then.
    """
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[12:36, 16:48] = 200
    with suppress(SolveFailed):
        estimator(picture)


@dataclass(frozen=True)
class RunOptions:
    """How a run is done.

    Attributes:
        preset: what the folder is said to hold, where options were set beside the estimator's preset.
        reduce: store maps at 1 / ``reduce`` of the image size (area average).
        processes: how many; 0 uses this one, which keeps one thread from then on, and has no time limit.
        time_limit: seconds per image; an image that takes longer gets a black map, flagged "timeout".
        shard: (I, N): only every Nth image, from the Ith on.
        overwrite: make maps again that exist.
        retry: make maps again that stand in for an answer (flags "failed", "timeout", "died") or do not fit their
            image; unreadable ones are always made again.
        max_bad: largest share of images without an answer, those of earlier runs included; more stop the run. None is
            ``MAX_BAD_SHARE``, but never fewer than ``HANDFUL`` images.
        progress: show a bar.
    """

    preset: str = ""
    reduce: int = 1
    processes: int = 1
    time_limit: float = 60.0
    shard: tuple[int, int] = (0, 1)
    overwrite: bool = False
    retry: bool = False
    max_bad: float | None = None
    progress: bool = True

    def allowed(self, count: int) -> int:
        """How many of ``count`` images may have no answer."""
        if self.max_bad is None:
            return max(HANDFUL, int(MAX_BAD_SHARE * count))
        return int(self.max_bad * count + 1e-9)  # .29 of 100 are 29, not 28.999


def run_estimator(
    estimator: Estimator,
    items: Iterable[Item],
    root: str,
    *,
    read: Callable[[str], np.ndarray],
    read_size: Callable[[str], tuple[int, int]],
    options: RunOptions,
) -> tuple[Manifest, RunReport]:
    """Write ROOT/<key>.png for every item of this shard that has none, then the manifest.

    Args:
        estimator: makes the maps; its name, preset and version must be those of the folder.
        items: the images of the whole dataset, in an order that every shard sees.
        root: folder of the maps.
        read: path -> uint8 (H, W, 3); read_size: path -> (H, W), from the header.
        options: how.

    Raises:
        DataError: the folder holds other maps, or too many images have no answer.
    """
    identity: dict[str, Any] = {
        "estimator": estimator.name,
        "preset": options.preset or estimator.preset,
        "uses_labels": estimator.uses_labels,
        "version": estimator.version,
    }
    claim_folder(root, **identity, overwrite=options.overwrite, whole=options.shard[1] == 1)
    shell = Manifest(root, **identity, threshold=DEFAULT_THRESHOLD)
    mine = list(items)[options.shard[0] :: options.shard[1]]
    kept = _kept(mine, shell, options, read_size)
    todo = [item for item in mine if item.key not in kept]
    report = RunReport(kept=len(kept))
    if todo:
        worker = MapWorker(estimator, root, read, options.reduce)
        before = sum(any(flag in STAND_INS for flag in entry.flags) for entry in kept.values())
        answer = _Answers(shell, worker, read_size, report, options.allowed(len(mine)), before)
        modules = [type(estimator).__module__, read.__module__]
        outcomes = run_timed(worker, todo, min(options.processes, len(todo)), options.time_limit, modules)
        bar = progress_bar(outcomes, total=len(todo), desc=estimator.name, unit="map", show=options.progress)
        try:
            with Journal(root, shell.info(), options.shard) as journal, closing(outcomes):
                if options.processes:
                    warm(estimator)  # here first: see there
                for outcome in bar:
                    answer(outcome, journal)
        except KeyboardInterrupt:
            report.interrupted = True
    return write_manifest(root, **identity, measured=kept, progress=options.progress), report


def _kept(
    items: list[Item], shell: Manifest, options: RunOptions, read_size: Callable[[str], tuple[int, int]]
) -> dict[str, MapEntry]:
    """The maps that need not be made; ``retry`` also looks whether they fit their images."""
    if options.overwrite:
        return {}
    flags = (UNREADABLE, *STAND_INS) if options.retry else (UNREADABLE,)
    paths = {item.key: item.path for item in items}
    return standing_maps(shell, paths, flags, read_size if options.retry else None).kept


@dataclass
class _Answers:
    """Writes down what came of each image, and stops the run when too much goes wrong."""

    shell: Manifest
    worker: MapWorker
    read_size: Callable[[str], tuple[int, int]]
    report: RunReport
    allowed: int
    before: int = 0

    def __call__(self, outcome: Outcome, journal: Journal) -> None:
        item: Item = outcome.task
        made: Made = outcome.result if not outcome.problem else self.stand_in(item, outcome.problem)
        journal.add(item.key, made.entry, made.reason)
        if not made.kind:
            self.report.made += 1
            return
        _LOGGER.warning("%s: %s%s", made.kind, item.path, f" ({made.reason})" if made.reason else "")
        self.report.bad.setdefault(made.kind, []).append(item.key)
        bad = self.before + sum(map(len, self.report.bad.values()))
        if bad > self.allowed:
            kinds = "; ".join(f"{len(keys)} {kind}: {first_names(keys)}" for kind, keys in self.report.bad.items())
            kinds += f"; {self.before} of earlier runs, which --retry makes again" if self.before else ""
            raise DataError(
                f"{bad} images have no map, more than the {self.allowed} that --max-bad allows ({kinds}); look at "
                f"these files, or at the time limit. The maps made so far are kept in {self.shell.root}"
            )

    def stand_in(self, item: Item, problem: str) -> Made:
        """A black map for an image that was stopped; what its process left half-written is removed."""
        path = safe_join(self.shell.root, item.key + MAP_SUFFIX)
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink(missing_ok=True)
        try:
            size = self.read_size(item.path)
        except DataError as error:
            return Made(None, UNREADABLE, str(error))
        return Made(self.worker.store(item.key, np.zeros(size, dtype=np.float32), problem), problem)


def shard_of(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8): the shards are 0/8 to 7/8.

    Raises:
        ConfigError: anything else.
    """
    first, _, count = text.partition("/")
    if first.isdecimal() and count.isdecimal() and int(first) < int(count):
        return int(first), int(count)
    raise ConfigError(f"--shard is '{text}'; expected I/N with I from 0 to N-1, e.g. 0/4 to 3/4")


def items_of(records: Iterable[Any]) -> Iterator[Item]:
    """Items of dataset records (key, path, label)."""
    return (Item(record.key, record.path, record.label) for record in records)
