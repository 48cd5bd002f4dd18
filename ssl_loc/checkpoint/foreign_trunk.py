"""The trunk of somebody else's checkpoint: which one, whole, and what was left behind."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_loc.checkpoint.files import describe
from ssl_loc.checkpoint.foreign_families import PIXELS, Family, family_of, family_of_prefix, plain_name
from ssl_loc.checkpoint.trunk_candidates import Candidate, find_trunks, tensor_parts
from ssl_loc.checkpoint.trunk_shape import check_trunk, listed
from ssl_loc.utils.errors import WeightsError

logger = logging.getLogger(__name__)

# Groups of tensors that are named one by one among those left out; the rest is counted.
_GROUPS = 8
_COUNTER = "num_batches_tracked"
# Of a network whose input is normalised by a module of its own (MadryLab/robustness, tools/helpers.py InputNormalize):
# buffers (3, 1, 1) on the 0..1 scale.
_NORMALIZER = re.compile(r"(|.*\.)normalizer\.new_mean")
_NO_FAMILY = "no known family"
_DETECTRON2 = "has detectron2's names; its users train on BGR or RGB with several means and strides"


@dataclass(frozen=True)
class Pixels:
    """Preparation of pixels as far as the file or its family tells.

    Attributes:
        mean, std: RGB, 0..255.
        source: where they are from, in words.
        in_file: they lie in the file; otherwise they are an assumption.
    """

    mean: list[float]
    std: list[float]
    source: str
    in_file: bool = False


@dataclass
class ForeignTrunk:
    """What was taken out of a file.

    Attributes:
        model: torchvision's names -> tensors, a whole ResNet.
        family: name of the family, or that it is not known.
        by: the keys it was recognised by, in words.
        prefix: where the trunk was.
        left_out: group of tensors that are no part of it -> how many.
        pixels: what the file has inside, else what this family's published code does.
        ask: why nothing may be assumed about pixels and strides, as the end of a sentence on the file; "" = it may.
        notes: what else a user should know, in sentences.
    """

    model: dict[str, Tensor]
    family: str
    by: str
    prefix: str
    left_out: dict[str, int]
    pixels: Pixels
    ask: str
    notes: list[str] = field(default_factory=list)

    def report(self, path: str | os.PathLike) -> None:
        """Say what was recognised, taken and left."""
        logger.info("%s: recognised as %s by %s; took %d tensors", path, self.family, self.by, len(self.model))
        if self.left_out:
            total = sum(self.left_out.values())
            logger.info("%s: left out %d tensors: %s", path, total, _counts(self.left_out))
        for note in self.notes:
            logger.warning("%s: %s", path, note)

    def source(self) -> dict[str, Any]:
        """The same as plain values, for the meta."""
        return {"family": self.family, "by": self.by, "prefix": self.prefix, "left_out": dict(self.left_out)}


def take_trunk(content: Any, path: str | os.PathLike, prefix: str | None = None, custom: bool = False) -> ForeignTrunk:
    """The trunk inside a loaded file of any known family, whole and checked.

    Args:
        prefix: where it is, for files with several trunks; None = the query or online one of the family.
        custom: a ResNet with another number of blocks than the published ones will do.

    Raises:
        WeightsError: no trunk, several and no way to tell, or one that is not whole; lists names (bounded).
    """
    parts = tensor_parts(content)
    found = find_trunks(parts)
    if not found:
        raise WeightsError(
            f"{path} is {describe(content)}; no ResNet is in it (neither torchvision's names layer1.0.conv1.weight, "
            "nor a numbered Sequential of them, nor detectron2's res2.0.conv1.weight)"
        )
    if prefix is None:
        chosen, family, by, notes = _by_family(found, parts, path)
    else:
        chosen, notes = _by_prefix(found, prefix, path), []
        family, by = _family_of(chosen, found, parts)
    model, more = _whole(chosen, path, custom)
    name = _NO_FAMILY if family is None else family.name
    ask = f"is of {family.name}, {family.ask}" if family is not None and family.ask else ""
    if chosen.layout == "detectron2":
        ask = _DETECTRON2
    pixels = _pixels(chosen, family, parts)
    return ForeignTrunk(model, name, by, chosen.prefix, _left_out(parts, chosen), pixels, ask, notes + more)


def _by_family(
    found: Sequence[Candidate], parts: Mapping[str, Mapping[str, Tensor]], path: str | os.PathLike
) -> tuple[Candidate, Family | None, str, list[str]]:
    """(trunk, family, the keys it was known by, notes)."""
    plain = {candidate.plain: candidate for candidate in reversed(found)}
    match = family_of(plain, _plain_names(parts))
    if match is None:
        distinct = _distinct(found)
        if len(distinct) > 1:
            raise _several(found, path)
        only = distinct[0]
        return only, None, f"its only trunk, under {only.shown}", []
    family, prefix, mark = match
    chosen = plain[prefix]
    rest = [c for c in found if c is not chosen and not _same(c, chosen)]
    if strangers := [c for c in rest if c.plain not in family.others]:
        raise _several([chosen, *strangers], path)
    by = f"names under {chosen.shown}" + (f" and '{mark}'" if mark else "")
    notes = []
    if rest:
        others = ", ".join(c.shown for c in rest)
        notes.append(
            f"it holds more than one trunk; took {chosen.shown} and left {others} (another choice: 'prefix' in a json)"
        )
    return chosen, family, by, notes


def _by_prefix(found: Sequence[Candidate], prefix: str, path: str | os.PathLike) -> Candidate:
    wanted = [c for c in found if prefix in (c.prefix, f"{c.part}.{c.prefix}")]
    if len(_distinct(wanted)) == 1:
        return wanted[0]
    if wanted:
        raise WeightsError(
            f"{path} has a trunk under the prefix '{prefix}' in several parts: {', '.join(c.shown for c in wanted)}; "
            "put the part in front of the prefix, with a dot"
        )
    raise WeightsError(
        f"{path} has no trunk tensor under the prefix '{prefix}'; there are trunks under "
        f"{', '.join(c.shown for c in found)}"
    )


def _family_of(
    chosen: Candidate, found: Sequence[Candidate], parts: Mapping[str, Mapping[str, Tensor]]
) -> tuple[Family | None, str]:
    """(family, the keys it was known by) of a trunk that somebody has chosen."""
    match = family_of_prefix(chosen.plain, {candidate.plain for candidate in found}, _plain_names(parts))
    by = f"the prefix you gave, {chosen.shown}"
    if match is None:
        return None, by
    return match[0], by + (f", and '{match[1]}'" if match[1] else "")


def _plain_names(parts: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    return [plain_name(part, key).removesuffix(".") for part, tensors in parts.items() for key in tensors]


def _pixels(chosen: Candidate, family: Family | None, parts: Mapping[str, Mapping[str, Tensor]]) -> Pixels:
    """Those of a normalising module around the trunk, else the family's, else ImageNet's."""
    tensors = parts[chosen.part]
    for match in filter(None, map(_NORMALIZER.fullmatch, tensors)):
        key = match[0]
        mean, std = tensors[key], tensors.get(f"{key.removesuffix('mean')}std")
        if chosen.prefix.startswith(match[1]) and std is not None and mean.numel() == std.numel() == 3:
            # Rounded: 0.485 in float32, times 255, is 123.67500...
            numbers = [[round(255 * v, 4) for v in values.flatten().tolist()] for values in (mean, std)]
            return Pixels(numbers[0], numbers[1], f"its own '{key}' and std, times 255", in_file=True)
    mean_std = PIXELS["imagenet" if family is None else family.pixels]
    source = "most published code" if family is None else "the published code of this family"
    return Pixels(list(mean_std[0]), list(mean_std[1]), source)


def _several(found: Sequence[Candidate], path: str | os.PathLike) -> WeightsError:
    return WeightsError(
        f"{path} holds {len(found)} trunks and nothing says which is wanted: {', '.join(c.shown for c in found)}; "
        f'choose one by --prefix of tools/export_backbone.py, or by {{"prefix": "..."}} in a {os.path.basename(path)}'
        ".json beside it"
    )


def _whole(chosen: Candidate, path: str | os.PathLike, custom: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Checked tensors in the precision of the network, and notes."""
    tensors, notes = dict(chosen.tensors), []
    missing = [f"{key.rpartition('.')[0]}.{_COUNTER}" for key in tensors if key.endswith(".running_mean")]
    missing = [key for key in missing if key not in tensors]
    tensors.update({key: torch.zeros((), dtype=torch.long) for key in missing})
    check_trunk(tensors, path, f"the trunk under {chosen.shown}", custom)
    if missing:
        notes.append(
            f"{len(missing)} counters {_COUNTER} are not there (set to 0; only training uses them): torch before 0.4.1 "
            "did not write them, and conversions from JAX or TensorFlow have none. A network of those programs pads "
            "its strided convolutions at one side more than at the other, so its features here differ a little"
        )
    if other := sorted({str(t.dtype) for t in tensors.values() if t.is_floating_point() and t.dtype != torch.float32}):
        notes.append(f"tensors of {listed(other)} became float32")
    model = {k: v.detach().float() if v.is_floating_point() else v.detach() for k, v in tensors.items()}
    # A clone: a tensor may be stored channels-last or as a part of a larger storage.
    model = {key: value.contiguous().clone() for key, value in sorted(model.items())}
    if wrong := [key for key, value in model.items() if not torch.isfinite(value).all()]:
        raise WeightsError(f"{path} has infinite or undefined numbers in {listed(wrong)}; its training diverged")
    return model, notes


