"""From a record to views: the only place that opens images for pretraining. No label is needed anywhere."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from ssl_loc.data.augmenters.build import Pipeline, augment
from ssl_loc.data.donors import Donors
from ssl_loc.data.image_io import read_image
from ssl_loc.data.masks import MaskSource, NoMasks
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import DataError

_LOGGER = logging.getLogger(__name__)


@dataclass
class MappedImage:
    """The views of one image, and how many corrupt images were passed over to get it."""

    sample_index: int
    label: int
    path: str
    views: list[View]
    passed_over: int = 0


class Mapper(Dataset):
    """Decodes one image and runs one pipeline per view on it.

    ``mapper[(epoch, index)]`` is a function of the seed, the epoch and the index alone.

    Args:
        records: the dataset.
        pipelines: one per view, ``(view, streams, context) -> view``.
        masks: where masks come from.
        seed: of all augmentation draws.
        max_bad_images: corrupt images in a row that are passed over before :class:`DataError` is raised; 0 passes over
            none.
        donors: the other images that augmenters may ask for.
    """

    def __init__(
        self,
        records: RecordTable,
        pipelines: Sequence[Pipeline],
        masks: MaskSource | None = None,
        seed: int = 0,
        max_bad_images: int = 10,
        donors: Donors | None = None,
    ) -> None:
        self.records = records
        self.pipelines = list(pipelines)
        self.donors = donors
        self.graded = "graded" in mapper_needs(self.pipelines)
        self.masks = NoMasks() if masks is None else masks
        self.seed = seed
        self.max_bad_images = max_bad_images

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, draw: tuple[int, int]) -> MappedImage:
        epoch, index = draw
        bad: list[str] = []
        while True:
            at = (index + len(bad)) % len(self.records)
            record = self.records[at]
            try:
                image = read_image(record.path, record.trim_bottom)
            except DataError as error:
                if not self.max_bad_images:
                    raise
                bad.append(record.path)
                if len(bad) > self.max_bad_images or len(bad) >= len(self.records):
                    raise DataError(_too_many(bad, self.max_bad_images)) from error
                _LOGGER.warning("%s; the next image is taken instead", error)
                continue
            sample = self._sample(at, record, image)
            return MappedImage(at, record.label, record.path, self.views(sample, epoch), len(bad))

    def sample(self, index: int) -> Sample:
        """Decode image ``index`` with its mask and boxes.

        Raises:
            DataError: it cannot be read.
        """
        record = self.records[index]
        return self._sample(index, record, read_image(record.path, record.trim_bottom))

    def _sample(self, index: int, record: Record, image: np.ndarray) -> Sample:
        size = (image.shape[0], image.shape[1])
        graded: np.ndarray | None = None
        if self.graded:
            mask, graded = self.masks.load_graded(index, record, size) or (None, None)
        else:
            mask = self.masks.load(index, record, size)
        return Sample(
            # (H, W, 3) seen as (3, H, W): channels-last memory, no copy.
            image=torch.from_numpy(image).permute(2, 0, 1),
            saliency=None if mask is None else torch.from_numpy(mask),
            graded=None if graded is None else torch.from_numpy(graded),
            boxes=None if record.boxes is None else torch.from_numpy(record.boxes.copy()),
            label=record.label,
            index=index,
            path=record.path,
        )

    def views(self, sample: Sample, epoch: int) -> list[View]:
        """Augment a sample: one view per pipeline, each with its own random streams."""
        return augment(sample, self.pipelines, Streams(self.seed, epoch, sample.index), self.donors)


def _too_many(paths: list[str], allowed: int) -> str:
    names = ", ".join(paths[:5])
    return (
        f"{len(paths)} images in a row cannot be read, more than DATA.MAX_BAD_IMAGES allows ({allowed}): {names}"
        f"{' ...' if len(paths) > 5 else ''}; check the disk and the files"
    )


def mapper_needs(pipelines: Sequence[Pipeline]) -> frozenset[str]:
    """Union of what the augmenters of all views need: a subset of {"saliency", "graded", "boxes", "donor"}."""
    return frozenset().union(*(pipeline.needs for pipeline in pipelines))
