"""Images with any number of classes each: what the VOC07 protocol is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_loc.data.catalog import get_dataset, resolve_path_form
from ssl_loc.data.datasets.voc_labels import load_voc_labels
from ssl_loc.data.image_io import read_image
from ssl_loc.data.labelled import LabelledSplit, even_sample, two_parts
from ssl_loc.data.records import RecordTable
from ssl_loc.evaluation.data import EvalData
from ssl_loc.utils.errors import DataError


@dataclass
class MultiLabelSplit:
    """Images with labels int8 (N, C): 1 present, -1 absent, 0 not counted ("difficult")."""

    name: str
    records: RecordTable
    classes: list[str]
    labels: np.ndarray

    @classmethod
    def load(cls, spec: str, limit: int = 0) -> MultiLabelSplit:
        """A VOC split, or a data set with one class per image, whose other classes then count as absent."""
        dataset = get_dataset(spec)
        if dataset.metadata.get("kind") != "voc":
            return cls.from_single(LabelledSplit.load(spec, limit))
        classes = list(dataset.metadata["classes"])
        labels = load_voc_labels(dataset.metadata["voc_dir"], dataset.metadata["split"], classes)
        rows = even_sample(len(dataset), limit).numpy()
        return cls(spec, dataset.records.select(rows), classes, labels[rows])

    @classmethod
    def from_single(cls, split: LabelledSplit) -> MultiLabelSplit:
        """One class per image, as present and absent."""
        labels = np.full((len(split), len(split.classes)), -1, dtype=np.int8)
        labels[np.arange(len(split)), split.labels().numpy()] = 1
        return cls(split.name, split.records, split.classes, labels)

    def __len__(self) -> int:
        return len(self.records)

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W)."""
        record = self.records[index]
        return torch.from_numpy(read_image(record.path, record.trim_bottom)).permute(2, 0, 1)


def multi_label_splits(data: EvalData) -> tuple[MultiLabelSplit, MultiLabelSplit]:
    """Train and test part: two datasets separated by a comma, a folder with train/ and val/ of class folders, or
    ``voc:DEVKIT:YEAR`` for its trainval and test.

    Raises:
        DataError: there are no two parts, or their classes differ.
    """
    parts = two_parts(data.spec) or _voc_parts(data.spec)
    if parts is None:
        raise DataError(
            f"--data {data.spec} does not name a training and a test part; expected voc:DEVKIT:2007 (trainval and "
            "test), two datasets separated by a comma, or a folder with train/ and val/ of class folders"
        )
    train, test = (MultiLabelSplit.load(part, data.limit) for part in parts)
    if train.classes != test.classes:
        differ = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(f"{train.name} and {test.name} have other classes: {', '.join(differ[:5]) or 'another order'}")
    return train, test


def _voc_parts(spec: str) -> tuple[str, str] | None:
    """``voc:DEVKIT:YEAR`` and a devkit's folder itself mean VOC2007's trainval and test."""
    words = resolve_path_form(spec).rsplit(":", 1)
    if spec.startswith("voc:") and len(words) == 2 and (Path(words[0][4:]) / f"VOC{words[1]}").is_dir():
        return f"{spec}:trainval", f"{spec}:test"
    if (Path(spec) / "VOC2007").is_dir():
        return f"voc:{spec}:2007:trainval", f"voc:{spec}:2007:test"
    return None
