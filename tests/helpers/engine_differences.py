"""Where the two engines would do something different with the same recipe. Needs detectron2, as engine_pair does."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from helpers.engine_pair import EnginePair, relative
from ssl_loc.transfer.datasets import get_detection_datasets
from ssl_loc.transfer.detector_names import detector_to_detectron2
from ssl_loc.transfer.recipe import Recipe, edited
from ssl_loc.transfer.torchvision_engine.solver import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
)

# Differences that are rounding: of features, px, probabilities; see "inference_differences".
TOLERANCES = {
    "input": 1e-5,
    "trunk": 1e-4,
    "maps": 1e-4,
    "proposals": 1e-3,
    "boxes": 1e-3,
    "scores": 1e-5,
    "masks": 1e-5,
}
# Iterations whose learning rates are compared.
_ITERATIONS = 40


def model_differences(pair: EnginePair) -> list[str]:
    """Detections, losses, parameter groups and two optimiser steps."""
    found = [f"{k} differ by {v:.1e}" for k, v in pair.inference_differences().items() if v > TOLERANCES.get(k, 1e9)]
    ours, theirs = pair.losses()
    if ours.keys() != theirs.keys():
        return [*found, f"losses are {sorted(ours)}, not {sorted(theirs)}"]
    for name, value in theirs.items():
        allowed = (1e-3 if name == "loss_mask" else 1e-5) * abs(float(value)) + 1e-6
        if not abs(float(ours[name]) - float(value)) <= allowed:
            found.append(f"{name} is {float(ours[name]):.7g}, not {float(value):.7g}")
    return found + _step_differences(pair, ours)


def _step_differences(pair: EnginePair, losses: dict[str, torch.Tensor]) -> list[str]:
    """Two steps of both optimisers from the same gradients, and the learning rates of a run."""
    from detectron2.solver import build_lr_scheduler
    from detectron2.solver import build_optimizer as build_theirs

    from ssl_loc.transfer.detectron2_engine.config import to_detectron2

    cfg = to_detectron2(pair.recipe)
    ours, theirs = build_optimizer(pair.recipe, pair.ours), build_theirs(cfg, pair.theirs)
    scheduler = build_lr_scheduler(cfg, theirs)
    trained = [{k for k, p in model.named_parameters() if p.requires_grad} for model in (pair.ours, pair.theirs)]
    found = []
    if len(trained[0]) != len(trained[1]):
        found.append(f"{len(trained[0])} parameters are trained, not {len(trained[1])}")
    total = sum(losses.values())
    if not total.requires_grad:
        return found
    total.backward()
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in pair.ours.named_parameters()}
    converted = detector_to_detectron2(gradients, pair.arch)
    rates = [[], []]
    for iteration in range(min(_ITERATIONS, pair.recipe.SOLVER.MAX_ITER)):
        rates[0].append(learning_rate(pair.recipe, iteration))
        rates[1].append(scheduler.get_last_lr()[0] / theirs.param_groups[0].get("factor", 1.0))
        if iteration < 2:
            for name, parameter in pair.theirs.named_parameters():
                parameter.grad = converted[name].clone() if parameter.requires_grad else None
            for name, parameter in pair.ours.named_parameters():
                parameter.grad = gradients[name].clone() if parameter.requires_grad else None
            set_learning_rate(ours, rates[0][-1])
            clip_gradients(pair.recipe, pair.ours)
            ours.step()
        theirs.step() if iteration < 2 else None
        scheduler.step()
    base = pair.recipe.SOLVER.BASE_LR
    worst = max((abs(a - b) / base for a, b in zip(*rates, strict=True)), default=0.0)
    if worst > 1e-6 and pair.recipe.SOLVER.BIAS_LR_FACTOR == 1.0:
        found.append(f"learning rates differ by {worst:.1e} of BASE_LR: {rates[0][:5]} and {rates[1][:5]}")
    after, wanted = detector_to_detectron2(pair.ours.state_dict(), pair.arch), pair.theirs.state_dict()
    moved = [k for k in wanted if k in after and relative(after[k].float(), wanted[k].float()) > 1e-5]
    return found + [f"after two steps {k} differs" for k in moved[:3]]


def data_differences(recipe: Recipe, names: dict[str, str]) -> list[str]:
    """Pixels and targets of three training batches and of the test images."""
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2
    from ssl_loc.transfer.detectron2_engine.data import TrainingLoader, test_batches
    from ssl_loc.transfer.torchvision_engine.loader import test_loader, training_loader, training_records

    sets = {"DATASETS.TRAIN": (names["coco_train"],), "DATASETS.TEST": (names["coco_test"],)}
    recipe = edited(recipe, {**sets, "MODEL.ROI_HEADS.NUM_CLASSES": 2, "SEED": max(recipe.SEED, 0)})
    cfg = to_detectron2(recipe)
    train, test = (get_detection_datasets(names_) for names_ in (recipe.DATASETS.TRAIN, recipe.DATASETS.TEST))
    found = []
    ours, theirs = training_loader(recipe, training_records(recipe)), TrainingLoader(cfg, train, recipe.SEED)
    for batch, expected in itertools.islice(zip(ours, theirs, strict=False), 3):
        pairs = list(zip(batch, expected, strict=True))
        found += [f"training image {want['image_id']}: {what}" for e, want in pairs for what in _example(e, want)]
    for example, (want,) in zip(test_loader(recipe, test.dicts), test_batches(cfg, test), strict=True):
        if not torch.equal(example.image, want["image"]):
            found.append(f"test image is {tuple(example.image.shape)}, not {tuple(want['image'].shape)}")
    return found


def _example(example: Any, want: dict[str, Any]) -> list[str]:
    truth = want["instances"]
    if example.record["image_id"] != want["image_id"]:
        return [f"image is {example.record['image_id']}"]
    if not torch.equal(example.image, want["image"]):
        return [f"pixels of {tuple(example.image.shape)} and {tuple(want['image'].shape)} differ"]
    if not torch.allclose(example.target["boxes"], truth.gt_boxes.tensor, atol=1e-3):
        return ["boxes differ"]
    return [] if torch.equal(example.target["labels"] - 1, truth.gt_classes) else ["labels differ"]
