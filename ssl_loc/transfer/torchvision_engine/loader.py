"""The infinite training stream and the finite test stream."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ssl_loc.data.workers import WorkerSetup
from ssl_loc.transfer.datasets import DetectionDataset, get_detection_datasets, require_masks, require_polygons
from ssl_loc.transfer.recipe import Recipe, dataset_names
from ssl_loc.transfer.sampling import Slot, TrainingBatches, without_empty
from ssl_loc.transfer.torchvision_engine.mapper import Example, Mapper
from ssl_loc.utils.comm import get_rank, get_world_size
from ssl_loc.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

Batches = Generator[list[Example], None, None]


class Records(Dataset):
    """Maps a :class:`Slot` to an :class:`Example`, or to the error that the image caused: torch would wrap an exception
    of a loader process into that process's traceback."""

    def __init__(self, records: list[dict[str, Any]], mapper: Mapper) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, slot: Slot) -> Example | DataError:
        try:
            return self.mapper(self.records[slot.index], slot)
        except DataError as error:
            return error


def training_records(recipe: Recipe) -> list[dict[str, Any]]:
    """Records of :func:`training_set`."""
    return training_set(recipe).dicts


def training_set(recipe: Recipe) -> DetectionDataset:
    """DATASETS.TRAIN, without images that have nothing to learn from (unless the recipe keeps them)."""
    dataset = get_detection_datasets(dataset_names(recipe.DATASETS.TRAIN))
    if len(dataset.classes) != recipe.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {recipe.MODEL.ROI_HEADS.NUM_CLASSES} but {dataset.name} has "
            f"{len(dataset.classes)} classes; set the key to {len(dataset.classes)}"
        )
    if recipe.MODEL.MASK_ON:
        require_masks(dataset)
        if recipe.INPUT.MASK_FORMAT == "polygon":
            require_polygons(dataset)
    records = dataset.dicts
    if recipe.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = without_empty(records)
        logger.info(
            "training on %s: %d images, %d without objects left out", dataset.name, len(kept), len(records) - len(kept)
        )
        records = kept
    if not records:
        raise DataError(f"{dataset.name} has no image with an object; nothing to train on")
    return replace(dataset, dicts=records)


def training_loader(recipe: Recipe, records: list[dict[str, Any]], start: int = 0) -> Batches:
    """Endless batches of this process, from batch ``start`` on; ``close()`` ends the loader's processes."""
    world = get_world_size()
    if recipe.SOLVER.IMS_PER_BATCH % world:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {recipe.SOLVER.IMS_PER_BATCH}, which {world} processes cannot share evenly"
        )
    batches = TrainingBatches(
        [(r["height"], r["width"]) for r in records],
        recipe.SOLVER.IMS_PER_BATCH // world,
        recipe.SEED,
        get_rank(),
        world,
        recipe.DATALOADER.ASPECT_RATIO_GROUPING,
        start,
    )
    return _endless(Records(records, Mapper.from_recipe(recipe, training=True)), batches, recipe.DATALOADER.NUM_WORKERS)


def _endless(images: Records, batches: TrainingBatches, workers: int) -> Batches:
    setup = WorkerSetup()
    loader = DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=setup,
        # A generator of its own: making the iterator would otherwise draw from the one that samples anchors.
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            yield [checked(example) for example in batch]
    finally:
        setup.end()


def test_loader(recipe: Recipe, records: list[dict[str, Any]]) -> DataLoader:
    """This process's share of a test set, one image at a time (a batch would change C4's padding)."""
    slots = [Slot(i, 0, 0, 0) for i in range(get_rank(), len(records), get_world_size())]
    return DataLoader(
        Records(records, Mapper.from_recipe(recipe, training=False)),
        sampler=slots,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=recipe.DATALOADER.NUM_WORKERS,
        worker_init_fn=WorkerSetup(),
        generator=torch.Generator(),
    )


def checked(example: Example | DataError) -> Example:
    """The example, or its error raised here, in the main process."""
    if isinstance(example, DataError):
        raise example
    return example
