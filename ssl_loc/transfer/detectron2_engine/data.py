"""Datasets, batches and mapping for the detectron2 engine: its own transforms, our order of images."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset

from ssl_loc.data.workers import WorkerSetup
from ssl_loc.transfer.datasets import DetectionDataset, require_polygons
from ssl_loc.transfer.run_lengths import check_run_lengths
from ssl_loc.transfer.sampling import Slot, TrainingBatches, without_empty
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError, DataError

_BOX_MODES = {"XYXY": BoxMode.XYXY_ABS}


def catalog_name(names: Sequence[str]) -> str:
    """The name in detectron2's catalogs of some of our datasets taken together."""
    return "ssl_loc/" + "+".join(names)


def register(dataset: DetectionDataset, name: str) -> None:
    """Make a dataset known to detectron2's catalogs (its tools look there). Registering again replaces it."""
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: to_detectron2_dicts(dataset))
    MetadataCatalog.get(name).set(thing_classes=list(dataset.classes), evaluator_type=dataset.kind)


def to_detectron2_dicts(dataset: DetectionDataset, masks: bool = True) -> list[dict[str, Any]]:
    """The dataset's records with detectron2's box mode, and run lengths in the compressed form that it reads.

    Args:
        masks: keep the masks; without them a damaged one does not matter.

    Raises:
        DataError: a run-length code is damaged, or of another size than its image.
    """
    rows = []
    for record in dataset.dicts:
        annotations = [{**a, "bbox_mode": _BOX_MODES[a["bbox_mode"]]} for a in record["annotations"]]
        for annotation in annotations:
            segmentation = annotation.get("segmentation")
            if not masks:
                annotation.pop("segmentation", None)
            elif isinstance(segmentation, dict):
                check_run_lengths(segmentation, record)
                if isinstance(segmentation["counts"], list):
                    annotation["segmentation"] = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        rows.append({**record, "annotations": annotations})
    return rows


class TrainingImages(Dataset):
    """``images[slot]`` -> detectron2's input dict; augmentation is drawn from (seed, slot) only."""

    def __init__(self, rows: list[dict[str, Any]], cfg: CfgNode, seed: int) -> None:
        self._rows = rows
        self._mapper = DatasetMapper(cfg, is_train=True)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, slot: Slot) -> dict[str, Any] | DataError:
        # detectron2 draws its augmentations from numpy's global generator.
        before = np.random.get_state()
        np.random.seed(slot.generator_state(self._seed))
        try:
            return _mapped(self._mapper, self._rows[slot.index])
        finally:
            np.random.set_state(before)


def _mapped(mapper: DatasetMapper, row: dict[str, Any]) -> dict[str, Any] | DataError:
    """The mapped row; a broken image comes back as an error value, because torch would wrap an exception of a loader
    process into that process's traceback."""
    try:
        return mapper(copy.deepcopy(row))
    except (OSError, SizeMismatchError) as error:
        return DataError(f"image {row['file_name']} cannot be used: {' '.join(str(error).split())}")


def checked(batch: list[dict[str, Any] | DataError]) -> list[dict[str, Any]]:
    """The batch, or its first error raised."""
    good = []
    for row in batch:
        if isinstance(row, DataError):
            raise row
        good.append(row)
    return good


class TrainingLoader:
    """Endless batches of this process; remembers the files of the last batch for error messages.

    Args:
        cfg: detectron2 config.
        dataset: training set.
        seed: of order and augmentation.
    """

    def __init__(self, cfg: CfgNode, dataset: DetectionDataset, seed: int) -> None:
        self._rows = _training_rows(cfg, dataset)
        self._images = TrainingImages(self._rows, cfg, seed)
        self._batch_size = _per_process(cfg.SOLVER.IMS_PER_BATCH)
        self._grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING
        self._workers = cfg.DATALOADER.NUM_WORKERS
        self._seed = seed
        self.start_iteration = 0
        self.last_files: list[str] = []
        self._running: Generator | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        self._running = self._endless()
        return self._running

    def close(self) -> None:
        """End the loader's processes."""
        if self._running is not None:
            self._running.close()

    def _endless(self) -> Generator[list[dict[str, Any]], None, None]:
        batches = TrainingBatches(
            [(row["height"], row["width"]) for row in self._rows],
            self._batch_size,
            self._seed,
            comm.get_rank(),
            comm.get_world_size(),
            self._grouping,
            self.start_iteration,
        )
        setup = WorkerSetup()
        loader = DataLoader(
            self._images,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=list,
            worker_init_fn=setup,
            # A generator of its own: making the iterator would otherwise draw from the one that samples anchors.
            generator=torch.Generator(),
        )
        try:
            for batch in map(checked, loader):
                self.last_files = [row["file_name"] for row in batch]
                yield batch
        finally:
            setup.end()


class TestImages(Dataset):
    """``images[i]`` -> detectron2's input dict for inference."""

    def __init__(self, rows: list[dict[str, Any]], cfg: CfgNode) -> None:
        self._rows = rows
        self._mapper = DatasetMapper(cfg, is_train=False)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any] | DataError:
        return _mapped(self._mapper, self._rows[index])


def test_batches(cfg: CfgNode, dataset: DetectionDataset) -> Iterator[list[dict[str, Any]]]:
    """One image at a time, this process's share of the test set."""
    rows = [{k: v for k, v in row.items() if k != "annotations"} for row in dataset.dicts]
    loader = DataLoader(
        TestImages(rows, cfg),
        # detectron2's InferenceSampler gives each process a run of neighbours; which one sees an image does not matter.
        sampler=range(comm.get_rank(), len(rows), comm.get_world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        worker_init_fn=WorkerSetup(),
        generator=torch.Generator(),
    )
    return map(checked, loader)


def _training_rows(cfg: CfgNode, dataset: DetectionDataset) -> list[dict[str, Any]]:
    rows = to_detectron2_dicts(dataset, cfg.MODEL.MASK_ON)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        rows = without_empty(rows)
    if not rows:
        raise DataError(f"{dataset.name} has no image with an object; nothing to train on")
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
        if cfg.INPUT.CROP.ENABLED and importlib.util.find_spec("shapely") is None:
            raise ConfigError(
                "INPUT.CROP.ENABLED with polygon masks needs the package shapely (pip install shapely); install it, or "
                "set INPUT.CROP.ENABLED False"
            )
        require_polygons(dataset)
    return rows


def _per_process(total: int) -> int:
    world = comm.get_world_size()
    if total % world:
        raise ConfigError(f"SOLVER.IMS_PER_BATCH is {total}, which {world} processes cannot share equally")
    return total // world
