"""The choice of a detection engine, and what every engine is given."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ssl_loc.transfer.clock import Clock
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.stop import Stop
from ssl_loc.utils.errors import ConfigError, EngineUnavailableError
from ssl_loc.utils.registry import Registry

logger = logging.getLogger(__name__)

# A class with a `name`, `available() -> (bool, reason)`, `version() -> str` and `run(job) -> {test set: predictions}`.
DETECTION_ENGINE_REGISTRY = Registry("DETECTION_ENGINE")

# Packages that register an engine; importing one must not import its library.
_ENGINE_ROOMS = ("ssl_loc.transfer.torchvision_engine", "ssl_loc.transfer.detectron2_engine")
# The engine of record first: "auto" takes the first one that is available.
_PREFERENCE = ("detectron2", "torchvision")
AUTO = "auto"


@dataclass(frozen=True)
class Trunk:
    """A trunk on its way into a detector.

    Attributes:
        state: tensors in torchvision's names, without ``fc``.
        meta: what the exported file says about itself: "backbone" {"name", "kwargs"}, "pixel_mean" and "pixel_std"
            (RGB, 0..255), "channel_order" "RGB", "stride_in_1x1", and its provenance.
        source: path of the file, or "random".
        digest: of the tensors (:func:`ssl_loc.checkpoint.files.tensor_digest`).
    """

    state: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    source: str = "random"
    digest: str = ""


@dataclass(frozen=True)
class TransferJob:
    """One fine-tuning or evaluation, complete and checked.

    Attributes:
        recipe: frozen.
        output_dir: where logs, checkpoints and the engine's own config go.
        trunk: weights to start from; None for evaluation only.
        detector: a detector checkpoint of the same engine, for evaluation only; else None.
        classes: names of the test sets' classes, by number; empty where unknown. Training set and detector must agree.
        resume: continue from ``output_dir``'s last checkpoint if there is one.
        clock: engines time their "training" and "prediction" with it.
        stop: engines ask it between two steps.
    """

    recipe: Recipe
    output_dir: Path
    trunk: Trunk | None = None
    detector: Path | None = None
    classes: tuple[str, ...] = ()
    resume: bool = False
    clock: Clock = field(default_factory=Clock, compare=False)
    stop: Stop = field(default_factory=Stop, compare=False)

    @property
    def eval_only(self) -> bool:
        return self.detector is not None


class DetectionEngine(Protocol):
    """What a registered engine promises."""

    name: str

    def available(self) -> tuple[bool, str]:
        """Whether the engine can run here, and why (or how to install it)."""

    def version(self) -> str:
        """Version of the library behind it; written beside every number."""

    def problems(self, recipe: Recipe) -> list[str]:
        """A sentence for each thing in a recipe that the engine cannot honour; needs neither weights nor data."""

    def rehearse(self, job: TransferJob) -> str:
        """Build the job's detector, fill in and verify its weights, write nothing; says what was loaded.

        Raises:
            UserError: recipe and weights make no detector.
        """

    def run(self, job: TransferJob) -> dict[str, list[ImagePrediction]]:
        """Fine-tune (unless ``job.eval_only``) and predict every DATASETS.TEST set.

        Returns predictions per test set on the main process and an empty dict on the others.

        Raises:
            RunStopped: ``job.stop`` asked for it; a checkpoint is on disk that ``job.resume`` continues bit by bit.
        """


def load_engines() -> None:
    """Import the rooms that register engines."""
    for room in _ENGINE_ROOMS:
        importlib.import_module(room)


def choose_engine(name: str) -> DetectionEngine:
    """The engine called ``name``; "auto" takes detectron2 where it imports, else torchvision. Logs which and why.

    Raises:
        ConfigError: unknown name.
        EngineUnavailableError: the named engine cannot run here; says how to install it.
    """
    load_engines()
    if name == AUTO:
        return _first_available()
    if name not in DETECTION_ENGINE_REGISTRY:
        known = ", ".join([AUTO, *DETECTION_ENGINE_REGISTRY.names()])
        raise ConfigError(f"engine '{name}' is unknown; expected one of {known} (--engine or TRANSFER.ENGINE)")
    engine = DETECTION_ENGINE_REGISTRY.get(name)()
    usable, reason = engine.available()
    if not usable:
        raise EngineUnavailableError(f"the {name} engine cannot run here: {reason}")
    logger.info("detection engine: %s %s, as asked for", name, engine.version())
    return engine


def _first_available() -> DetectionEngine:
    reasons: list[str] = []
    for name in _PREFERENCE:
        if name not in DETECTION_ENGINE_REGISTRY:
            continue
        engine = DETECTION_ENGINE_REGISTRY.get(name)()
        usable, reason = engine.available()
        if usable:
            why = f" ({'; '.join(reasons)})" if reasons else " (the engine of record)"
            logger.info("detection engine: %s %s%s", name, engine.version(), why)
            return engine
        reasons.append(f"{name} is not used: {reason}")
    raise EngineUnavailableError("no detection engine can run here: " + "; ".join(reasons))
