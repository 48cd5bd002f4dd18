"""May the run in OUTPUT_DIR be continued with this recipe?"""

from __future__ import annotations

import logging
from pathlib import Path

from ssl_loc.checkpoint.resume import check_resumable
from ssl_loc.transfer.detector_file import read_detector
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.utils.comm import get_world_size
from ssl_loc.utils.errors import ConfigError, WeightsError

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
# Keys that may change between a run and its resumption: where it writes, how it is fed, watched and tested, how long
# it is, and where it computes (equal up to rounding).
FREE_KEYS = frozenset(
    {
        "OUTPUT_DIR",
        "TRANSFER.ENGINE",
        "TRANSFER.EVALUATOR",
        "TRANSFER.LOG_PERIOD",
        "TRANSFER.ALLOW_NONSTANDARD",
        "MODEL.DEVICE",
        "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "MODEL.RPN.POST_NMS_TOPK_TEST",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        "INPUT.MIN_SIZE_TEST",
        "INPUT.MAX_SIZE_TEST",
        "DATASETS.TEST",
        "DATALOADER.NUM_WORKERS",
        "SOLVER.MAX_ITER",
        "SOLVER.STEPS",
        "SOLVER.CHECKPOINT_PERIOD",
        "TEST.DETECTIONS_PER_IMAGE",
        "TEST.EVAL_PERIOD",
        "CUDNN_BENCHMARK",
        "FLOAT32_PRECISION",
        "VIS_PERIOD",
    }
)


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run of either engine, or None.

    Raises:
        WeightsError: the run names one that is not there.
    """
    pointer = output_dir / LAST
    if not pointer.is_file():
        return None
    path = output_dir / pointer.read_text(encoding="utf-8").strip()
    if not path.is_file():
        raise WeightsError(f"{pointer} names {path.name}, which is not there; delete the pointer to start again")
    return path


def check_continues(recipe: Recipe, output_dir: Path, trunk: str, processes: int | None = None) -> None:
    """Whether ``--resume`` goes on with the same run; says what starts anew and which keys changed.

    Args:
        recipe: scaled to ``processes``.
        trunk: digest of the trunk that is given now.
        processes: of the run to be; None takes those that are here.

    Raises:
        ConfigError: another trunk, or a key differs that would change the run; all such keys are listed.
        WeightsError: the checkpoint cannot be read.
    """
    path = last_checkpoint(output_dir)
    if path is None:
        logger.info("--resume: no checkpoint in %s, so the run starts at iteration 0", output_dir)
        return
    world = get_world_size() if processes is None else processes
    about = read_detector(path).about
    _require_same_trunk(about.get("trunk", {}).get("digest"), trunk, path)
    if "recipe" in about:
        now = scale_to_processes(recipe, world).to_dict()
        instead = "start a new run with another OUTPUT_DIR"
        for change in check_resumable(about["recipe"], now, str(path), FREE_KEYS, instead):
            logger.info("changed since %s: %s", path.name, change)
    before = about.get("processes", world)
    if before != world:
        logger.warning(
            "%s was written by %d processes and %d continue it: the images come in another order, so the weights will "
            "not be those of a run without a stop",
            path.name,
            before,
            world,
        )


def _require_same_trunk(before: str | None, now: str, path: Path) -> None:
    """The numbers of a run stand beside the digest of the trunk that it is given."""
    if before is None:
        logger.warning("%s does not say which trunk its run began with; it is taken to be this one (%s)", path, now)
    elif before != now:
        raise ConfigError(
            f"--resume: the run of {path} began with trunk {before}, and --weights gives trunk {now}; give the weights "
            "that it began with, or another OUTPUT_DIR for a new run"
        )
