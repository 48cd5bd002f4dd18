"""Frozen trunk features of images: taken once per weights, images, transform and pooling; kept in memory and on disk.

A **pooling** is "gap" (the trunk's own pooled vector) or "LEVEL:N", e.g. "res5:2": that level averaged to N x N cells
and flattened, channels first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssl_loc.config import CfgNode
from ssl_loc.data.eval_transforms import eval_transform, find_transform
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.data.records import RecordTable
from ssl_loc.data.workers import WorkerSetup
from ssl_loc.evaluation.feature_cache import FeatureCache
from ssl_loc.evaluation.weights import Trunk, Weights
from ssl_loc.modeling import Backbone
from ssl_loc.utils.env import package_version
from ssl_loc.utils.errors import ConfigError, DataError, UserError
from ssl_loc.utils.precision import full_precision
from ssl_loc.utils.progress import progress_bar

__all__ = ["FeatureOptions", "ImageSource", "eval_transform", "extract", "extract_split", "state_digest"]

GAP = "gap"
_POOLING = re.compile(r"(res[2-5]):([1-9]\d?)")
# WORKERS = -1: decode in other processes from this number of images on; starting them takes longer for fewer.
_MANY_IMAGES, _MOST_WORKERS = 2000, 8


class ImageSource(Protocol):
    """Images in a fixed order; :class:`LabelledSplit` is one."""

    name: str
    records: RecordTable

    def __len__(self) -> int: ...

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W)."""


@dataclass(frozen=True)
class FeatureOptions:
    """How features are taken.

    Attributes:
        size: input side in px (0 = the size the weights were trained on).
        batch_size: images per forward.
        transform: "center" (shorter side 256 / 224 of the size, central square), "square" (aspect ignored) or "whole".
        pool: pooling, see above.
        cache: folder for features on disk; "" keeps them in memory only.
        workers: processes that decode; 0 = this one, -1 = several for large sets.
    """

    size: int = 0
    batch_size: int = 64
    transform: str = "center"
    pool: str = GAP
    cache: str = ""
    workers: int = 0

    @classmethod
    def from_options(cls, options: CfgNode, **changes: Any) -> FeatureOptions:
        """The shared options, with ``changes`` of a protocol."""
        shared = {"size": options.SIZE, "batch_size": options.BATCH_SIZE}
        shared |= {"cache": options.CACHE, "workers": options.WORKERS}
        return cls(**{**shared, **changes})

    def input_size(self, weights: Weights) -> int:
        return self.size or weights.input_size()


def extract_split(weights: Weights, split: LabelledSplit, options: FeatureOptions) -> tuple[Tensor, Tensor]:
    """Features float32 (N, D) and labels int64 (N,) of a split; the trunk is checked not to have changed."""
    return extract(weights, split, options)[0], split.labels()


def extract(weights: Weights, source: ImageSource, options: FeatureOptions, pools: Sequence[str] = ()) -> list[Tensor]:
    """Features float32 (N, D), one per pooling (``options.pool`` alone by default), from one pass over the images.

    What is in memory (``weights.cache``) or in ``options.cache`` is not computed again.

    Raises:
        DataError: an image cannot be read.
    """
    pools = list(pools) or [options.pool]
    size = options.input_size(weights)
    here = {pool: ("features", source.name, len(source), size, options.transform, pool) for pool in pools}
    missing = [pool for pool in pools if here[pool] not in weights.cache]
    if missing:
        trunk = weights.trunk()
        keys = {pool: cache_key(trunk, source, size, options.transform, pool) for pool in missing}
        if options.cache:
            stored = {pool: FeatureCache(options.cache).load(keys[pool]) for pool in missing}
            weights.cache |= {here[pool]: found for pool, found in stored.items() if found is not None}
            missing = [pool for pool in missing if stored[pool] is None]
        taken = _take(trunk, source, size, options, {pool: keys[pool] for pool in missing}) if missing else {}
        weights.cache |= {here[pool]: features for pool, features in taken.items()}
    return [weights.cache[here[pool]] for pool in pools]


def cache_key(trunk: Trunk, source: ImageSource, size: int, transform: str, pool: str) -> dict[str, Any]:
    """All that features depend on, as plain values: the trunk's bytes and form, the images, how they are shown."""
    return {
        "trunk": state_digest(trunk.backbone),
        "network": trunk.backbone.describe(),
        "pixel": [trunk.mean.flatten().tolist(), trunk.std.flatten().tolist()],
        "images": images_digest(source.records),
        "size": size,
        "transform": transform,
        "pool": pool,
        # Kernels of another version or device round differently.
        "torch": package_version("torch"),
        "device": trunk.mean.device.type,
    }


