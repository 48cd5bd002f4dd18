"""The fixed query and key crops of the grounding protocol: a function of the image's name, the seed and the options."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ssl_loc.data.augmenters.build import Pipeline, augment
from ssl_loc.data.augmenters.constrained_crop import SaliencyConstrainedCrop
from ssl_loc.data.catalog import Dataset, get_dataset
from ssl_loc.data.image_io import read_image
from ssl_loc.data.labelled import even_sample
from ssl_loc.data.records import Record
from ssl_loc.data.rng import Streams
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.masks import MaskReader, mask_reader
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import DataError

logger = logging.getLogger(__name__)

# A resized mask pixel is salient from half coverage on.
HALF = 128


@dataclass
class CropBatch:
    """Crops of N images.

    Attributes:
        query, key: uint8 (N, 3, S, S).
        query_mask, key_mask: bool (N, 1, S, S).
        names: keys of the images in their dataset.
        paths: their files.
        boxes: float32 (N, 2, 4), query and key box in the source frame, XYXY.
        met: bool (N, 2), crop constraint met.
    """

    query: Tensor
    key: Tensor
    query_mask: Tensor
    key_mask: Tensor
    names: list[str]
    paths: list[str]
    boxes: Tensor
    met: Tensor

    def to(self, device: torch.device | str) -> CropBatch:
        moved = [t.to(device) for t in (self.query, self.key, self.query_mask, self.key_mask)]
        return CropBatch(moved[0], moved[1], moved[2], moved[3], self.names, self.paths, self.boxes, self.met)


def stable_index(name: str) -> int:
    """A number that belongs to the image's name: subsets and orders of a dataset do not change its crops."""
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big")


def open_masked(data: EvalData) -> tuple[Dataset, MaskReader]:
    """The images (of a training and a test part: the test part) and the reader of their masks.

    Raises:
        DataError: no such dataset, or none of its images has a mask.
    """
    dataset = get_dataset(data.test_spec(), annotations=data.masks == "ground_truth")
    return dataset, mask_reader(data.masks, dataset)


def spread(total: int, count: int) -> list[int]:
    """Up to ``4 * count`` places of ``total``: ``count`` evenly spread ones, then spares for images without mask."""
    order = np.linspace(0, total - 1, min(total, 4 * count)).round().astype(int)
    # Every fourth first: the spread stays even where no mask is empty.
    return list(dict.fromkeys(int(i) for i in [*order[::4], *order[2::4], *order[1::4], *order[3::4]]))


class GroundingCrops:
    """Pairs of crops, each covering at least ``phi`` of the salient area; no flip, no colour changes.

    After :meth:`batches` has run through, ``skipped`` counts the images without a non-empty mask and ``unmet`` the
    crops for which no proposal met the constraint.
    """

    def __init__(self, data: EvalData, *, size: int, phi: float = 0.2, sampler: str = "uniform", seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self.dataset, self.read_mask = open_masked(data)
        # An even sample, so that every class of a sorted dataset stays in.
        chosen = even_sample(len(self.dataset.records), data.limit)
        self.records: Sequence[Record] = self.dataset.records.select(chosen.numpy())
        self.pipelines = [Pipeline([SaliencyConstrainedCrop(phi=phi, sampler=sampler, size=size)])] * 2
        self.skipped = self.unmet = 0

    def __len__(self) -> int:
        return len(self.records)

    def batches(self, size: int) -> Iterator[CropBatch]:
        """Every image with a non-empty mask, in order."""
        self.skipped = self.unmet = 0
        rows: list[CropBatch] = []
        for record in self.records:
            row = self._row(record)
            if row is None:
                self.skipped += 1
                continue
            self.unmet += int((~row.met).sum())
            rows.append(row)
            if len(rows) == size:
                yield _join(rows)
                rows = []
        if rows:
            yield _join(rows)
        if self.skipped:
            logger.info("%d of %d images have no or an empty mask and are left out", self.skipped, len(self.records))

    def sample(self, count: int) -> CropBatch:
        """``count`` images (or all), evenly spread over those with a mask."""
        rows: list[CropBatch] = []
        for i in spread(len(self.records), count):
            row = self._row(self.records[i]) if len(rows) < count else None
            if row is not None:
                rows.append(row)
        return _join(rows)

    def _row(self, record: Record) -> CropBatch | None:
        pixels = read_image(record.path, record.trim_bottom)
        mask = self.read_mask(record, (pixels.shape[0], pixels.shape[1]))
        if mask is None or not mask.any():
            return None
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        sample = Sample(image, torch.from_numpy(mask), path=record.path)
        views = augment(sample, self.pipelines, Streams(self.seed, 0, stable_index(record.key)))
        masks = [_binary(view) for view in views]
        return CropBatch(
            query=views[0].image[None],
            key=views[1].image[None],
            query_mask=masks[0],
            key_mask=masks[1],
            names=[record.key],
            paths=[record.path],
            boxes=torch.tensor([[view.geometry.box for view in views]], dtype=torch.float32),
            met=torch.tensor([[view.geometry.constraint_met for view in views]]),
        )


def _binary(view: View) -> Tensor:
    assert view.mask is not None  # only samples with a mask come here
    return view.mask[None] >= HALF


def _join(rows: Sequence[CropBatch]) -> CropBatch:
    if not rows:
        raise DataError("no image has a non-empty mask")
    return CropBatch(
        query=torch.cat([r.query for r in rows]),
        key=torch.cat([r.key for r in rows]),
        query_mask=torch.cat([r.query_mask for r in rows]),
        key_mask=torch.cat([r.key_mask for r in rows]),
        names=[name for r in rows for name in r.names],
        paths=[path for r in rows for path in r.paths],
        boxes=torch.cat([r.boxes for r in rows]),
        met=torch.cat([r.met for r in rows]),
    )
