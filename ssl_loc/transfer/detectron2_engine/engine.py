"""One job on detectron2: config, model, training, predictions."""

from __future__ import annotations

import logging
import os
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm as detectron2_comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from ssl_loc.transfer import running_statistics
from ssl_loc.transfer.build import TransferJob
from ssl_loc.transfer.class_names import TEST_SETS, check_detector_classes, require_equal_classes
from ssl_loc.transfer.datasets import DetectionDataset, get_detection_dataset, get_detection_datasets, require_masks
from ssl_loc.transfer.detector_check import open_detector
from ssl_loc.transfer.detector_file import DETECTRON2, load_detector_into
from ssl_loc.transfer.detectron2_engine.config import adapt_cfg_to_host, to_detectron2
from ssl_loc.transfer.detectron2_engine.data import TrainingLoader, catalog_name, register
from ssl_loc.transfer.detectron2_engine.hooks import Conclude, PreciseBN, SeedEachStep
from ssl_loc.transfer.detectron2_engine.model import (
    About,
    StrictCheckpointer,
    build_detector,
    load_into,
    parallel,
)
from ssl_loc.transfer.detectron2_engine.noise import quiet
from ssl_loc.transfer.detectron2_engine.predict import predict
from ssl_loc.transfer.detectron2_engine.trunk import TrunkShape, check_levels, fill_trunk
from ssl_loc.transfer.metrics import evaluate, headline
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe, architecture, dataset_names, edited
from ssl_loc.transfer.resume import last_checkpoint
from ssl_loc.transfer.run import check_classes, described_backbone
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.transfer.stop import Stop
from ssl_loc.transfer.training_log import TrainingLog
from ssl_loc.utils import comm
from ssl_loc.utils.errors import ConfigError, UserError
from ssl_loc.utils.file_io import write_text

logger = logging.getLogger(__name__)


def run_job(job: TransferJob) -> dict[str, list[ImagePrediction]]:
    """Fine-tune (unless evaluation only), then predict every test set; predictions on the main process."""
    recipe = seeded(scale_to_processes(job.recipe, comm.get_world_size()))
    _local_process_group()
    detector = None if job.detector is None else open_detector(job.detector, recipe)
    if detector is not None:
        check_detector_classes(detector, job.classes)
    stored = detector.backbone() if detector else job.trunk.meta.get("backbone") if job.trunk else None
    description = stored or described_backbone(recipe)
    cfg = make_config(job, recipe, description)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if recipe.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(recipe.FLOAT32_PRECISION)
    tests = {name: get_detection_dataset(name) for name in dataset_names(recipe.DATASETS.TEST)}
    for name, dataset in tests.items():
        register(dataset, catalog_name([name]))
    model = build_detector(cfg, recipe.SEED)
    if detector is not None:
        load_detector_into(model, detector, DETECTRON2)
    else:
        if job.trunk is None:
            raise ConfigError("a fine-tuning needs a trunk; give --weights FILE or --weights random")
        load_into(model, job.trunk, architecture(recipe))
        about = About(
            engine="detectron2",
            recipe=recipe.to_dict(),
            backbone=description,
            trunk={"source": job.trunk.source, "digest": job.trunk.digest},
            processes=comm.get_world_size(),
        )
        with job.clock("training"):
            train(model, cfg, recipe, tests, about, job)
    with job.clock("prediction"):
        found = {name: predict(model, cfg, dataset, job.stop) for name, dataset in tests.items()}
    return found if comm.is_main_process() else {}


def make_config(job: TransferJob, recipe: Recipe, description: dict[str, Any]) -> CfgNode:
    """detectron2's frozen config for a job; both the config as asked for and as adapted go to the output folder."""
    cfg = to_detectron2(recipe)
    shape = TrunkShape.from_description(description)
    check_levels(cfg, shape)
    fill_trunk(cfg, shape)
    asked = cfg.dump()
    adapt_cfg_to_host(cfg, comm.get_world_size())
    cfg.DATASETS.TRAIN = (catalog_name(dataset_names(recipe.DATASETS.TRAIN)),)
    cfg.DATASETS.TEST = tuple(catalog_name([name]) for name in dataset_names(recipe.DATASETS.TEST))
    cfg.freeze()
    if comm.is_main_process():
        write_text(job.output_dir / "detectron2_config.yaml", asked)
        write_text(job.output_dir / "detectron2_config_adapted.yaml", cfg.dump())
    return cfg


def seeded(recipe: Recipe) -> Recipe:
    """The recipe with a drawn SEED where it is negative (detectron2: "random"), equal on every process."""
    if recipe.SEED >= 0:
        return recipe
    seed = comm.all_gather_object(int.from_bytes(os.urandom(3), "big"))[0]
    logger.info("SEED is %d; drew %d for this run (write SEED %d to repeat it)", recipe.SEED, seed, seed)
    return edited(recipe, {"SEED": seed})


