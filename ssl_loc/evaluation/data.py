"""What a protocol is run on: images with masks, or labelled train and val images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ssl_loc.data.labelled import LabelledSplit, load_splits, shared_images, split_specs, two_parts

__all__ = ["EvalData", "LabelledSplit", "shared_images", "split_specs", "two_parts"]


@dataclass(frozen=True)
class EvalData:
    """``--data`` and ``--masks`` of the command line.

    Attributes:
        spec: a dataset (name, "folder:DIR", "scenes:DIR:val", ...), or a folder with train/ and val/ of class folders.
        masks: "ground_truth" (the dataset's own objects) or "folder:DIR" (maps by relative name).
        limit: use only N images of each dataset, spread evenly over it (0 = all).
        work: folder in which long protocols keep unfinished work, so that the same command continues ("" = none).
        out: folder of the results, for what a protocol makes besides numbers ("" = none).
    """

    spec: str
    masks: str = "ground_truth"
    limit: int = 0
    work: str = ""
    out: str = ""

    def test_spec(self) -> str:
        """The dataset that is looked at: the test part of two, else the whole."""
        parts = two_parts(self.spec)
        return self.spec if parts is None else parts[1]

    def labelled_splits(self) -> tuple[LabelledSplit, LabelledSplit]:
        """Train and val with one numbering of the classes: that of train. Read once for all protocols."""
        return self._labelled

    def shared_images(self) -> int:
        """Val images of :meth:`labelled_splits` that are training images as well; said once where there are some."""
        return self._shared

    @cached_property
    def _shared(self) -> int:
        train, val = self._labelled
        return shared_images(train.records, val.records, (train.name, val.name))

    @cached_property
    def _labelled(self) -> tuple[LabelledSplit, LabelledSplit]:
        return load_splits(self.spec, self.limit)
