"""Around a run: its folder, its seeds, its device settings."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path

import numpy as np
import torch

from ssl_loc.checkpoint import Checkpointer, load_checkpoint
from ssl_loc.checkpoint.resume import check_resumable
from ssl_loc.config import CfgNode
from ssl_loc.engine.step import DTYPES
from ssl_loc.utils import comm
from ssl_loc.utils.env import collect_env
from ssl_loc.utils.errors import ConfigError, check_choice
from ssl_loc.utils.events import METRICS_FILE
from ssl_loc.utils.file_io import write_text

_logger = logging.getLogger(__name__)


def open_run_folder(cfg: CfgNode, resume: bool) -> dict | None:
    """Look into ``OUTPUT_DIR``: the checkpoint to continue, or None to start.

    Raises:
        ConfigError: it is no folder and cannot become one, it already holds a run and ``resume`` is not asked for, or
            it holds one of another config.
    """
    _check_folder(Path(cfg.OUTPUT_DIR))
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    last = checkpointer.last()
    if not resume:
        metrics = Path(cfg.OUTPUT_DIR) / METRICS_FILE
        if last is not None or (metrics.is_file() and metrics.stat().st_size):
            what = f"checkpoint {last.name}" if last is not None else f"{METRICS_FILE}, no checkpoint"
            raise ConfigError(
                f"OUTPUT_DIR {cfg.OUTPUT_DIR} already holds a run ({what}); continue it with --resume, give another "
                "OUTPUT_DIR, or remove it yourself: nothing is ever overwritten"
            )
        return None
    if last is None:
        return None
    checkpoint = load_checkpoint(last)
    checkpoint["path"] = str(last)
    checkpoint["changes"] = check_resumable(checkpoint["config"], cfg.to_dict(), str(last))
    return checkpoint


def _check_folder(folder: Path) -> None:
    """Whether ``OUTPUT_DIR`` is, or can be made, a folder to write into. Makes nothing."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"OUTPUT_DIR is {folder}, but {there} is not a folder; give a folder for this run")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"OUTPUT_DIR is {folder}, but {there} cannot be written into; give a folder of your own")


def write_run_files(cfg: CfgNode) -> None:
    """config.yaml and env.txt of the run (main process only)."""
    if not comm.is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    write_text(folder / "config.yaml", cfg.dump_yaml())
    write_text(folder / "env.txt", collect_env() + "\n")


def log_start(cfg: CfgNode, resume: bool, checkpoint: dict | None) -> None:
    """Say where the run starts from and which keys changed."""
    if checkpoint is not None:
        _logger.info("continuing %s after %d iterations", checkpoint["path"], checkpoint["iteration"])
        for change in checkpoint["changes"]:
            _logger.info("changed since that checkpoint: %s", change)
    elif resume:
        _logger.info("--resume: no checkpoint in %s, so the run starts at iteration 0", cfg.OUTPUT_DIR)
    else:
        _logger.info("new run in %s", cfg.OUTPUT_DIR)


def seed_everything(seed: int) -> None:
    """Seed the global generators, equally in every process (initial weights must agree).

    Data order and augmentation do not use them; see ``ssl_loc/data/rng.py``.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_determinism(deterministic: bool) -> None:
    """``ENGINE.DETERMINISTIC``: deterministic kernels on the GPU, else the fastest ones cuDNN finds.

    What has no deterministic kernel (some scatter and pooling gradients) is named by torch in a warning.
    """
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        # cuBLAS wants its workspace fixed before the first call.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)


def amp_dtype(cfg: CfgNode, device: torch.device) -> str | None:
    """ "bf16", "fp16", or None where ``SOLVER.AMP.ENABLED`` is off.

    Raises:
        ConfigError: unknown type, or fp16 on the CPU.
    """
    kind = check_choice("SOLVER.AMP.DTYPE", cfg.SOLVER.AMP.DTYPE, tuple(DTYPES))
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    if kind == "fp16" and device.type == "cpu":
        raise ConfigError(
            "SOLVER.AMP.DTYPE is 'fp16' on the CPU, where half precision is slow and its gradients vanish; set "
            "SOLVER.AMP.DTYPE bf16, or SOLVER.AMP.ENABLED False"
        )
    if kind == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"SOLVER.AMP.DTYPE is 'bf16' but {torch.cuda.get_device_name(device)} has no bf16; set SOLVER.AMP.DTYPE "
            "fp16, or SOLVER.AMP.ENABLED False"
        )
    return kind


def config_equal_everywhere(cfg: CfgNode) -> None:
    """Refuse processes that were started with different configs. Collective.

    Raises:
        ConfigError: another process has another config.
    """
    texts = comm.all_gather_object(json.dumps(cfg.to_dict(), sort_keys=True))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            raise ConfigError(
                f"process {rank} was started with another config than process 0; give all the same command"
            )
