"""How the global batch is cut over processes, accumulation steps and norm groups, and what that does to the run."""

from __future__ import annotations

import logging
import math

from ssl_loc.config import CfgNode
from ssl_loc.solver import Schedule
from ssl_loc.utils.errors import ConfigError

_logger = logging.getLogger(__name__)


def check_batch(cfg: CfgNode, world: int) -> int:
    """Images per process and step.

    Raises:
        ConfigError: the batch, the processes, the accumulation steps and the norm groups do not divide; the message
            has the keys and the nearest numbers that work.
    """
    batch, parts, groups = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, cfg.MODEL.NORM_GROUPS
    for key, value in (("SOLVER.IMS_PER_BATCH", batch), ("SOLVER.ACCUMULATE", parts), ("MODEL.NORM_GROUPS", groups)):
        if value < 1:
            raise ConfigError(f"{key} is {value}; expected a number >= 1")
    cuts = world * parts
    unit, why = cuts, f"{world} process{'es' if world > 1 else ''} x SOLVER.ACCUMULATE {parts}"
    if cfg.MODEL.NORM == "SplitBN":
        if groups % cuts:
            raise ConfigError(
                f"MODEL.NORM_GROUPS is {groups}, which {why} = {cuts} parts of the batch do not share evenly (SplitBN "
                f"keeps whole groups in one part); {_ways_out(cfg, world)}"
            )
        unit, why = groups, f"MODEL.NORM_GROUPS {groups} ({why})"
    if batch % unit:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH is {batch}, which is not a multiple of {unit} = {why}; set SOLVER.IMS_PER_BATCH "
            f"{nearest(batch, unit)}"
        )
    _warn_of_leaks(cfg, world)
    return batch // world


def _ways_out(cfg: CfgNode, world: int) -> str:
    """Changes after which :func:`check_batch` finds nothing, for groups that the parts do not share."""
    batch, parts, groups = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE, cfg.MODEL.NORM_GROUPS
    cuts = world * parts
    ways = []
    if batch % cuts == 0:
        works = [g for g in range(cuts, batch + 1, cuts) if batch % g == 0]
        ways.append(f"set MODEL.NORM_GROUPS {_around(groups, works)}")
        ways.append("MODEL.NORM SyncBN or BN")
    else:
        more = math.ceil(groups / cuts) * cuts
        ways.append(f"set MODEL.NORM_GROUPS {more} with SOLVER.IMS_PER_BATCH {nearest(batch, more)}")
    if batch % groups == 0 and (counts := [w for w in range(1, groups + 1) if groups % (w * parts) == 0]):
        ways.append(f"start as many processes as --num-gpus {_around(world, counts)}")
    return ", or ".join(ways)


def _around(value: int, works: list[int]) -> str:
    """The nearest of the ascending ``works`` on both sides of ``value``, as "A or B"."""
    below, above = [w for w in works if w < value][-1:], [w for w in works if w > value][:1]
    return " or ".join(map(str, below + above))


def _warn_of_leaks(cfg: CfgNode, world: int) -> None:
    """Where queries and keys of the same images share batch statistics, the match leaks through them (MoCo paper,
    section 3.3: shuffling BN)."""
    alone = cfg.MODEL.NORM == "BN" or (
        cfg.MODEL.NORM == "SplitBN" and cfg.MODEL.NORM_GROUPS // cfg.SOLVER.ACCUMULATE == 1
    )
    if world == 1 and alone:
        _logger.warning(
            "one group of batch statistics per step (MODEL.NORM %s, NORM_GROUPS %d, SOLVER.ACCUMULATE %d, 1 process): "
            "there is nothing to shuffle, and a method with a key encoder can tell the match by its statistics. Take "
            "MODEL.NORM SplitBN with more groups than ACCUMULATE",
            cfg.MODEL.NORM,
            cfg.MODEL.NORM_GROUPS,
            cfg.SOLVER.ACCUMULATE,
        )


def nearest(value: int, unit: int) -> str:
    """The multiples of ``unit`` around ``value``, as "A or B"."""
    low, high = value // unit * unit, math.ceil(value / unit) * unit
    return f"{low} or {high}" if low else str(high)


def model_cfg(cfg: CfgNode) -> CfgNode:
    """The config the method is built from: with accumulation each part of the batch holds its share of the norm groups,
    so that a group has the same images as without."""
    if cfg.SOLVER.ACCUMULATE == 1 or cfg.MODEL.NORM != "SplitBN":
        return cfg
    part = cfg.clone()
    part.defrost()
    part.MODEL.NORM_GROUPS = cfg.MODEL.NORM_GROUPS // cfg.SOLVER.ACCUMULATE
    part.freeze()
    return part


def run_length(cfg: CfgNode, batches_per_epoch: int) -> int:
    """Optimiser steps of the run.

    Raises:
        ConfigError: neither ``SOLVER.MAX_ITER`` nor ``SOLVER.EPOCHS`` is positive.
    """
    if cfg.SOLVER.MAX_ITER > 0:
        return int(cfg.SOLVER.MAX_ITER)
    if cfg.SOLVER.EPOCHS <= 0:
        raise ConfigError("SOLVER.MAX_ITER and SOLVER.EPOCHS are both 0; give one of them: the length of the run")
    return max(1, round(cfg.SOLVER.EPOCHS * batches_per_epoch))


def describe_run(
    cfg: CfgNode, schedule: Schedule, per_process: int, world: int, images: int, batches_per_epoch: int
) -> str:
    """The numbers that follow from batch, processes and data, in one line of the log."""
    solver = cfg.SOLVER
    parts = f" in {solver.ACCUMULATE} parts" if solver.ACCUMULATE > 1 else ""
    return (
        f"global batch {solver.IMS_PER_BATCH} = {world} process{'es' if world > 1 else ''} x {per_process}{parts}; "
        f"lr {solver.BASE_LR:g} at {solver.REFERENCE_BATCH} images -> {schedule.lr:g} ({solver.LR_SCALING} scaling, "
        f"{solver.SCHEDULE} per {solver.LR_UPDATE}); warm-up {schedule.warmup_iters} iterations = "
        f"{schedule.warmup_iters * solver.IMS_PER_BATCH} images; {schedule.max_iter} iterations = "
        f"{schedule.max_iter / batches_per_epoch:.4g} epochs of {batches_per_epoch} batches ({images} images)"
    )
