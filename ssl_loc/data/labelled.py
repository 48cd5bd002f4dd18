"""Images with one class each: what classification, k-NN and fine-tuning are measured on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.image_io import read_image
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError

logger = logging.getLogger(__name__)


def two_parts(spec: str) -> tuple[str, str] | None:
    """The train and the val dataset meant by one ``--data`` word, None where it names one dataset."""
    if "," in spec:
        train, val = spec.split(",", 1)
        return train, val
    folder = Path(spec.removeprefix("folder:"))
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        return f"class_folder:{folder / 'train'}", f"class_folder:{folder / 'val'}"
    return None


def split_specs(spec: str, key: str = "--data") -> tuple[str, str]:
    """The train and the val dataset meant by one word: "A,B", or a folder with train/ and val/ of class folders.

    Raises:
        DataError: it names one dataset only; ``key`` is what the user gave it as.
    """
    parts = two_parts(spec)
    if parts is None:
        raise DataError(
            f"{key} {spec} does not name a training and a test part; expected a folder with train/ and val/ of class "
            "folders, or two datasets separated by a comma (scenes:DIR:train,scenes:DIR:val)"
        )
    return parts


def load_splits(spec: str, limit: int = 0, key: str = "--data") -> tuple[LabelledSplit, LabelledSplit]:
    """Train and val of :func:`split_specs` with one numbering of the classes: that of train."""
    train, val = (LabelledSplit.load(part, limit) for part in split_specs(spec, key))
    return train, val.renumbered(train.classes)


def shared_images(train: RecordTable, test: RecordTable, names: tuple[str, str]) -> int:
    """How many test images are training images too, by their files; more than none is warned of.

    Such an image says nothing about images that were not seen. ``names`` are the two parts, for the warning.
    """
    folders: dict[str, str] = {}

    def place(path: str) -> str:
        # Links to files are not followed, links to folders are: a million calls of the system would take minutes.
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        return os.path.join(folders[folder], name)

    seen = {place(record.path) for record in train}
    count = sum(place(record.path) in seen for record in test)
    if count:
        said = "%d of the %d test images of %s are training images of %s as well: the numbers are not of unseen images"
        logger.warning(said, count, len(test), names[1], names[0])
    return count


def even_sample(count: int, limit: int) -> Tensor:
    """Positions of ``limit`` of ``count`` items, evenly spread, so that every class of a sorted set stays in."""
    if not limit or limit >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, limit).round().long()


@dataclass
class LabelledSplit:
    """Images with one class each."""

    name: str
    records: RecordTable
    classes: list[str]
    label_map: list[int] | None = None

    @classmethod
    def load(cls, spec: str, limit: int = 0) -> LabelledSplit:
        """Images of a dataset that have a label; ``limit`` takes an even sample, so that every class stays in."""
        dataset = get_dataset(spec)
        labelled = (dataset.records.labels >= 0).nonzero()[0]
        if len(labelled) == 0:
            raise DataError(f"{spec} has no class labels; this protocol needs them (class_folder:DIR gives them)")
        labelled = labelled[even_sample(len(labelled), limit).numpy()]
        classes = dataset.metadata.get("classes") or [str(i) for i in range(int(dataset.records.labels.max()) + 1)]
        return cls(spec, dataset.records.select(labelled), list(classes))

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W); an unreadable image is an error (without it the number would be another)."""
        record = self.records[index]
        return torch.from_numpy(read_image(record.path, record.trim_bottom)).permute(2, 0, 1)

    def images(self) -> Iterator[Tensor]:
        """All of them, in order."""
        return (self.image(i) for i in range(len(self)))

    def labels(self) -> Tensor:
        """int64 (N,)."""
        labels = torch.from_numpy(self.records.labels)
        return labels if self.label_map is None else torch.tensor(self.label_map)[labels]

    def renumbered(self, classes: list[str]) -> LabelledSplit:
        """The same images with the class numbers of another split; a class it does not have is an error."""
        strange = [name for name in self.classes if name not in classes]
        if strange:
            raise DataError(
                f"{self.name} has classes that the training split lacks: {', '.join(strange[:5])} "
                f"({len(strange)} in all); both splits need the same class folders"
            )
        return LabelledSplit(self.name, self.records, classes, [classes.index(name) for name in self.classes])
