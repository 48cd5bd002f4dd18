"""One job on the torchvision engine: build, load and verify, train, predict."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.class_names import TEST_SETS, check_detector_classes, require_equal_classes
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.detector_check import open_detector
from ssl_loc.transfer.detector_file import (
    TORCHVISION,
    load_detector_into,
    read_to_continue,
    restore_detector,
)
from ssl_loc.transfer.metrics import evaluate, headline
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe, architecture, dataset_names, edited
from ssl_loc.transfer.resume import last_checkpoint
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.transfer.stop import Stop
from ssl_loc.transfer.torchvision_engine.honoured import check_recipe
from ssl_loc.transfer.torchvision_engine.loader import training_set
from ssl_loc.transfer.torchvision_engine.model import Detector, build_detector
from ssl_loc.transfer.torchvision_engine.predict import predict_dataset
from ssl_loc.transfer.torchvision_engine.solver import build_optimizer
from ssl_loc.transfer.torchvision_engine.train import Trainer
from ssl_loc.transfer.weights import FRESH_TORCHVISION, load_trunk, torchvision_key
from ssl_loc.utils.comm import get_world_size, is_main_process
from ssl_loc.utils.file_io import write_text

logger = logging.getLogger(__name__)

# The recipe as it runs: scaled to the number of processes, and what this machine cannot do changed.
ADAPTED = "recipe_adapted.yaml"


def run_job(job: TransferJob) -> dict[str, list[ImagePrediction]]:
    """See :class:`ssl_loc.transfer.build.DetectionEngine`."""
    asked = scale_to_processes(job.recipe, get_world_size())
    check_recipe(asked)
    recipe = adapt_to_host(asked)
    device = pick_device(recipe)
    if is_main_process():
        write_text(job.output_dir / ADAPTED, recipe.dump_yaml())
    with job.clock("training" if job.detector is None else "loading"):
        model = _trained(job, recipe, device, asked) if job.detector is None else _loaded(job, recipe, device)
    with job.clock("prediction"):
        return {name: predict(recipe, model, name, job.stop) for name in dataset_names(recipe.DATASETS.TEST)}


def predict(recipe: Recipe, model: Detector, name: str, stop: Stop) -> list[ImagePrediction]:
    """Predictions of one test set."""
    return predict_dataset(recipe, model, name, get_detection_dataset(name).dicts, stop)


def adapt_to_host(recipe: Recipe, cuda: bool | None = None) -> Recipe:
    """The recipe with what cannot run on this machine changed; each change is logged.

    Synchronised norms stay: this engine's run on the CPU too.

    Args:
        cuda: whether there is a GPU; None asks torch.
    """
    changes: dict[str, Any] = {}
    if recipe.MODEL.DEVICE.startswith("cuda") and not (torch.cuda.is_available() if cuda is None else cuda):
        changes["MODEL.DEVICE"] = "cpu"
    if recipe.SOLVER.AMP.ENABLED and changes.get("MODEL.DEVICE", recipe.MODEL.DEVICE) == "cpu":
        changes["SOLVER.AMP.ENABLED"] = False
    for key, value in changes.items():
        logger.info("on the CPU, so %s: %r -> %r", key, recipe.flat()[key], value)
    return edited(recipe, changes)


def pick_device(recipe: Recipe) -> torch.device:
    """MODEL.DEVICE; in a group of processes the GPU of this one."""
    wanted = recipe.MODEL.DEVICE
    if wanted == "cuda" and get_world_size() > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(wanted)


def new_detector(job: TransferJob, recipe: Recipe) -> Detector:
    """A detector with the job's trunk in it, verified; the rest initialised from SEED."""
    assert job.trunk is not None  # run_transfer gives a trunk to every job that trains
    torch.manual_seed(recipe.SEED)
    model = build_detector(recipe, job.trunk.meta["backbone"])
    report = load_trunk(model, job.trunk.state, architecture(recipe), torchvision_key, FRESH_TORCHVISION)
    logger.info("weights: %s", report)
    return model


def _trained(job: TransferJob, recipe: Recipe, device: torch.device, asked: Recipe) -> Detector:
    assert job.trunk is not None
    data = training_set(recipe)
    if job.classes:
        require_equal_classes(data.classes, f"DATASETS.TRAIN ({data.name})", job.classes, TEST_SETS)
    model = new_detector(job, recipe).to(device)
    about = {
        "recipe": asked.to_dict(),
        "backbone": job.trunk.meta["backbone"],
        "trunk": {"source": job.trunk.source, "digest": job.trunk.digest},
        "classes": list(data.classes),
    }
    trainer = Trainer(
        recipe,
        model.train(),
        build_optimizer(recipe, model),
        data.dicts,
        job.output_dir,
        about,
        lambda done: _evaluate_between(recipe, model, done, job.stop),
        job.stop,
    )
    found = last_checkpoint(job.output_dir) if job.resume else None
    if found is not None:
        content = read_to_continue(found, TORCHVISION)
        restore_detector(model, content["model"], found)
        trainer.resume(content)
        logger.info("resumed from %s after %d iterations", found, trainer.start)
    trainer.train()
    return model


def _evaluate_between(recipe: Recipe, model: Detector, done: int, stop: Stop) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name in dataset_names(recipe.DATASETS.TEST):
        predictions = predict(recipe, model, name, stop)
        if is_main_process():
            dataset, masks = get_detection_dataset(name), recipe.MODEL.MASK_ON
            found = headline(evaluate(dataset, predictions, masks, recipe.TRANSFER.EVALUATOR).metrics)
            logger.info("after %d iterations on %s: %s", done, name, found)
            several = len(dataset_names(recipe.DATASETS.TEST)) > 1
            numbers.update({f"{name}/{key}" if several else key: value for key, value in found.items()})
    return numbers


def _loaded(job: TransferJob, recipe: Recipe, device: torch.device) -> Detector:
    assert job.detector is not None  # the caller asked
    file = open_detector(job.detector, recipe)
    check_detector_classes(file, job.classes)
    model = build_detector(recipe, file.backbone())
    load_detector_into(model, file, TORCHVISION)
    return model.to(device)