def train(
    model: nn.Module, cfg: CfgNode, recipe: Recipe, tests: dict[str, DetectionDataset], about: About, job: TransferJob
) -> None:
    """Fine-tune in place; checkpoints, numbers and TensorBoard files go to OUTPUT_DIR.

    Raises:
        UserError: the training diverged; names iteration, learning rate, losses and the files of the batch.
        RunStopped: ``job.stop`` asked for it; a checkpoint is written.
    """
    dataset = _training_set(recipe)
    if job.classes:
        require_equal_classes(dataset.classes, f"DATASETS.TRAIN ({dataset.name})", job.classes, TEST_SETS)
    about.add(classes=list(dataset.classes))
    loader = TrainingLoader(cfg, dataset, recipe.SEED)
    logger.info("training on %d of the %d images of %s", len(loader), len(dataset), dataset.name)
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    wrapped = parallel(model)
    trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(wrapped, loader, optimizer)
    checkpointer = StrictCheckpointer(wrapped, cfg.OUTPUT_DIR, trainer=weakref.proxy(trainer), about=about)
    trainer.register_hooks([hooks.LRScheduler(optimizer, scheduler), SeedEachStep(recipe.SEED)])
    start, unfinished = _resume(checkpointer, model) if job.resume else (0, False)
    # Where STEPS or MAX_ITER were changed, the stored rate is the old schedule's.
    for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
        group["lr"] = rate
    if start >= cfg.SOLVER.MAX_ITER and not unfinished:
        logger.info("nothing left to train: %d of %d iterations are done", start, cfg.SOLVER.MAX_ITER)
        return
    loader.start_iteration = start
    device = next(model.parameters()).device
    log = TrainingLog(cfg.OUTPUT_DIR, recipe.TRANSFER.LOG_PERIOD, start, cfg.SOLVER.MAX_ITER, device)
    trainer.register_hooks([_conclude(model, cfg, recipe, dataset, tests, checkpointer, log, job.stop, unfinished)])
    try:
        with quiet():
            trainer.train(start, cfg.SOLVER.MAX_ITER)
    except FloatingPointError as error:
        raise UserError(_diverged(error, trainer, optimizer, loader)) from None
    finally:
        loader.close()
        log.close()


def _resume(checkpointer: StrictCheckpointer, model: nn.Module) -> tuple[int, bool]:
    """(iterations made, whether what follows the last of them is still to be done) of the run in OUTPUT_DIR."""
    path = last_checkpoint(Path(checkpointer.save_dir))
    if path is None:
        return 0, False
    with quiet():
        rest = checkpointer.load(str(path))
    running_statistics.restore_own(model, rest.get("own_statistics", []))
    logger.info("resumed at iteration %d from %s", rest["iteration"] + 1, path)
    return rest["iteration"] + 1, rest.get("unfinished", False)


def _conclude(
    model: nn.Module,
    cfg: CfgNode,
    recipe: Recipe,
    dataset: DetectionDataset,
    tests: dict[str, DetectionDataset],
    checkpointer: StrictCheckpointer,
    log: TrainingLog,
    stop: Stop,
    unfinished: bool,
) -> Conclude:
    precise = None
    if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(model):
        # Its own loader, so that it takes no batch away from training; another seed, so that it sees other draws.
        batches = TrainingLoader(cfg, dataset, recipe.SEED + 1)
        precise = PreciseBN(model, batches, cfg.TEST.PRECISE_BN.NUM_ITER, recipe.SEED, stop)
    return Conclude(
        model,
        checkpointer,
        log,
        stop,
        precise,
        lambda: _evaluate(model, cfg, recipe, tests, stop),
        cfg.TEST.EVAL_PERIOD,
        cfg.SOLVER.CHECKPOINT_PERIOD,
        unfinished,
    )


def _evaluate(
    model: nn.Module, cfg: CfgNode, recipe: Recipe, tests: dict[str, DetectionDataset], stop: Stop
) -> dict[str, float]:
    """AP between two steps, for the curves; the final numbers come from the caller of the engine."""
    found = {}
    for name, dataset in tests.items():
        predictions = predict(model, cfg, dataset, stop)
        if comm.is_main_process():
            numbers = headline(evaluate(dataset, predictions, cfg.MODEL.MASK_ON, recipe.TRANSFER.EVALUATOR).metrics)
            logger.info("%s: %s", name, ", ".join(f"{key} {value:.2f}" for key, value in numbers.items()))
            prefix = f"{name}/" if len(tests) > 1 else ""
            found.update({f"{prefix}{key}": value for key, value in numbers.items()})
    return found


def _training_set(recipe: Recipe) -> DetectionDataset:
    names = dataset_names(recipe.DATASETS.TRAIN)
    dataset = get_detection_datasets(names)
    check_classes(recipe, dataset)
    if recipe.MODEL.MASK_ON:
        require_masks(dataset)
    register(dataset, catalog_name(names))
    return dataset


def _local_process_group() -> None:
    # detectron2 wants to know the processes of this machine; its own launcher would have made the group.
    if dist.is_available() and dist.is_initialized() and detectron2_comm._LOCAL_PROCESS_GROUP is None:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
        detectron2_comm.create_local_process_group(local)


def _diverged(error: Exception, trainer: Any, optimizer: Any, loader: TrainingLoader) -> str:
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    return (
        f"the fine-tuning diverged at iteration {trainer.iter} (lr {rates[-1]:.3g}, batch: "
        f"{', '.join(loader.last_files)}): {' '.join(str(error).split())}; lower SOLVER.BASE_LR or lengthen "
        "SOLVER.WARMUP_ITERS, then continue with --resume from the last good checkpoint"
    )
