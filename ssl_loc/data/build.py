"""The pretraining loader, from the config."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters.build import build_pipelines
from ssl_loc.data.catalog import Dataset, get_dataset
from ssl_loc.data.collate import collate
from ssl_loc.data.donors import DATASET, TRAIN, WINDOWS, Donors, DonorSource, WindowDonors
from ssl_loc.data.image_check import image_sizes, usable_images
from ssl_loc.data.mapper import MappedImage, Mapper, mapper_needs
from ssl_loc.data.masks import build_masks
from ssl_loc.data.records import RecordTable
from ssl_loc.data.samplers import PretrainSampler, epoch_of
from ssl_loc.data.workers import WorkerSetup
from ssl_loc.structures import Views
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError, DataError, UserError

__all__ = ["PretrainLoader", "build_mapper", "build_pretrain_loader", "epoch_of"]

_LOGGER = logging.getLogger(__name__)
_SUPPLIED = frozenset({"saliency", "graded", "boxes", "donor"})


@dataclass
class PretrainLoader:
    """Endless iterator of this process's batches (CPU tensors), starting at ``start_iteration``.

    Batches depend on (seed, iteration) only: not on the number of workers or processes, nor on a restart.

    Attributes:
        mapper: what makes each image's views; ``mapper.records`` are the images in use.
        sampler: the data order.
        num_workers: loader processes.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.
    """

    mapper: Mapper
    sampler: PretrainSampler
    num_workers: int = 0
    pin_memory: bool = False

    @property
    def dataset_size(self) -> int:
        """Images in use (after dropping)."""
        return self.sampler.size

    @property
    def batches_per_epoch(self) -> int:
        """Global batches in one pass over the data; the remainder is left out."""
        return self.sampler.batches_per_epoch

    @property
    def mask_info(self) -> dict[str, Any]:
        """Where masks come from: source, estimator, preset, uses_labels, version; goes into exported weights."""
        info = self.mapper.masks.info
        if "boxes" in mapper_needs(self.mapper.pipelines):
            return {**info, "boxes": "ground_truth", "uses_labels": True}
        return info

    def __iter__(self) -> Iterator[Views]:
        workers = WorkerSetup()
        batches = DataLoader(
            _ErrorsAsValues(self.mapper),
            batch_sampler=self.sampler,
            num_workers=self.num_workers,
            collate_fn=_collate,
            pin_memory=self.pin_memory,
            worker_init_fn=workers,
            persistent_workers=self.num_workers > 0,
            # Torch draws a seed for the workers, which nothing here uses; from a generator of its own, or a resumed run
            # would be one draw ahead of an uninterrupted one.
            generator=torch.Generator(),
        )
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        finally:
            workers.end()


class _ErrorsAsValues(TorchDataset):
    """Hands errors meant for the user through as values: torch would wrap a worker's error into its traceback."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper

    def __getitem__(self, draw: tuple[int, int]) -> MappedImage | UserError:
        try:
            return self.mapper[draw]
        except UserError as error:
            return error.with_traceback(None)


def _collate(images: list[MappedImage | UserError]) -> Views | UserError:
    for image in images:
        if isinstance(image, UserError):
            return image
    try:
        return collate([image for image in images if isinstance(image, MappedImage)])
    except UserError as error:
        return error.with_traceback(None)


def build_pretrain_loader(
    cfg: CfgNode, start_iteration: int = 0, *, rank: int | None = None, world_size: int | None = None
) -> PretrainLoader:
    """Check the data and make the loader.

    Args:
        cfg: DATA, AUGMENT, SOLVER.IMS_PER_BATCH, SEED, DEVICE.
        start_iteration: first batch to give (where a resumed run continues).
        rank, world_size: default to those of the process group.

    Raises:
        ConfigError, DataError: the data cannot be used; each says which key to change.
    """
    mapper = build_mapper(cfg)
    sampler = PretrainSampler(
        len(mapper),
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SEED,
        start_iteration,
        comm.get_rank() if rank is None else rank,
        comm.get_world_size() if world_size is None else world_size,
    )
    pin = cfg.DEVICE != "cpu" and torch.cuda.is_available()
    return PretrainLoader(mapper, sampler, cfg.DATA.NUM_WORKERS, pin)


