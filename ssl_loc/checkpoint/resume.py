"""May this checkpoint be continued with this config?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ssl_loc.utils.errors import ConfigError

# Keys that may change between a run and its resumption: where it writes, how it is fed and watched, how long it is, and
# where it computes (equal up to rounding).
FREE_KEYS = frozenset(
    {
        "IMPORTS",
        "OUTPUT_DIR",
        "DEVICE",
        "DATA.NUM_WORKERS",
        "DATA.MAX_BAD_IMAGES",
        "MODEL.CHANNELS_LAST",
        "MODEL.COMPILE",
        "SOLVER.EPOCHS",
        "SOLVER.MAX_ITER",
        "ENGINE.LOG_PERIOD",
        "ENGINE.CHECKPOINT_PERIOD",
        "ENGINE.KEEP_CHECKPOINTS",
        "ENGINE.DETERMINISTIC",
        "ENGINE.COLLAPSE.ACTION",
        "ENGINE.COLLAPSE.STD",
        "ENGINE.COLLAPSE.RANK",
        "ENGINE.COLLAPSE.PATIENCE",
        "ENGINE.COLLAPSE.REPEAT",
        "ENGINE.EVAL_KNN.PERIOD",
        "ENGINE.EVAL_KNN.DATA",
        "ENGINE.EVAL_KNN.LIMIT",
        "ENGINE.EVAL_KNN.K",
        "ENGINE.EVAL_KNN.T",
        "ENGINE.EVAL_KNN.SIZE",
        "ENGINE.EVAL_KNN.BATCH_SIZE",
    }
)
# Weights only, read once at the start of the first run; a resumed run takes all its weights from the checkpoint.
_START_KEYS = frozenset({"MODEL.INIT_FROM"})
# Differences listed in an error before it says "and N more".
_LISTED = 12


def check_resumable(
    stored: dict[str, Any],
    current: dict[str, Any],
    checkpoint: str,
    free: Collection[str] = FREE_KEYS,
    instead: str = "",
) -> list[str]:
    """Compare the plain configs of a checkpoint and of the run that wants to continue it.

    Args:
        free: keys that may differ.
        instead: what to do if that is not wanted (in a sentence after "or"); default: start from these weights.

    Keys that only one of them knows belong to parts that came or went with a version or a project, and are let pass.

    Returns:
        The allowed differences, as "KEY old -> new".

    Raises:
        ConfigError: a key differs that would change the run; all such keys are listed.
    """
    before, now = flatten(stored), flatten(current)
    changed = {
        key: f"{key} {before[key]!r} -> {now[key]!r}"
        for key in now
        if key in before and before[key] != now[key] and key not in _START_KEYS
    }
    refused = [text for key, text in changed.items() if key not in free]
    if refused:
        instead = (
            instead or f"start a new run from its weights with another OUTPUT_DIR and MODEL.INIT_FROM {checkpoint}"
        )
        more = f" and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        raise ConfigError(
            f"{checkpoint} was made with another config, so --resume would continue another run: "
            f"{'; '.join(refused[:_LISTED])}{more}. Give the run's own values, or {instead}"
        )
    return [text for key, text in changed.items() if key in free]


def flatten(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested dict -> {"A.B": value}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
