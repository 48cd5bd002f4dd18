"""Build a run from a config and train it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssl_loc.checkpoint import Checkpointer, read_backbone
from ssl_loc.checkpoint.backbone_source import in_rgb
from ssl_loc.checkpoint.metadata import run_metadata
from ssl_loc.config import CfgNode, construct
from ssl_loc.data.augmenters.build import build_device_photometric
from ssl_loc.data.build import PretrainLoader, build_pretrain_loader
from ssl_loc.engine import setup
from ssl_loc.engine.batch import check_batch, describe_run, model_cfg, run_length
from ssl_loc.engine.collapse_alarm import CollapseAlarm
from ssl_loc.engine.guard import Guard
from ssl_loc.engine.hooks import LearningRate, PeriodicCheckpoint
from ssl_loc.engine.knn_hook import EvalKNN
from ssl_loc.engine.launch import roll_call
from ssl_loc.engine.log_hook import Log
from ssl_loc.engine.model import TrainingModel
from ssl_loc.engine.signals import StopRequest
from ssl_loc.engine.state import RunState
from ssl_loc.engine.step import TrainStep
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.losses import build_losses
from ssl_loc.modeling import Backbone, Method, build_method
from ssl_loc.solver import Schedule, build_optimizer, build_schedule
from ssl_loc.solver.limits import check_limits
from ssl_loc.structures import Views
from ssl_loc.utils import comm
from ssl_loc.utils.device import choose_device
from ssl_loc.utils.errors import UserError, WeightsError
from ssl_loc.utils.events import JsonlWriter, TensorBoardWriter, Writer
from ssl_loc.utils.logger import close_logger, setup_logger

_logger = logging.getLogger(__name__)
# Pixel statistics (0..255) closer than this count as equal; constants are quoted with 2 or 3 decimals.
PIXEL_TOLERANCE = 0.01
# How torch says, in a plain RuntimeError, that the CPU has no room for a tensor.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def train(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Pretrain as ``cfg`` says; every process of a run calls this (see :func:`ssl_loc.engine.launch`).

    Args:
        cfg: a complete config.
        resume: continue the last checkpoint of ``OUTPUT_DIR``; start where there is none.

    Returns:
        "iteration" (steps made), "checkpoint" (path of the last one), "output_dir", "stopped_by" (signal number, 0 =
        ran to its end) and "metrics" (numbers of the last log line), plain values.

    Raises:
        UserError: the run cannot start or cannot go on; nothing of an earlier run has been touched.
    """
    check_limits(cfg)
    checkpoint = setup.open_run_folder(cfg, resume)
    comm.barrier()  # nobody creates files before everybody has looked
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank())
    try:
        # Before the loader starts its workers, which inherit the handlers.
        with StopRequest() as stop:
            return _train(cfg, resume, checkpoint, stop)
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(out_of_memory(cfg, str(error))) from None
    except RuntimeError as error:
        if not any(text in str(error) for text in _NO_MEMORY):
            raise
        raise UserError(out_of_memory(cfg, str(error), "CPU")) from None
    finally:
        close_logger()


def _train(cfg: CfgNode, resume: bool, checkpoint: dict[str, Any] | None, stop: StopRequest) -> dict[str, Any]:
    device = choose_device(cfg.DEVICE)
    roll_call(device)
    setup.config_equal_everywhere(cfg)
    per_process = check_batch(cfg, comm.get_world_size())
    setup.set_determinism(cfg.ENGINE.DETERMINISTIC)
    setup.seed_everything(cfg.SEED)
    setup.write_run_files(cfg)
    setup.log_start(cfg, resume, checkpoint)
    start = checkpoint["iteration"] if checkpoint else 0
    loader = build_pretrain_loader(cfg, start_iteration=start)
    schedule = build_schedule(cfg, run_length(cfg, loader.batches_per_epoch), loader.batches_per_epoch)
    sizes = (per_process, comm.get_world_size(), loader.dataset_size, loader.batches_per_epoch)
    _logger.info("%s", describe_run(cfg, schedule, *sizes))
    step = build_step(cfg, device, loader.dataset_size, from_scratch=checkpoint is None)
    meta = run_metadata(cfg, step.model, step.model.method, loader.dataset_size, loader.mask_info)
    state = RunState(step, cfg.to_dict(), meta)
    loop = _build_loop(cfg, loader, schedule, state, stop, start)
    if checkpoint:
        # Last of all: whatever was built before may have drawn random numbers.
        state.restore(checkpoint, checkpoint["path"])
    if start >= schedule.max_iter:
        _logger.info("nothing to do: %d of %d iterations are done", start, schedule.max_iter)
    else:
        step.model.train()
        loop.train()
    return _summary(cfg, loop)


