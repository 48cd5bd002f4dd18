"""Whole photos under the test transform, with their masks and classes: what a classifier's evidence is laid beside."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.eval_transforms import eval_transform
from ssl_loc.data.image_io import read_image
from ssl_loc.data.labelled import even_sample
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.evaluation.crops import open_masked, spread
from ssl_loc.evaluation.data import EvalData
from ssl_loc.utils.errors import DataError

logger = logging.getLogger(__name__)

# ``--masks`` of pictures that want none.
NO_MASKS = "none"
# A resized mask pixel is salient from half coverage on.
HALF = 128


@dataclass
class PhotoBatch:
    """N photos.

    Attributes:
        images: uint8 (N, 3, S, S).
        masks: bool (N, S, S); all False where the photos were read without masks.
        labels: int64 (N,) class in the classifier's numbering, -1 unknown.
        names: keys of the images in their dataset.
        paths: their files.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    names: list[str]
    paths: list[str]

    def select(self, rows: Sequence[int]) -> PhotoBatch:
        """The photos at these places."""
        i = torch.tensor(list(rows), dtype=torch.int64)
        names, paths = ([words[row] for row in rows] for words in (self.names, self.paths))
        return PhotoBatch(self.images[i], self.masks[i], self.labels[i], names, paths)


class MaskedPhotos:
    """The test part of the data: shorter side 256, centre crop 224 (or in that proportion), masks alike.

    After :meth:`batches` has run through, ``skipped`` counts the images without a mask and ``outside`` those whose mask
    lies outside of the central crop; both are left out.

    Args:
        data: images with masks; ``masks`` "none" takes every image without one.
        size: side of the crop, px.
        classes: names of the classifier's classes. An image whose own class is not among them has label -1.
    """

    def __init__(self, data: EvalData, size: int, classes: Sequence[str] = ()) -> None:
        self.size = size
        if data.masks == NO_MASKS:
            dataset, self.read_mask = get_dataset(data.test_spec()), None
        else:
            dataset, self.read_mask = open_masked(data)
        self.name = dataset.name
        # An even sample, so that every class of a sorted dataset stays in.
        self.records: RecordTable = dataset.records.select(even_sample(len(dataset.records), data.limit).numpy())
        numbers = {name: i for i, name in enumerate(classes)}
        self.numbers = [numbers.get(name, -1) for name in dataset.metadata.get("classes", [])]
        self.skipped = self.outside = 0

    def __len__(self) -> int:
        return len(self.records)

    def batches(self, count: int) -> Iterator[PhotoBatch]:
        """Every image with a mask inside of the crop, in order, ``count`` at a time.

        Raises:
            DataError: there is none.
        """
        self.skipped = self.outside = 0
        rows: list[PhotoBatch] = []
        empty = True
        for record in self.records:
            row = self._row(record)
            if row is None:
                continue
            empty = False
            rows.append(row)
            if len(rows) == count:
                yield join(rows)
                rows = []
        if rows:
            yield join(rows)
        if empty:
            raise DataError(f"{self.name} has no image whose mask is not empty inside of the central crop")
        if self.skipped or self.outside:
            words = (
                "%d of %d images have no or an empty mask, %d have it outside of the central crop; they are left out"
            )
            logger.info(words, self.skipped, len(self.records), self.outside)

    def sample(self, count: int) -> PhotoBatch:
        """``count`` images (or all), evenly spread over those with a mask.

        Raises:
            DataError: no image has one.
        """
        order = spread(len(self.records), count)
        rows: list[PhotoBatch] = []
        for i in order:
            row = self._row(self.records[i]) if len(rows) < count else None
            if row is not None:
                rows.append(row)
        if not rows:
            raise DataError(f"{self.name} has no image whose mask is not empty inside of the central crop")
        return join(rows)

    def _row(self, record: Record) -> PhotoBatch | None:
        pixels = read_image(record.path, record.trim_bottom)
        image = eval_transform(torch.from_numpy(pixels).permute(2, 0, 1), self.size)
        mask = torch.zeros(self.size, self.size, dtype=torch.bool)
        if self.read_mask is not None:
            found = self.read_mask(record, (pixels.shape[0], pixels.shape[1]))
            if found is None or not found.any():
                self.skipped += 1
                return None
            mask = eval_transform(torch.from_numpy(np.ascontiguousarray(found))[None], self.size)[0] >= HALF
            if not mask.any():
                self.outside += 1
                return None
        label = self.numbers[record.label] if 0 <= record.label < len(self.numbers) else -1
        return PhotoBatch(image[None], mask[None], torch.tensor([label]), [record.key], [record.path])


def join(rows: Sequence[PhotoBatch]) -> PhotoBatch:
    """Several batches as one; ``rows`` is not empty."""
    return PhotoBatch(
        images=torch.cat([r.images for r in rows]),
        masks=torch.cat([r.masks for r in rows]),
        labels=torch.cat([r.labels for r in rows]),
        names=[name for r in rows for name in r.names],
        paths=[path for r in rows for path in r.paths],
    )
