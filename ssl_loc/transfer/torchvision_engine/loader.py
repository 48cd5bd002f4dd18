"""The infinite training stream and the finite test stream."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ssl_loc.transfer.datasets import get_detection_datasets, require_masks
from ssl_loc.transfer.recipe import Recipe, dataset_names
from ssl_loc.transfer.torchvision_engine.mapper import Example, Mapper
from ssl_loc.utils.comm import get_rank, get_world_size
from ssl_loc.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


class Records(Dataset):
    """Maps (position in the stream, record index) to an :class:`Example`."""

    def __init__(self, records: list[dict[str, Any]], mapper: Mapper) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        position, index = key
        return self.mapper(self.records[index], position)


class OrientedBatches(Sampler[list[tuple[int, int]]]):
    """Infinite batches of (position, index) for one process.

    The stream is shuffle(all) + shuffle(all) + ...; process r takes every ``world``-th entry from r on and collects
    landscape and portrait images into separate batches, so that little is padded. The same arguments always give the
    same batches, which is how a resumed run finds its place: it replays the (cheap) index stream.

    Args:
        landscape: per record, whether it is wider than high; None to batch in stream order.
        start: batches to skip.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        seed: int,
        landscape: list[bool] | None = None,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
    ) -> None:
        self.size = size
        self.batch = batch
        self.seed = seed
        self.landscape = landscape
        self.rank = rank
        self.world = world
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        buckets: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, index in itertools.islice(enumerate(self._indices()), self.rank, None, self.world):
            wide = self.landscape[index] if self.landscape is not None else False
            buckets[wide].append((position, index))
            if len(buckets[wide]) == self.batch:
                yield buckets[wide]
                buckets[wide] = []

    def _indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.size, generator=generator).tolist()


def training_records(recipe: Recipe) -> list[dict[str, Any]]:
    """Records of DATASETS.TRAIN, without images that have nothing to learn from (unless the recipe keeps them)."""
    dataset = get_detection_datasets(dataset_names(recipe.DATASETS.TRAIN))
    if len(dataset.classes) != recipe.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {recipe.MODEL.ROI_HEADS.NUM_CLASSES} but {dataset.name} has "
            f"{len(dataset.classes)} classes; set the key to {len(dataset.classes)}"
        )
    if recipe.MODEL.MASK_ON:
        require_masks(dataset)
    records = dataset.dicts
    if recipe.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
        logger.info(
            "training on %s: %d images, %d without objects left out", dataset.name, len(kept), len(records) - len(kept)
        )
        records = kept
    if not records:
        raise DataError(f"{dataset.name} has no image with an object; nothing to train on")
    return records


def training_loader(recipe: Recipe, records: list[dict[str, Any]], start: int = 0) -> Iterator[list[Example]]:
    """Endless batches of this process, from batch ``start`` on."""
    world = get_world_size()
    if recipe.SOLVER.IMS_PER_BATCH % world:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {recipe.SOLVER.IMS_PER_BATCH}, which {world} processes cannot share evenly"
        )
    wide = [r["width"] > r["height"] for r in records] if recipe.DATALOADER.ASPECT_RATIO_GROUPING else None
    batches = OrientedBatches(
        len(records), recipe.SOLVER.IMS_PER_BATCH // world, recipe.SEED, wide, get_rank(), world, start
    )
    return iter(
        DataLoader(
            Records(records, Mapper.from_recipe(recipe, training=True)),
            batch_sampler=batches,
            num_workers=recipe.DATALOADER.NUM_WORKERS,
            collate_fn=list,
        )
    )


def test_loader(recipe: Recipe, records: list[dict[str, Any]]) -> DataLoader:
    """This process's share of a test set, one image at a time (a batch would change C4's padding)."""
    keys = [(i, i) for i in range(get_rank(), len(records), get_world_size())]
    return DataLoader(
        Records(records, Mapper.from_recipe(recipe, training=False)),
        sampler=keys,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=recipe.DATALOADER.NUM_WORKERS,
    )