def build_mapper(cfg: CfgNode) -> Mapper:
    """The mapper over the usable images of DATA.TRAIN, with the pipelines of AUGMENT.VIEWS."""
    pipelines = build_pipelines(cfg)
    needs = mapper_needs(pipelines)
    _check_needs(cfg, needs)
    dataset = _load(cfg, annotations=cfg.DATA.MASKS.SOURCE == "ground_truth" or "boxes" in needs)
    sizes = image_sizes(dataset.records)
    usable = usable_images(dataset.records, sizes)
    records = dataset.records.select(usable)
    masks, keep = build_masks(cfg, records, sizes[usable])
    records = records.select(keep)
    if not len(records):
        raise DataError(f"no image of DATA.TRAIN '{dataset.name}' is left to train on; see the warnings above")
    _LOGGER.info("%s: %d images, masks: %s", dataset.name, len(records), masks.info)
    _check_boxes(cfg, needs, records)
    mapper = Mapper(records, pipelines, masks, cfg.SEED, cfg.DATA.MAX_BAD_IMAGES)
    if "donor" in needs:
        sets = frozenset().union(*(pipeline.donor_sets for pipeline in pipelines))
        boxes = any(pipeline.donor_boxes for pipeline in pipelines)
        sources = {name: _donor_source(name, mapper, boxes) for name in sorted(sets)}
        _LOGGER.info("donors: %s", ", ".join(f"{len(source)} images of {name}" for name, source in sources.items()))
        mapper.donors = Donors(sources, cfg.DATA.MAX_BAD_IMAGES)
    return mapper


def _donor_source(name: str, mapper: Mapper, boxes: bool) -> DonorSource:
    """The set of donors behind a name (see ``data/donors.py``)."""
    if name == TRAIN:
        return mapper
    if name.startswith(WINDOWS):
        return WindowDonors.read(name[len(WINDOWS) :])
    return Mapper(get_dataset(name[len(DATASET) :], annotations=boxes).records, [])


def _check_boxes(cfg: CfgNode, needs: frozenset[str], records: RecordTable) -> None:
    if "boxes" in needs and all(record.boxes is None for record in records):
        raise DataError(
            f"an augmenter of AUGMENT.VIEWS needs ground-truth boxes but DATA.TRAIN '{cfg.DATA.TRAIN}' has none; "
            "expected a dataset with annotations (coco:..., voc:..., scenes:...), or an augmenter that takes its boxes "
            "from masks (AUGMENT.SALIENCY_SWAP.BOX_SOURCE threshold_cc)"
        )


def _load(cfg: CfgNode, annotations: bool) -> Dataset:
    if cfg.DATA.LIMIT < 0 or cfg.DATA.NUM_WORKERS < 0:
        raise ConfigError(
            f"DATA.LIMIT is {cfg.DATA.LIMIT} and DATA.NUM_WORKERS {cfg.DATA.NUM_WORKERS}; expected 0 or more"
        )
    dataset = get_dataset(cfg.DATA.TRAIN, annotations=annotations)
    if cfg.DATA.LIMIT:
        dataset.records = dataset.records[: cfg.DATA.LIMIT]
    return dataset


def _check_needs(cfg: CfgNode, needs: frozenset[str]) -> None:
    if needs & {"saliency", "graded"} and cfg.DATA.MASKS.SOURCE == "none":
        raise ConfigError(
            "an augmenter of AUGMENT.VIEWS needs saliency masks but DATA.MASKS.SOURCE is 'none'; set it to 'folder' "
            "(with DATA.MASKS.ROOT) or 'ground_truth', or take the augmenter out"
        )
    if unknown := needs - _SUPPLIED:
        raise ConfigError(f"an augmenter of AUGMENT.VIEWS needs {sorted(unknown)}; expected only {sorted(_SUPPLIED)}")
