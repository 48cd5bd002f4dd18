"""From a torchvision-named trunk to a detector: explicit name maps and a check that nothing got lost.

Loading by similar names fails silently in many ways (a prefix too many, a missing flag, a tensor of a projection head
that happens to fit). Here every trunk tensor has exactly one destination, and :func:`verify_loaded` compares the
values bit by bit afterwards.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_loc.checkpoint.trunk_names import CLASSIFIER, trunk_to_detectron2
from ssl_loc.utils.errors import WeightsError

logger = logging.getLogger(__name__)

NameMap = Callable[[str, str], str]

# Names in an error before it says "and N more".
_LISTED = 8
# Buffer that frozen norm layers do not have; it only counts batches.
BATCH_COUNTER = "num_batches_tracked"
# Parts of a detector that a trunk cannot fill and that therefore may keep their random initialisation.
FRESH_DETECTRON2 = {
    "C4": (
        r"proposal_generator\.",
        r"roi_heads\.box_predictor\.",
        r"roi_heads\.mask_head\.",
        r"roi_heads\.res5\.norm\.",
    ),
    "FPN": (
        r"proposal_generator\.",
        r"roi_heads\.box_predictor\.",
        r"roi_heads\.box_head\.",
        r"roi_heads\.mask_head\.",
        r"backbone\.fpn_(lateral|output)",
    ),
}
FRESH_TORCHVISION = {
    "C4": (
        r"rpn\.",
        r"roi_heads\.box_predictor\.",
        r"roi_heads\.box_head\.norm\.",
        r"roi_heads\.mask_head\.",
        r"roi_heads\.mask_predictor\.",
    ),
    "FPN": (
        r"rpn\.",
        r"roi_heads\.box_predictor\.",
        r"roi_heads\.box_head\.",
        r"roi_heads\.mask_head\.",
        r"roi_heads\.mask_predictor\.",
        r"fpn\.",
    ),
}


def detectron2_key(key: str, arch: str) -> str:
    """Name of a trunk tensor (torchvision form) inside a detectron2 detector; ``arch`` is "C4" or "FPN"."""
    name = trunk_to_detectron2(key)
    if _known(arch) == "FPN":
        return f"backbone.bottom_up.{name}"
    return f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}"


def torchvision_key(key: str, arch: str) -> str:
    """Name of a trunk tensor inside our torchvision engine's detector; the C4 head owns layer4."""
    trunk_to_detectron2(key)  # refuses what is not a trunk tensor
    if _known(arch) == "C4" and key.startswith("layer4."):
        return f"roi_heads.box_head.{key}"
    return f"trunk.{key}"


@dataclass
class LoadReport:
    """What a verified load did.

    Attributes:
        loaded: trunk tensors found in the model, bit-equal.
        dropped: trunk tensors without a place there (batch counters of frozen norm layers).
        fresh: model tensors that stay randomly initialised (allowed ones only).
    """

    loaded: int
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        fresh = sorted({name.rsplit(".", 1)[0] for name in self.fresh})
        return (
            f"{self.loaded} trunk tensors loaded bit-equal, {len(self.dropped)} counters dropped, "
            f"{len(self.fresh)} tensors of {len(fresh)} new layers stay random ({shorten(fresh)})"
        )


