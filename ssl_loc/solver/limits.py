"""What the keys of a run's length, optimiser and schedule may be; each wrong one is one sentence."""

from __future__ import annotations

from collections.abc import Callable

from ssl_loc.config import CfgNode
from ssl_loc.utils.errors import ConfigError

_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "SOLVER.IMS_PER_BATCH": (lambda v: v >= 1, "a number of images >= 1"),
    "SOLVER.REFERENCE_BATCH": (lambda v: v >= 1, "a number of images >= 1"),
    "SOLVER.ACCUMULATE": (lambda v: v >= 1, "a number of parts >= 1"),
    "SOLVER.BASE_LR": (lambda v: 0 < v < float("inf"), "a number > 0"),
    "SOLVER.MOMENTUM": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "SOLVER.WEIGHT_DECAY": (lambda v: 0 <= v < float("inf"), "a number >= 0"),
    "SOLVER.WEIGHT_DECAY_NORM": (
        lambda v: v == -1 or 0 <= v < float("inf"),
        "a number >= 0, or -1 for the optimiser's custom",
    ),
    # torch would flip the gradient's sign at a negative limit.
    "SOLVER.CLIP_NORM": (lambda v: 0 <= v < float("inf"), "a norm > 0, or 0 for no clipping"),
    "SOLVER.MAX_ITER": (lambda v: v >= 0, "a number of steps, or 0 to take EPOCHS"),
    "SOLVER.EPOCHS": (lambda v: 0 <= v < float("inf"), "a number of epochs, or 0 to take MAX_ITER"),
    "SOLVER.WARMUP_ITERS": (lambda v: v >= 0, "a number of steps >= 0"),
    "SOLVER.WARMUP_FACTOR": (lambda v: 0 <= v <= 1, "a number in [0, 1]"),
    "SOLVER.GAMMA": (lambda v: 0 < v < float("inf"), "a number > 0"),
    "ENGINE.LOG_PERIOD": (lambda v: v >= 1, "a number of steps >= 1"),
    "ENGINE.CHECKPOINT_PERIOD": (lambda v: v >= 0, "a number of steps, or 0 for only at the end"),
    "ENGINE.KEEP_CHECKPOINTS": (lambda v: v >= 1, "a number of checkpoints >= 1"),
    "VERSION": (lambda v: v == 1, "1, the version of the key names of this release"),
}


def check_limits(cfg: CfgNode) -> None:
    """Raise :class:`ConfigError` for the first key whose value cannot work."""
    for key, (works, expected) in _LIMITS.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        if not works(value):
            raise ConfigError(f"{key} is {value}; expected {expected}")
    steps = cfg.SOLVER.STEPS
    numbers = all(isinstance(step, (int, float)) and 0 < step < 1 for step in steps)
    if not numbers or list(steps) != sorted(set(steps)):
        raise ConfigError(f"SOLVER.STEPS is {list(steps)}; expected ascending fractions of the run between 0 and 1")
    if not cfg.OUTPUT_DIR:
        raise ConfigError("OUTPUT_DIR is empty; expected the folder this run may write into")