def _left_out(parts: Mapping[str, Mapping[str, Tensor]], chosen: Candidate) -> dict[str, int]:
    """Group -> tensors that were not taken, by the first words of their names."""
    taken = {id(value) for value in chosen.tensors.values()}
    groups: Counter[str] = Counter()
    for part, tensors in parts.items():
        for key, value in tensors.items():
            if part == chosen.part and key.startswith(chosen.prefix) and id(value) in taken:
                continue
            # A head inside the encoder by its whole name, everything else by its first word.
            plain = plain_name(part, key)
            start = chosen.plain if plain.startswith(chosen.plain) else ""
            groups[start + plain[len(start) :].partition(".")[0]] += 1
    return dict(groups)


def _counts(groups: Mapping[str, int]) -> str:
    first = [f"{name} ({count})" for name, count in list(groups.items())[:_GROUPS]]
    rest = len(groups) - len(first)
    return ", ".join(first) + (f" and {rest} more groups" if rest else "")


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """Without those that are another one by another name."""
    distinct: list[Candidate] = []
    for candidate in found:
        if not any(_same(candidate, other) for other in distinct):
            distinct.append(candidate)
    return distinct


def _same(a: Candidate, b: Candidate) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(v, b.tensors[k]) for k, v in a.tensors.items())
