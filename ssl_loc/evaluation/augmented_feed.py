"""Features of augmented training images, taken anew every epoch through the frozen trunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssl_loc.data.augmenters.build import Pipeline
from ssl_loc.data.augmenters.crops import RandomResizedCrop
from ssl_loc.data.augmenters.flip import RandomFlip
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.data.mapper import Mapper
from ssl_loc.data.workers import WorkerSetup
from ssl_loc.evaluation.features import FeatureOptions, pool_images, stack_images, worker_count
from ssl_loc.evaluation.weights import Trunk
from ssl_loc.utils.errors import UserError

# Share of the image area that a training crop shows (MoCo code, main_lincls.py: torchvision's default).
CROP_SCALE = (0.08, 1.0)


class AugmentedFeed:
    """Random resized crops and mirroring of every image, in a new order every epoch.

    Order and crops are functions of (seed, epoch, image).

    Args:
        trunk: frozen; what it makes of a batch goes through the poolings.
        split: training images.
        pools: one pooling per bank (evaluation/features.py).
        size: side of the crops, px.
        batch: images per step; the last one may be smaller.
        seed: of order and crops.
        options: worker processes.
    """

    def __init__(
        self,
        trunk: Trunk,
        split: LabelledSplit,
        pools: Sequence[str],
        size: int,
        batch: int,
        seed: int,
        options: FeatureOptions,
    ) -> None:
        self.trunk, self.split, self.pools, self.batch, self.seed = trunk, split, list(pools), batch, seed
        self.labels = split.labels()
        pipeline = Pipeline([RandomResizedCrop(size, CROP_SCALE), RandomFlip()])
        self._crops = _Crops(Mapper(split.records, [pipeline], seed=seed, max_bad_images=0))
        self._workers = worker_count(options.workers, len(split))

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """One pass: features of each pooling (n, D), labels (n,)."""
        order = torch.randperm(len(self.split), generator=torch.Generator().manual_seed(self.seed + epoch * 1_000_003))
        parts = [part.tolist() for part in order.split(self.batch)]
        setup = WorkerSetup()
        loader = DataLoader(
            self._crops,
            batch_sampler=[[(epoch, i) for i in part] for part in parts],
            num_workers=self._workers,
            collate_fn=stack_images,
            worker_init_fn=setup,
            generator=torch.Generator(),  # torch draws a seed for workers: not from the generator of others
        )
        try:
            for part, images in zip(parts, loader, strict=True):
                if isinstance(images, UserError):
                    raise images
                yield pool_images(self.trunk, images, self.pools), self.labels[part]
        finally:
            setup.end()


class _Crops(TorchDataset):
    """(epoch, index) -> uint8 (3, size, size); an error meant for the user comes through as a value."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper

    def __getitem__(self, draw: tuple[int, int]) -> Tensor | UserError:
        try:
            return self.mapper[draw].views[0].image
        except UserError as error:
            return error.with_traceback(None)