def trunk_only(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trunk tensors of a torchvision-named state dict.

    The classifier (``fc.weight``, ``fc.bias``) is dropped, in one line of the log.

    Raises:
        WeightsError: any other tensor that is not the trunk's, or no tensor of a trunk.
    """
    dropped = [key for key in CLASSIFIER if key in state]
    trunk = {key: value for key, value in state.items() if key not in dropped}
    for key in trunk:
        trunk_to_detectron2(key)
    if not trunk:
        raise WeightsError("the weight file holds no trunk tensor; expected conv1, bn1, layer1..layer4")
    if dropped:
        logger.info("dropped %s of the weights: a detector has no place for their classifier", ", ".join(dropped))
    return trunk


def check_finite(
    trunk: Mapping[str, Tensor],
    source: str = "the trunk",
    advice: str = "the pretraining diverged or the file was damaged, export an earlier checkpoint",
) -> None:
    """Refuse weights with NaN or infinite values: no detector can be trained from them.

    Raises:
        WeightsError: listing the tensors and how many of their values are not finite.
    """
    counts = {key: int((~torch.isfinite(value)).sum()) for key, value in trunk.items()}
    bad = [f"{key} ({count} of {trunk[key].numel()})" for key, count in counts.items() if count]
    if bad:
        raise WeightsError(f"{source} holds NaN or infinite values in {len(bad)} tensor(s): {shorten(bad)}; {advice}")


def load_trunk(
    model: torch.nn.Module, trunk: Mapping[str, Tensor], arch: str, names: NameMap, fresh: Mapping[str, tuple[str, ...]]
) -> LoadReport:
    """Copy a trunk into a detector under the exact names and verify it.

    Args:
        trunk: tensors in torchvision's names.
        arch: "C4" or "FPN".
        names: :func:`detectron2_key` or :func:`torchvision_key`.
        fresh: :data:`FRESH_DETECTRON2` or :data:`FRESH_TORCHVISION`.
    """
    trunk = trunk_only(trunk)
    model_state = model.state_dict()
    placed = {names(key, arch): value for key, value in trunk.items()}
    fitting = {k: v for k, v in placed.items() if k in model_state and model_state[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    return verify_loaded(model.state_dict(), trunk, arch, names, fresh)


def verify_loaded(
    model_state: Mapping[str, Tensor],
    trunk: Mapping[str, Tensor],
    arch: str,
    names: NameMap = detectron2_key,
    fresh: Mapping[str, tuple[str, ...]] = FRESH_DETECTRON2,
) -> LoadReport:
    """Demand that every trunk tensor sits in the model exactly once, bit-equal, and that only heads stayed random.

    Raises:
        WeightsError: listing tensors without a place, with another shape, with another value, and model tensors
            that stayed uninitialised although they belong to the trunk; or tensors with NaN or infinite values.
    """
    # NaN differs from itself, so that it would be reported as lost.
    check_finite(trunk)
    problems: list[str] = []
    dropped: list[str] = []
    used: dict[str, str] = {}
    for key, value in trunk.items():
        target = names(key, arch)
        if target in used:
            problems.append(f"{key} and {used[target]} both go to {target}")
        elif target not in model_state:
            if key.endswith(BATCH_COUNTER) and names(_beside(key), arch) in model_state:
                dropped.append(key)
            else:
                problems.append(f"{key} has no place in the model (expected {target})")
        else:
            used[target] = key
            problems += _compare(key, value, target, model_state[target])
    rest = [key for key in model_state if key not in used]
    allowed = re.compile("|".join(fresh[_known(arch)]))
    problems += [f"{key} of the model got no weights" for key in rest if not allowed.match(key)]
    if problems:
        raise WeightsError(
            f"the weights do not fit this {arch} detector, {len(problems)} problem(s): {shorten(problems, '; ')}. "
            "Check MODEL.RESNETS.DEPTH and NORM against the trunk that was exported"
        )
    return LoadReport(len(used), dropped, rest)


def shorten(items: list[str], separator: str = ", ") -> str:
    """Join a list for a message, cut after a few entries with the number of the rest."""
    more = f"{separator}and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return separator.join(items[:_LISTED]) + more


def _compare(key: str, value: Tensor, target: str, found: Tensor) -> list[str]:
    if found.shape != value.shape:
        return [f"{key} is {tuple(value.shape)} but {target} is {tuple(found.shape)}"]
    if not torch.equal(found.cpu(), value.cpu().to(found.dtype)):
        return [f"{target} differs in value from {key}"]
    return []


def _beside(counter: str) -> str:
    """A tensor that every norm layer with statistics has, beside its batch counter."""
    return counter.replace(BATCH_COUNTER, "running_mean")


def _known(arch: str) -> str:
    if arch not in ("C4", "FPN"):
        raise ValueError(f"architecture {arch!r} is unknown; expected 'C4' or 'FPN'")
    return arch


def describe(meta: Mapping[str, Any]) -> str:
    """One line about where a trunk comes from."""
    parts = [f"{name} {meta[name]}" for name in ("method", "dataset", "mask_source", "iteration") if meta.get(name)]
    return ", ".join(parts) or "no provenance recorded"