def _take(
    trunk: Trunk, source: ImageSource, size: int, options: FeatureOptions, keys: dict[str, dict[str, Any]]
) -> dict[str, Tensor]:
    before = state_digest(trunk.backbone)
    pools = list(keys)
    cache = FeatureCache(options.cache) if options.cache else None
    rows: dict[str, list[Tensor]] = {pool: [] for pool in pools}
    with ExitStack() as stack:
        writers = {p: stack.enter_context(cache.writer(keys[p], len(source))) for p in pools} if cache else {}
        bar = stack.enter_context(progress_bar(total=len(source), desc=f"features of {source.name}", unit="image"))
        for images in load_batches(source, size, options):
            for pool, features in zip(pools, pool_images(trunk, images, pools), strict=True):
                if not bool(features.isfinite().all()):
                    raise DataError(f"features of {source.name} are not finite: the weights hold NaN or are too large")
                writers[pool].put(features) if writers else rows[pool].append(features)
            bar.update(len(images))
    assert state_digest(trunk.backbone) == before, "the frozen trunk changed while its features were taken"
    if cache is None:
        return {pool: torch.cat(rows[pool]) for pool in pools}
    return {pool: cache.read_back(keys[pool]) for pool in pools}


def pool_images(trunk: Trunk, images: Tensor, pools: Sequence[str]) -> list[Tensor]:
    """uint8 (N, 3, h, w) -> one float32 (N, D) per pooling, on the CPU; no gradient."""
    with torch.no_grad():
        x = (images.to(trunk.mean.device).float() - trunk.mean) / trunk.std
        maps = trunk.backbone(x)
        return [pool_maps(trunk.backbone, maps, pool).float().cpu() for pool in pools]


def pool_maps(backbone: Backbone, maps: dict[str, Tensor], pool: str) -> Tensor:
    """One pooling of a trunk's maps, see the module's text."""
    if pool == GAP:
        return backbone.pooled(maps)
    form = _POOLING.fullmatch(pool)
    if form is None or form[1] not in maps:
        raise ConfigError(
            f"pooling is '{pool}'; expected '{GAP}' or LEVEL:N with a level of {', '.join(maps)} (res5:2)"
        )
    return F.adaptive_avg_pool2d(full_precision(maps[form[1]]), int(form[2])).flatten(1)


def load_batches(source: ImageSource, size: int, options: FeatureOptions) -> Iterator[Tensor]:
    """The images in order, as uint8 batches (n, 3, size, size)."""
    setup = WorkerSetup()
    loader = DataLoader(
        _Pixels(source, size, options.transform),
        batch_size=options.batch_size,
        num_workers=worker_count(options.workers, len(source)),
        collate_fn=stack_images,
        worker_init_fn=setup,
        # Torch draws a seed for the workers; from a generator of its own, so that nobody else's numbers change.
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        setup.end()


def worker_count(workers: int, images: int) -> int:
    """``WORKERS``: itself, or for -1 as many as there are cores (at most 8) where the images are many."""
    if workers >= 0:
        return workers
    return min(_MOST_WORKERS, os.cpu_count() or 1) if images >= _MANY_IMAGES else 0


class _Pixels(TorchDataset):
    """Square images; an error meant for the user comes through as a value, which torch does not wrap."""

    def __init__(self, source: ImageSource, size: int, transform: str) -> None:
        self.source, self.size, self.transform = source, size, find_transform(transform)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor | UserError:
        try:
            return self.transform(self.source.image(index), self.size)
        except UserError as error:
            return error.with_traceback(None)


def stack_images(images: list[Tensor | UserError]) -> Tensor | UserError:
    """A batch, or the first error among the images."""
    for image in images:
        if isinstance(image, UserError):
            return image
    return torch.stack([image for image in images if isinstance(image, Tensor)])


def images_digest(records: RecordTable) -> str:
    """Digest of the files behind records, in order: path, size, time of change, rows left out."""
    digest = hashlib.sha256()
    for record in records:
        try:
            stat = os.stat(record.path)
            state = f"{stat.st_size}:{stat.st_mtime_ns}"
        except OSError:
            state = "missing"  # reading it will say so
        digest.update(f"{Path(record.path).absolute()}|{state}|{record.trim_bottom}\n".encode())
    return digest.hexdigest()


def state_digest(module: nn.Module) -> str:
    """Digest of every parameter and buffer, byte for byte."""
    digest = hashlib.sha256()
    for name, value in _sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sorted(items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(items, key=lambda item: item[0])
