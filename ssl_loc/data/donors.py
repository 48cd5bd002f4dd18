"""Other images that an augmenter may ask for: backgrounds to paste an object on.

A set of donors is named in the config:

    train               the images of DATA.TRAIN, with their masks and boxes; an image is never its own donor
    dataset:NAME        the images of another dataset, by a registered name or a path form (dataset:folder:/data/photos)
    windows:FILE        quiet windows of photos, from a list that tools/make_windows.py wrote
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ssl_loc.data.image_io import read_image
from ssl_loc.data.records import Record, RecordTable
from ssl_loc.saliency.store import first_names
from ssl_loc.saliency.windows import read_windows
from ssl_loc.structures import Sample
from ssl_loc.utils.errors import ConfigError, DataError

_LOGGER = logging.getLogger(__name__)
TRAIN, DATASET, WINDOWS = "train", "dataset:", "windows:"
# Decoded donors a process keeps: all of a small set, a few dozen photos of a large one (which rarely repeat anyway).
CACHE_BYTES = 48 * 2**20


class DonorSource(Protocol):
    """A set of images: ``sample(i)`` decodes one and raises ``DataError`` if it cannot."""

    def __len__(self) -> int: ...

    def sample(self, index: int) -> Sample: ...


class Donor(NamedTuple):
    """A drawn donor.

    Attributes:
        sample: its pixels, and its mask and boxes where its set has them. Not to be changed: it is kept for others.
        source: name of its set.
        passed_over: how many that could not be read were drawn before it.
    """

    sample: Sample
    source: str
    passed_over: int


@dataclass
class WindowDonors:
    """Squares of photos; each record's only box is its window."""

    records: RecordTable
    path: str

    @classmethod
    def read(cls, path: str) -> WindowDonors:
        """From a list that tools/make_windows.py wrote.

        Raises:
            DataError: it is no such list, or an empty one.
        """
        found = read_windows(path)
        if not found.windows:
            raise DataError(f"{path} lists no window; make it again with wider limits (tools/make_windows.py)")
        records = (
            Record(found.paths[key], key=key, boxes=np.array([window[:4]], dtype=np.float32))
            for key, window in found.windows.items()
        )
        return cls(RecordTable.pack(records), path)

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int) -> Sample:
        record = self.records[index]
        assert record.boxes is not None  # read() gave it one
        image = read_image(record.path)
        x1, y1, x2, y2 = (int(v) for v in record.boxes[0])
        if x2 > image.shape[1] or y2 > image.shape[0]:
            raise DataError(
                f"the window {x1}, {y1}, {x2}, {y2} of {self.path} leaves {record.path} ({image.shape[1]} x "
                f"{image.shape[0]} px): another image by that name? Make the list again (tools/make_windows.py)"
            )
        window = np.ascontiguousarray(image[y1:y2, x1:x2])
        return Sample(torch.from_numpy(window).permute(2, 0, 1), index=index, path=record.path)


class Donors:
    """Draws donors from named sets.

    Args:
        sources: name -> set.
        max_bad_images: donors in a row that may be unreadable before :class:`DataError` is raised.
        cache_bytes: decoded donors to keep.
    """

    def __init__(
        self, sources: Mapping[str, DonorSource], max_bad_images: int = 10, cache_bytes: int = CACHE_BYTES
    ) -> None:
        for name, source in sources.items():
            if not len(source):
                raise DataError(f"the set of donors '{name}' has no image; expected at least one")
        self.sources = dict(sources)
        self.max_bad_images = max_bad_images
        self.cache_bytes = cache_bytes
        self._kept: OrderedDict[tuple[str, int], Sample] = OrderedDict()
        self._kept_bytes = 0

    def draw(self, names: Sequence[str], rng: np.random.Generator, index: int) -> Donor:
        """An image of one of the sets, all images alike.

        Args:
            names: sets to draw from.
            rng: each attempt takes one number, so an unreadable donor is replaced by the same one every time.
            index: the image of "train" that asks. It is left out, unless there is no other image.

        Raises:
            DataError: too many in a row cannot be read.
        """
        sizes = [len(self.sources[name]) for name in names]
        skip = sum(sizes[: names.index(TRAIN)]) + index if TRAIN in names and sum(sizes) > 1 else None
        bad: list[str] = []
        while True:
            name, at = self._pick(names, sizes, rng, skip)
            try:
                return Donor(self._load(name, at), name, len(bad))
            except DataError as error:
                bad.append(f"{name} {at}: {error}")
                if len(bad) > self.max_bad_images:
                    raise DataError(
                        f"{len(bad)} donors in a row cannot be read, more than DATA.MAX_BAD_IMAGES allows "
                        f"({self.max_bad_images}): {first_names(bad)}; check the disk and the files"
                    ) from error
                _LOGGER.warning("%s; another donor is taken instead", error)

    @staticmethod
    def _pick(
        names: Sequence[str], sizes: Sequence[int], rng: np.random.Generator, skip: int | None
    ) -> tuple[str, int]:
        """One of all images but ``skip``, as (set, position)."""
        at = int(rng.random() * (sum(sizes) - (skip is not None)))
        if skip is not None and at >= skip:
            at += 1
        for name, size in zip(names, sizes, strict=True):
            if at < size:
                return name, at
            at -= size
        raise AssertionError("a position beyond the last image")

    def _load(self, name: str, at: int) -> Sample:
        key = (name, at)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        sample = self.sources[name].sample(at)
        self._kept[key] = sample
        self._kept_bytes += sample.image.numel()
        while self._kept_bytes > self.cache_bytes:
            self._kept_bytes -= self._kept.popitem(last=False)[1].image.numel()
        return sample


def check_donor_set(key: str, name: str) -> str:
    """Return ``name`` if it names a set of donors; raise :class:`ConfigError` naming ``key`` if not."""
    if name == TRAIN or any(name.startswith(kind) and name != kind for kind in (DATASET, WINDOWS)):
        return name
    raise ConfigError(
        f"{key} names the donors '{name}'; expected train, dataset:NAME (a registered dataset or a path form such as "
        "dataset:folder:/data/photos) or windows:FILE (a list of tools/make_windows.py)"
    )
