"""A hook that says when the features have collapsed, or ends the run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.engine.train_loop import Hook, TrainLoop
from ssl_loc.utils.errors import ConfigError, UserError

ACTIONS = ("off", "warn", "stop")
_REMEDIES = (
    "Usual remedies: a lower SOLVER.BASE_LR, longer SOLVER.WARMUP_ITERS, a larger batch or queue, a slower target "
    "(MODEL.MOCO.M, MODEL.BYOL.TAU nearer to 1); docs/reading-the-curves.md shows such a run"
)
_logger = logging.getLogger(__name__)


class CollapseError(UserError):
    """The features have collapsed and ``ENGINE.COLLAPSE.ACTION`` is stop."""


class CollapseAlarm(Hook):
    """Warns of a collapse, once and then every so often while it lasts, or ends the run.

    Args:
        action: "warn", "stop" (raise), or "off".
        std: collapsed where the spread of q or of the trunk is below this share of the even one, 1 / sqrt(D) ...
        rank: ... or its effective rank is below this.
        patience: measurements in a row, one per ``ENGINE.LOG_PERIOD`` steps, before the alarm: all features of an
            untrained network are alike, and some runs leave that state only after some steps.
        repeat: measurements between two warnings.

    Raises:
        ConfigError: a value is out of range, naming the key.
    """

    def __init__(
        self, action: str = "warn", std: float = 0.05, rank: float = 2.0, patience: int = 3, repeat: int = 50
    ) -> None:
        _check(action, std, rank, patience, repeat)
        self.action, self.std, self.rank, self.patience, self.repeat = action, std, rank, patience, repeat
        self.warnings = 0
        self._in_a_row = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.ENGINE.COLLAPSE
        return {
            "action": node.ACTION,
            "std": node.STD,
            "rank": node.RANK,
            "patience": node.PATIENCE,
            "repeat": node.REPEAT,
        }

    def after_step(self, loop: TrainLoop) -> None:
        if self.action != "off" and loop.monitor and loop.result is not None:
            # Equal in every process, so all of them warn, or raise, at the same step.
            self.watch(loop.iteration + 1, {name: float(v) for name, v in loop.result.log.items() if _watched(name)})

    def watch(self, done: int, values: Mapping[str, float]) -> None:
        """Take one measurement, after ``done`` steps.

        Raises:
            CollapseError: the features have collapsed and the action is "stop".
        """
        signs = self.signs(values)
        self._in_a_row = self._in_a_row + 1 if signs else 0
        beyond = self._in_a_row - self.patience
        if beyond < 0 or beyond % self.repeat:
            return
        text = f"the features have collapsed at iteration {done}: {' and '.join(signs)}"
        if self.action == "stop":
            raise CollapseError(
                f"{text}. Stopped by ENGINE.COLLAPSE.ACTION stop; nothing was written over the last checkpoint. "
                f"{_REMEDIES}"
            )
        self.warnings += 1
        _logger.warning("%s, for %d measurements. %s", text, self._in_a_row, _REMEDIES)

    def signs(self, values: Mapping[str, float]) -> list[str]:
        """What is collapsed, in words; NaN is none (the finite check reports it)."""
        found = []
        for place, std, rank in (
            ("embedding", "feature_std", "effective_rank"),
            ("trunk", "trunk_std", "trunk_effective_rank"),
        ):
            ratio = values[std] / values[f"{std}_ideal"] if std in values else 1.0
            if ratio < self.std:
                found.append(f"the spread of the {place} ({std}) is {ratio:.3f} of an even one (alarm: {self.std:g})")
            if values.get(rank, self.rank) < self.rank:
                found.append(f"the {place} uses {values[rank]:.2f} dimensions ({rank}, alarm: {self.rank:g})")
        return found


def _watched(name: str) -> bool:
    return name.startswith(("feature_std", "effective_rank", "trunk_"))


def _check(action: str, std: float, rank: float, patience: int, repeat: int) -> None:
    wrong = {
        "ACTION": action not in ACTIONS and (repr(action), f"one of {', '.join(ACTIONS)}"),
        "STD": not 0 <= std < 1 and (std, "a share in [0, 1)"),
        "RANK": not rank >= 0 and (rank, "a number >= 0"),
        "PATIENCE": patience < 1 and (patience, "a number >= 1"),
        "REPEAT": repeat < 1 and (repeat, "a number >= 1"),
    }
    for key, problem in wrong.items():
        if problem:
            raise ConfigError(f"ENGINE.COLLAPSE.{key} is {problem[0]}; expected {problem[1]}")
