"""What fine-tuning sees: augmented training images, the part of them that chooses, and test images."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import Pipeline
from ssl_loc.data.augmenters.crops import RandomResizedCrop
from ssl_loc.data.augmenters.flip import RandomFlip
from ssl_loc.data.build import PretrainLoader
from ssl_loc.data.eval_transforms import RESIZE_RATIO, resize
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.data.mapper import Mapper
from ssl_loc.data.rng import Streams
from ssl_loc.data.samplers import PretrainSampler
from ssl_loc.evaluation.features import FeatureOptions, load_batches, worker_count
from ssl_loc.evaluation.finetune_model import Classifier
from ssl_loc.evaluation.linear import held_out
from ssl_loc.structures import Geometry, View
from ssl_loc.utils.errors import DataError


class ShorterSide(Augmenter):
    """Resizes the whole image so that its shorter side is ``size`` px, as the test transform does."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        h, w = view.image.shape[1:]
        scale = self.size / min(h, w)
        new = (max(self.size, round(h * scale)), max(self.size, round(w * scale)))
        geometry = Geometry((0.0, 0.0, float(w), float(h)), new, (h, w))
        return View(resize(view.image, *new), None, geometry, view.extra)


def train_pipeline(size: int, scale: tuple[float, float]) -> Pipeline:
    """Shorter side to ``size * 256 / 224``, random crop of ``scale`` of the area to ``size``, mirroring."""
    return Pipeline([ShorterSide(round(size * RESIZE_RATIO)), RandomResizedCrop(size, scale), RandomFlip()])


def train_loader(
    split: LabelledSplit, pipeline: Pipeline, batch: int, seed: int, start_iteration: int, options: FeatureOptions
) -> PretrainLoader:
    """Endless augmented batches; each pass leaves out the remainder of fewer images than a batch.

    An unreadable image stops the run.
    """
    if len(split) < batch:
        raise DataError(
            f"{split.name} has {len(split)} training images (without those that choose the learning rate, where there "
            f"are several), fewer than one batch of {batch}; lower FINETUNE.BATCH"
        )
    mapper = Mapper(split.records, [pipeline], seed=seed, max_bad_images=0)
    sampler = PretrainSampler(len(split), batch, seed, start_iteration)
    return PretrainLoader(
        mapper, sampler, worker_count(options.workers, len(split)), pin_memory=torch.cuda.is_available()
    )


def part_of(split: LabelledSplit, keep: Tensor, name: str) -> LabelledSplit:
    """The images of a split where ``keep`` (N,) is True."""
    rows = keep.nonzero()[:, 0].numpy()
    return LabelledSplit(f"{split.name} ({name})", split.records.select(rows), split.classes, split.label_map)


def validation_parts(train: LabelledSplit, share: float, seed: int) -> tuple[LabelledSplit, LabelledSplit]:
    """(images to train on, images that choose the learning rate): a stratified ``share`` of the training split.

    Raises:
        DataError: no class has two images.
    """
    mask = held_out(train.labels(), seed, share)
    if not bool(mask.any()):
        raise DataError(
            f"{train.name} has no class with two images, so none can choose among several FINETUNE.LRS; give one value"
        )
    return part_of(train, ~mask, "without validation"), part_of(train, mask, "validation")


def accuracy(model: Classifier, split: LabelledSplit, size: int, options: FeatureOptions) -> float:
    """Top-1 in percent with the test transform; the model is back in its mode afterwards."""
    mode, device = model.training, model.head.weight.device
    model.eval()
    guesses = []
    with torch.no_grad():
        for images in load_batches(split, size, options):
            guesses.append(model.logits(images.to(device)).argmax(1).cpu())
    model.train(mode)
    return 100.0 * float((torch.cat(guesses) == split.labels()).double().mean())
