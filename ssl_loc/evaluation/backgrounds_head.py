"""Heads that turn frozen features into one of the classes of a Backgrounds Challenge set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_loc.evaluation.knn import knn_scores
from ssl_loc.evaluation.linear_head import LinearHead
from ssl_loc.utils.errors import ConfigError, DataError, check_choice
from ssl_loc.utils.file_io import read_json

# "argmax_then_map" is the release's own evaluation: the best of all outputs, and an output of no class is wrong.
# "restrict_370" takes the best among the outputs that have a class (370 of ImageNet's 1000).
MAPS = ("argmax_then_map", "restrict_370")
# An answer that is none of the classes.
NO_CLASS = -1


@dataclass(frozen=True)
class NeighbourHead:
    """Weighted votes of the nearest training images (see evaluation/knn.py)."""

    features: Tensor
    labels: Tensor
    outputs: int
    k: int
    temperature: float

    def __call__(self, features: Tensor) -> Tensor:
        """(M, D) -> scores (M, C)."""
        return knn_scores(self.features, self.labels, features, self.outputs, self.k, self.temperature)


Head = LinearHead | NeighbourHead


@dataclass(frozen=True)
class Answer:
    """Scores -> class: the output of each score, and what happens to outputs without a class.

    Attributes:
        table: int64 (C,) class of each output, NO_CLASS for none.
        rule: one of MAPS.
    """

    table: Tensor
    rule: str = MAPS[0]

    def __call__(self, scores: Tensor) -> Tensor:
        """(M, C) -> class int64 (M,), NO_CLASS where the answer is none of the classes."""
        if self.rule == "restrict_370":
            scores = scores.masked_fill(self.table == NO_CLASS, -torch.inf)
        return self.table[scores.argmax(1)]


def class_answer(
    outputs: int, classes: Sequence[str], map_file: str = "", rule: str = MAPS[0], names: Sequence[str] = ()
) -> Answer:
    """How ``outputs`` scores answer with one of ``classes``.

    Args:
        outputs: number of scores.
        classes: class folders of the settings, sorted.
        map_file: json with the class index of every output, -1 for none: a list, or {"0": 8, "1": -1, ...} as the
            release's in_to_in9.json, or by the names of the outputs where these are known. Without it outputs are
            matched by name, or one to one.
        rule: one of MAPS; without a table both are the same.
        names: class of each output, where known.

    Raises:
        DataError: the table does not fit, or the outputs' names say that it is of another order.
        ConfigError: the numbers of outputs and classes differ and there is no table.
    """
    check_choice("BACKGROUNDS.MAP", rule, MAPS)
    if map_file:
        table = _read_table(map_file, outputs, classes, names)
        _check_order(map_file, table, classes, names)
        return Answer(table, rule)
    if names:
        strange = [name for name in classes if name not in names]
        if strange:
            raise DataError(
                f"BACKGROUNDS.TRAIN or HEAD has no class {', '.join(strange[:5])} ({len(strange)} of {len(classes)} "
                f"classes of the settings are missing; it has {', '.join(list(names)[:5])}, ...); expected the same "
                "names, or BACKGROUNDS.CLASS_MAP with the class of every output"
            )
        return Answer(torch.tensor([classes.index(name) if name in classes else NO_CLASS for name in names]), rule)
    if outputs != len(classes):
        raise ConfigError(
            f"BACKGROUNDS.HEAD has {outputs} outputs and the settings have {len(classes)} classes; expected "
            "BACKGROUNDS.CLASS_MAP in_to_in9.json (of the Backgrounds Challenge) for a head of 1000 classes"
        )
    return Answer(torch.arange(outputs), rule)


def _check_order(path: str, table: Tensor, classes: Sequence[str], names: Sequence[str]) -> None:
    """A table by number holds for outputs in the sorted order of their class folders; names show whether they are."""
    for name, found in zip(names, table.tolist(), strict=False):  # no names: nothing is known
        if name in classes and found != classes.index(name):
            says = classes[found] if found != NO_CLASS else "no class"
            raise DataError(
                f"{path} gives the output of {name} {says}, but the settings have a class of that very name; the table "
                "is of another order of outputs. Drop BACKGROUNDS.CLASS_MAP (names are then matched), or correct it"
            )


def _read_table(path: str, outputs: int, classes: Sequence[str], names: Sequence[str] = ()) -> Tensor:
    value = read_json(path)
    if isinstance(value, dict) and names and value.keys() == set(names):
        value = [value[name] for name in names]
    elif names and list(names) != sorted(names):
        raise DataError(
            f"{path} goes by the number of the output, as for class folders in sorted order, but the head's outputs "
            f"are {', '.join(names[:3])}, ...; expected a table by their names ({{{names[0]!r}: CLASS, ...}})"
        )
    if isinstance(value, dict):
        missing = [i for i in range(outputs) if str(i) not in value]
        if missing or len(value) != outputs:
            lacks = f"it lacks {missing[:5]}" if missing else "it has others as well"
            raise DataError(f"{path} names {len(value)} outputs, the head has {outputs} ({lacks})")
        value = [value[str(i)] for i in range(outputs)]
    if not isinstance(value, list) or len(value) != outputs:
        size = f"{len(value)} entries" if isinstance(value, list) else f"a {type(value).__name__}"
        raise DataError(f"{path} holds {size}; expected the class of each of the head's {outputs} outputs")
    wrong = [v for v in value if type(v) is not int or not NO_CLASS <= v < len(classes)]
    if wrong:
        raise DataError(f"{path} holds {wrong[0]!r}; expected -1 (none) or a class number below {len(classes)}")
    table = torch.tensor(value)
    empty = [name for i, name in enumerate(classes) if not bool((table == i).any())]
    if empty:
        raise DataError(f"{path} has no output for {', '.join(empty)}; expected one for every class of the settings")
    return table