def build_step(cfg: CfgNode, device: torch.device, dataset_size: int, from_scratch: bool = True) -> TrainStep:
    """Method, losses and optimiser on ``device``, as one step; ``from_scratch`` heeds ``MODEL.INIT_FROM``."""
    precision = setup.amp_dtype(cfg, device)
    cfg_of_model = model_cfg(cfg)
    method = build_method(cfg_of_model)
    if cfg.MODEL.INIT_FROM and from_scratch:
        init_trunks(method, cfg.MODEL.INIT_FROM)
    method.prepare(dataset_size, run_length(cfg, max(1, dataset_size // cfg.SOLVER.IMS_PER_BATCH)))
    model = TrainingModel(method, build_losses(cfg_of_model)).to(device)
    return TrainStep(
        model,
        build_optimizer(cfg, model),
        device,
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_norm=cfg.SOLVER.CLIP_NORM,
        amp_dtype=precision,
        photometric=build_device_photometric(cfg),
        distributed=comm.is_distributed(),
    )


def init_trunks(method: Method, path: str) -> None:
    """``MODEL.INIT_FROM``: put the trunk of a run, an export or a foreign checkpoint into every trunk of ``method``.

    Raises:
        WeightsError: a name, a shape or the pixel statistics differ; nothing is loaded partly.
    """
    file = in_rgb(read_backbone(path), path)
    for key in ("pixel_mean", "pixel_std"):
        own = [float(v) for v in getattr(method, key).flatten()]
        if any(abs(a - b) > PIXEL_TOLERANCE for a, b in zip(own, file.meta[key], strict=True)):
            raise WeightsError(
                f"MODEL.INIT_FROM {path} was trained with {key} {file.meta[key]}, this config has {own}; set "
                f"MODEL.{key.upper()} to the file's"
            )
    for trunk in (m for m in method.modules() if isinstance(m, Backbone)):
        try:
            trunk.load_state_dict(file.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"MODEL.INIT_FROM {path} holds the trunk {file.meta['backbone']}, this config builds "
                f"{trunk.describe()} ({reason}); set MODEL.BACKBONE and its node to the file's"
            ) from None
    _logger.info("trunk weights from %s (digest %s); heads start anew", path, file.meta["digest"])


def _build_loop(
    cfg: CfgNode, loader: PretrainLoader, schedule: Schedule, state: RunState, stop: StopRequest, start: int
) -> TrainLoop:
    engine = cfg.ENGINE
    writers: list[Writer] = []
    if comm.is_main_process() and start < schedule.max_iter:
        writers = [JsonlWriter(cfg.OUTPUT_DIR, start), TensorBoardWriter(cfg.OUTPUT_DIR, start)]
    log = Log(writers, engine.LOG_PERIOD, cfg.SOLVER.IMS_PER_BATCH, loader.batches_per_epoch)
    hooks: list[Hook] = [
        LearningRate(schedule),
        # Before everything that writes.
        Guard(stop, cfg.OUTPUT_DIR, engine.CHECKPOINT_PERIOD),
        *([construct(EvalKNN, cfg)] if engine.EVAL_KNN.PERIOD else []),
        log,
        # After the numbers are written, before a checkpoint of collapsed weights.
        construct(CollapseAlarm, cfg),
        PeriodicCheckpoint(Checkpointer(cfg.OUTPUT_DIR, engine.KEEP_CHECKPOINTS), state, engine.CHECKPOINT_PERIOD),
    ]
    batches: Iterator[Views] = iter(loader)
    return TrainLoop(state.step, batches, hooks, schedule.max_iter, start)


def _summary(cfg: CfgNode, loop: TrainLoop) -> dict[str, Any]:
    last = Checkpointer(cfg.OUTPUT_DIR).last()
    metrics = next(hook.latest for hook in loop.hooks if isinstance(hook, Log))
    _logger.info("%s after %d iterations: %s", "stopped" if loop.stopped_by else "done", loop.iteration, last)
    return {
        "iteration": loop.iteration,
        "checkpoint": str(last) if last else "",
        "output_dir": str(Path(cfg.OUTPUT_DIR)),
        "stopped_by": loop.stopped_by,
        "metrics": dict(metrics),
    }


def out_of_memory(cfg: CfgNode, reason: str, device: str = "GPU") -> str:
    """The sentence for a ``device`` that is too small, with the keys that help."""
    solver, world = cfg.SOLVER, comm.get_world_size()
    # What holds the negatives, where a method has such a thing.
    key = {"MoCo": "MODEL.MOCO.K", "InstDisc": "MODEL.INSTDISC.K"}.get(cfg.MODEL.METHOD, "")
    queue = {"MoCo": cfg.MODEL.MOCO.K, "InstDisc": cfg.MODEL.INSTDISC.K}.get(cfg.MODEL.METHOD, 0)
    return (
        f"out of {device} memory with SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} on {world} "
        f"process{'es' if world > 1 else ''}, AUGMENT.SIZE {cfg.AUGMENT.SIZE}{f', {key} {queue}' if queue else ''}: "
        f"{reason.splitlines()[0]} Use any of: SOLVER.ACCUMULATE {solver.ACCUMULATE * 2} (same batch in more parts), "
        "SOLVER.AMP.ENABLED True (half the memory), a smaller SOLVER.IMS_PER_BATCH (the lr follows by "
        "SOLVER.LR_SCALING), a smaller AUGMENT.SIZE, "
        f"{f'a smaller {key}, ' if queue else ''}or more GPUs (--num-gpus)"
    )
