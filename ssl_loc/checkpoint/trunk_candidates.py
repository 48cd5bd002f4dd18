"""Where in a file ResNet trunks are, whatever they are called: found by what is inside, not by prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssl_loc.checkpoint.foreign_families import plain_name
from ssl_loc.checkpoint.trunk_names import trunk_from_detectron2
from ssl_loc.utils.errors import WeightsError

# Parts of a checkpoint that hold no network.
_OTHER_PARTS = re.compile(
    r"(optim|lr_sched|sched|scaler|amp$|callbacks|loops|hooks|hyper_param|config|args|opt$|meta$)"
)
# Two tensors of every ResNet: the first convolution, and that of a stage's first block. Either finds a trunk, so that a
# trunk without one of them is found too, and reported as partial.
_STEM = re.compile(r"(|.*\.)conv1\.weight")
_BLOCK = re.compile(r"(|.*\.)layer[1-4]\.\d+\.conv1\.weight")
_NUMBERED = re.compile(r"(|.*\.)(\d+)\.\d+\.conv1\.weight")
_DETECTRON2 = re.compile(r"(|.*\.)res[2-5]\.\d+\.conv1\.weight")
# What can only belong to the trunk, in torchvision's and detectron2's names.
_INSIDE = re.compile(r"(conv\d|bn\d|layer\d|stem|res\d)\.")
_STAGES = 4
_CONV_DIMS = 4


@dataclass(frozen=True)
class Candidate:
    """One trunk in a file.

    Attributes:
        part: the part of the file it lies in, e.g. "state_dict" ("" = the file itself).
        prefix: what the names of its tensors begin with there.
        tensors: names in torchvision's form -> tensors; what cannot belong to a trunk is not in it.
        layout: "torchvision", "numbered" (children of a Sequential) or "detectron2".
    """

    part: str
    prefix: str
    tensors: dict[str, Tensor]
    layout: str

    @property
    def plain(self) -> str:
        """The prefix without wrappers."""
        return plain_name(self.part, self.prefix)

    @property
    def shown(self) -> str:
        """The prefix for messages."""
        where = f"'{self.prefix}'" if self.prefix else "no prefix"
        return where + (f" of its part '{self.part}'" if self.part else "")


def tensor_parts(content: Any, part: str = "") -> dict[str, dict[str, Tensor]]:
    """Every dictionary of tensors in a file: where it lies ("classy_state_dict.base_model") -> names -> tensors."""
    if not isinstance(content, Mapping):
        return {}
    found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    parts = {part: found} if found else {}
    for key, value in content.items():
        if isinstance(value, Mapping) and not _OTHER_PARTS.match(str(key)):
            parts.update(tensor_parts(value, f"{part}.{key}" if part else str(key)))
    return parts


def find_trunks(parts: Mapping[str, Mapping[str, Tensor]]) -> list[Candidate]:
    """Everything that looks like a ResNet trunk, whole or not, in the order of the file."""
    return [candidate for part, tensors in parts.items() for candidate in _in_part(part, tensors)]


def _in_part(part: str, tensors: Mapping[str, Tensor]) -> Iterator[Candidate]:
    blocks = _prefixes(_BLOCK, tensors)
    # Every block has a conv1 too, but no layers inside.
    stems = [p for p in _prefixes(_STEM, tensors) if any(k.startswith(f"{p}layer") for k in tensors)]
    for prefix in dict.fromkeys([*stems, *blocks]):
        inside = {key: value for key, value in _under(prefix, tensors).items() if _INSIDE.match(key)}
        yield Candidate(part, prefix, inside, "torchvision")
    for prefix in _prefixes(_NUMBERED, tensors):
        numbered = _from_numbers(_under(prefix, tensors))
        if numbered:
            yield Candidate(part, prefix, numbered, "numbered")
    for prefix in _prefixes(_DETECTRON2, tensors):
        inside = {key: value for key, value in _under(prefix, tensors).items() if _INSIDE.match(key)}
        yield Candidate(part, prefix, {_from_detectron2(key): value for key, value in inside.items()}, "detectron2")


def _prefixes(pattern: re.Pattern[str], tensors: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(m[1] for m in filter(None, map(pattern.fullmatch, tensors))))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _from_detectron2(key: str) -> str:
    try:
        return trunk_from_detectron2(key)
    except WeightsError:
        return key  # reported as no part of a ResNet


def _from_numbers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``Sequential(conv1, bn1, relu, maxpool, layer1, ..., layer4)`` in torchvision's names; {} for something else.

    Layers without tensors leave gaps in the numbers, so the order counts and not the number: first a convolution, then
    its norm layer, then four children that have blocks.
    """
    numbers = sorted({int(key.partition(".")[0]) for key in tensors if key.partition(".")[0].isdigit()})
    stages = [n for n in numbers if f"{n}.0.conv1.weight" in tensors]
    if not stages or len(stages) > _STAGES:
        return {}
    names = {n: f"layer{i + 1}" for i, n in enumerate(stages)}
    for n in numbers:
        weight = tensors.get(f"{n}.weight")
        if n < stages[0] and weight is not None:
            names[n] = "conv1" if weight.dim() == _CONV_DIMS else "bn1"
    if len(set(names.values())) < len(names) or len(names) == len(stages):
        return {}
    found = {}
    for key, value in tensors.items():
        number, _, rest = key.partition(".")
        if number.isdigit() and int(number) in names:
            found[f"{names[int(number)]}.{rest}"] = value
    return found
