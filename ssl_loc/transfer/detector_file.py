"""Detectors on disk: which engine wrote a file, what it says of itself, and its tensors for either engine."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.checkpoint.files import (
    BACKBONE_FORMAT,
    DETECTOR_FORMAT,
    describe,
    detector_engine,
    format_of,
    read_torch_file,
)
from ssl_loc.checkpoint.inferred_backbone import infer_backbone
from ssl_loc.transfer.detector_names import detector_from_detectron2, detector_to_detectron2
from ssl_loc.transfer.weights import BATCH_COUNTER, check_finite, shorten
from ssl_loc.utils.errors import WeightsError

logger = logging.getLogger(__name__)

TORCHVISION, DETECTRON2 = "torchvision", "detectron2"
# Version of the torchvision engine's files.
DETECTOR_VERSION = 1
FINAL = "model_final.pth"
# What a file says about itself; the torchvision engine's has these beside "model", detectron2's under "about".
ABOUT = ("recipe", "backbone", "trunk", "processes", "classes")
# Tensors that old detectron2 files hold and newer ones compute: constants of the config.
_CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")


@dataclass(frozen=True)
class DetectorFile:
    """One detector.

    Attributes:
        engine: whose names and layout ``model`` has, "torchvision" or "detectron2".
        model: every tensor of the detector, on the CPU.
        about: "recipe", "backbone", "trunk", "processes" (their number) and "classes" (names in order) as far as the
            file tells them; nothing if detectron2's own trainer wrote it.
        constants: pixel statistics and anchors that an old detectron2 stored as tensors.
        content: the whole file, for resuming.
    """

    path: Path
    engine: str
    model: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        """ "C4" or "FPN", by the names."""
        return "FPN" if any(key.startswith(("backbone.bottom_up.", "fpn.")) for key in self.model) else "C4"

    def backbone(self) -> dict[str, Any]:
        """Description of its trunk: as stored, else by the shapes of its tensors."""
        stored = self.about.get("backbone")
        if isinstance(stored, Mapping):
            return dict(stored)
        prefixes = ("trunk.", "roi_heads.box_head.")
        state = self.state_for(TORCHVISION)
        trunk = {key.removeprefix(p): value for p in prefixes for key, value in state.items() if key.startswith(p)}
        return infer_backbone(trunk)

    def state_for(self, engine: str) -> dict[str, Tensor]:
        """The tensors in the names and layout of ``engine``.

        Raises:
            WeightsError: a tensor that the other engine has no place for, by name.
        """
        if engine == self.engine:
            return dict(self.model)
        convert = detector_from_detectron2 if engine == TORCHVISION else detector_to_detectron2
        try:
            return convert(self.model, self.arch, self.first_level())
        except WeightsError as error:
            raise WeightsError(f"{self.path} cannot be converted for the {engine} engine: {error}") from None

    def first_level(self) -> int:
        """log2 of the stride (image px) of the finest pyramid level; 2 where there is no pyramid."""
        if self.arch == "C4":
            return 2
        if self.engine == DETECTRON2:
            names = [key.split(".")[1] for key in self.model if key.startswith("backbone.fpn_lateral")]
            levels = [int(digits) for name in names if (digits := name.removeprefix("fpn_lateral")).isdigit()]
            return min(levels, default=2)
        from ssl_loc.modeling.backbone import build_backbone_from_description

        with torch.device("meta"):
            strides = build_backbone_from_description(self.backbone()).strides
        features = self.about.get("recipe", {}).get("MODEL", {}).get("FPN", {}).get("IN_FEATURES") or ["res2"]
        return int(math.log2(strides[features[0]]))


def read_detector(path: str | Path) -> DetectorFile:
    """Read a detector of either engine, or of detectron2's own trainer.

    Raises:
        WeightsError: it is something else (a backbone, a broken file), or holds NaN or infinite values.
    """
    path = Path(path)
    content = read_torch_file(path)
    engine = _written_by(content)
    if not engine:
        hint = "; leave out --eval-only to fine-tune from it" if format_of(content) == BACKBONE_FORMAT else ""
        raise WeightsError(
            f"{path} is {describe(content)}; expected a detector (the {FINAL} that a fine-tuning on either engine, or "
            f"detectron2's own trainer, wrote to its OUTPUT_DIR){hint}"
        )
    if engine == TORCHVISION and content.get("version") != DETECTOR_VERSION:
        raise WeightsError(f"{path} has version {content.get('version')}; this code reads version {DETECTOR_VERSION}")
    told = content if engine == TORCHVISION else content.get("about")
    about = {key: told[key] for key in ABOUT if key in told} if isinstance(told, Mapping) else {}
    tensors, constants = _tensors(content["model"], path)
    check_finite(tensors, str(path), "the fine-tuning diverged or the file was damaged, use an earlier checkpoint")
    return DetectorFile(path, engine, tensors, about, constants, content)


def read_to_continue(path: str | Path, engine: str) -> dict[str, Any]:
    """The content of a checkpoint that ``engine`` wrote and can go on from.

    Raises:
        WeightsError: another engine's, or one without an optimiser.
    """
    file = read_detector(path)
    if file.engine != engine:
        raise WeightsError(
            f"{path} is a detector that was fine-tuned on the {file.engine} engine, and a run is continued on the "
            f"engine that began it; give --engine {file.engine}, or another OUTPUT_DIR"
        )
    if engine == TORCHVISION and "optimizer" not in file.content:
        raise WeightsError(
            f"{path} was converted from another engine and holds no optimiser; it can be evaluated (--eval-only), not "
            "continued"
        )
    return file.content


def restore_detector(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> int:
    """Load a whole detector strictly and compare bit by bit; returns how many tensors arrived.

    Only batch counters, which frozen norm layers of detectron2 do not have and no forward pass reads, may be absent on
    either side.

    Raises:
        WeightsError: listing tensors that are missing, have no place, another shape or another value.
    """
    own = model.state_dict()
    wanted = {key: value for key, value in state.items() if key in own or not key.endswith(BATCH_COUNTER)}
    problems = [f"{key} is missing" for key in own if key not in wanted and not key.endswith(BATCH_COUNTER)]
    problems += [f"{key} is not part of this detector" for key in wanted if key not in own]
    problems += [
        f"{key} is {tuple(wanted[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    if not problems:
        model.load_state_dict(wanted, strict=False)
        now = model.state_dict()
        problems = [
            f"{k} differs in value" for k, v in wanted.items() if not torch.equal(now[k].cpu(), v.to(now[k].dtype))
        ]
    if problems:
        raise WeightsError(
            f"{source} does not fit the recipe's detector, {len(problems)} problem(s): {shorten(problems, '; ')}. Use "
            "the recipe and the weights that it was trained with, or another OUTPUT_DIR"
        )
    return len(wanted)


def load_detector_into(model: nn.Module, file: DetectorFile, engine: str) -> None:
    """Fill ``model`` (of ``engine``) with a detector of either engine; one line in the log."""
    count = restore_detector(model, file.state_for(engine), file.path)
    how = "" if file.engine == engine else f", written by the {file.engine} engine and converted"
    logger.info("detector %s%s: %d tensors, every one used, bit-equal", file.path, how, count)


def _written_by(content: Any) -> str:
    """ "torchvision", "detectron2", or "" for what is no detector."""
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping):
        return ""
    if format_of(content):
        known = format_of(content) == DETECTOR_FORMAT and detector_engine(content) == TORCHVISION
        return TORCHVISION if known else ""
    # Other files have a "backbone." too; a two-stage detector of detectron2 has both, whoever trained it.
    pieces = ("backbone.", "proposal_generator.")
    both = all(any(str(key).startswith(p) for key in model) for p in pieces)
    return DETECTRON2 if both or detector_engine(content) == DETECTRON2 else ""


def _tensors(model: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors of the detector, constants of its config)."""
    tensors: dict[str, Tensor] = {}
    constants: dict[str, Tensor] = {}
    for key, value in model.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{key} in {path} is a {type(value).__name__}, no tensor; the file was changed")
        (constants if str(key).startswith(_CONSTANTS) else tensors)[str(key)] = value
    return tensors, constants
