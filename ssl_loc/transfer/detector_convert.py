"""A fine-tuned detector from one engine's file to the other's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ssl_loc.checkpoint.files import DETECTOR_FORMAT, write_torch_file
from ssl_loc.transfer.detector_check import flat_config, stated_config
from ssl_loc.transfer.detector_file import (
    DETECTOR_VERSION,
    DETECTRON2,
    TORCHVISION,
    DetectorFile,
    read_detector,
)
from ssl_loc.transfer.schema import DETECTRON2_DEFAULTS
from ssl_loc.transfer.torchvision_engine.honoured import detector_problems
from ssl_loc.transfer.trunk_check import widths_of
from ssl_loc.transfer.weights import BATCH_COUNTER
from ssl_loc.utils.errors import WeightsError
from ssl_loc.utils.file_io import write_text

ENGINES = (DETECTRON2, TORCHVISION)
# Parts of a detectron2 detector by the key that names their norm layers.
_NORMS = (
    ("MODEL.RESNETS.NORM", r"backbone\.(bottom_up\.)?(stem|res\d)\.|roi_heads\.res5\."),
    ("MODEL.FPN.NORM", r"backbone\.fpn_"),
    ("MODEL.ROI_BOX_HEAD.NORM", r"roi_heads\.box_head\."),
    ("MODEL.ROI_MASK_HEAD.NORM", r"roi_heads\.mask_head\."),
)


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        source: the file as read.
        tensors: how many the new file holds.
        dropped: batch counters that detectron2's frozen norm layers do not have.
        config: yaml for detectron2 beside the file, None where the source does not say how it was trained or the other
            engine was asked for.
    """

    source: DetectorFile
    tensors: int
    dropped: int
    config: Path | None


def convert_detector(given: str | Path, to: str, out: str | Path) -> Conversion:
    """Write the detector ``given`` for engine ``to`` and check the file: back again it is the one given, bit by bit.

    Raises:
        WeightsError: no detector, already ``to``'s, or a part (a tensor, or a key of the recipe it was trained with)
            that the other engine does not have.
    """
    file = read_detector(given)
    if Path(out).resolve() == Path(given).resolve() or Path(out).is_dir():
        raise WeightsError(f"--out {out} is the detector itself or a folder; expected the name of a new file")
    if file.engine == to:
        raise WeightsError(f"{given} is a detector of the {to} engine already; nothing to convert")
    config = stated_config(file)
    flat = flat_config(config)
    if to == TORCHVISION and (problems := detector_problems(flat)):
        raise WeightsError(
            f"{given} cannot be converted to {to}: {'; '.join(problems)}. Use it with --engine detectron2"
        )
    state = file.state_for(to)
    about = {**file.about, **({"recipe": config} if config else {}), "backbone": file.backbone()}
    about["converted_from"] = file.engine
    dropped = [key for key in state if to == DETECTRON2 and _is_frozen_counter(key, flat)]
    for key in dropped:
        del state[key]
    if to == DETECTRON2:
        write_torch_file(out, {"model": state, "__author__": "ssl_loc", "about": {"engine": to, **about}})
    else:
        head = {"format": DETECTOR_FORMAT, "version": DETECTOR_VERSION, "engine": to}
        write_torch_file(out, {**head, "model": state, **about})
    _check_written(Path(out), file, set(dropped))
    beside = Path(f"{out}.yaml") if to == DETECTRON2 and config else None
    if beside:
        write_text(beside, _detectron2_yaml(flat, about["backbone"], Path(out)))
    return Conversion(file, len(state), len(dropped), beside)


def _check_written(out: Path, file: DetectorFile, dropped: set[str]) -> None:
    """Read back and convert back: every tensor of the source is there, bit-equal."""
    written = read_detector(out)
    back = written.state_for(file.engine)
    for key, value in file.model.items():
        if key in back:
            if not torch.equal(*_used(key, file.engine, value, back[key])):
                raise WeightsError(f"{key} did not survive the conversion to {out}; do not use the file")
        elif not (dropped and key.endswith(BATCH_COUNTER)):
            raise WeightsError(f"{key} was lost in the conversion to {out}; do not use the file")


def _used(key: str, engine: str, *values: Tensor) -> list[Tensor]:
    """Without the rows of torchvision's background class that no forward pass reads and detectron2 does not have."""
    if engine != TORCHVISION:
        return list(values)
    if key.startswith("roi_heads.box_predictor.bbox_pred."):
        return [value[4:] for value in values]
    return [value[1:] if key.startswith("roi_heads.mask_predictor.mask_fcn_logits.") else value for value in values]


def _is_frozen_counter(key: str, config: Mapping[str, Any]) -> bool:
    """Whether detectron2 builds a FrozenBN here, which counts no batches."""
    if not key.endswith(BATCH_COUNTER):
        return False
    frozen = [pattern for name, pattern in _NORMS if config.get(name) == "FrozenBN"]
    stages = int(config.get("MODEL.BACKBONE.FREEZE_AT", 0))
    if stages >= 1:
        frozen.append(rf"backbone\.(bottom_up\.)?(stem|res[2-{stages}])\." if stages > 1 else r"backbone\.\w*\.?stem\.")
    return any(re.match(pattern, key) for pattern in frozen)


def _detectron2_yaml(config: Mapping[str, Any], backbone: Mapping[str, Any], weights: Path) -> str:
    """The config under which plain detectron2 builds this detector: its own keys, with the trunk's widths filled in."""
    widths = widths_of({"backbone": dict(backbone)})
    values = {key: value for key, value in config.items() if key in DETECTRON2_DEFAULTS}
    values |= {f"MODEL.RESNETS.{name}": channels for name, channels in widths.items()}
    if widths:
        values["MODEL.RESNETS.WIDTH_PER_GROUP"] = widths["STEM_OUT_CHANNELS"]
    values["MODEL.WEIGHTS"] = str(weights.resolve())
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        node = nested
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return yaml.safe_dump(nested, sort_keys=False, width=110)
