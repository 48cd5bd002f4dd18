"""Heads that turn frozen features into one of the classes of a Backgrounds Challenge set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_loc.checkpoint.files import describe, read_torch_file
from ssl_loc.evaluation.knn import knn_scores
from ssl_loc.evaluation.linear import standardize
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError, check_choice
from ssl_loc.utils.file_io import read_json

# "argmax_then_map" is the release's own evaluation: the best of all outputs, and an output of no class is wrong.
# "restrict_370" takes the best among the outputs that have a class (370 of ImageNet's 1000).
MAPS = ("argmax_then_map", "restrict_370")
# An answer that is none of the classes.
NO_CLASS = -1
# Names of the layer in files of linear probes (torchvision, MoCo's main_lincls.py and its kin).
LAYERS = ("fc", "linear", "classifier", "head")


@dataclass(frozen=True)
class LinearHead:
    """A linear layer: weight float32 (C, D), bias float32 (C,)."""

    weight: Tensor
    bias: Tensor

    @property
    def outputs(self) -> int:
        return len(self.weight)

    def __call__(self, features: Tensor) -> Tensor:
        """(M, D) -> scores (M, C)."""
        return features @ self.weight.T + self.bias


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


def fit_linear(x: Tensor, y: Tensor, outputs: int, c: float = 1.0, scale: bool = True) -> LinearHead:
    """Multinomial logistic regression by L-BFGS (scikit-learn) on features (N, D) and labels (N,).

    ``c`` is the inverse L2 strength; ``scale`` standardizes every feature first (folded into the layer). A class
    without a training image can never be the answer.
    """
    from sklearn.linear_model import LogisticRegression

    wide = x.double()
    zeros, ones = torch.zeros(1, x.shape[1]).double(), torch.ones(1, x.shape[1]).double()
    # Where the origin and (1, ..., 1) go says what standardizing does: a shift and a factor per feature.
    used, origin, far = standardize(wide, zeros, ones) if scale else [wide, zeros, ones]
    model = LogisticRegression(C=c, max_iter=1000).fit(used.numpy(), y.numpy())
    rows, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(rows) == 1:  # two classes: scikit-learn keeps the difference alone
        rows, bias = torch.cat([-rows / 2, rows / 2]), torch.cat([-bias / 2, bias / 2])
    bias = bias + rows @ origin[0]
    rows = rows * (far - origin)
    weight = torch.zeros(outputs, x.shape[1], dtype=torch.float64)
    offset = torch.full((outputs,), -torch.inf, dtype=torch.float64)
    seen = torch.from_numpy(model.classes_)
    weight[seen], offset[seen] = rows, bias
    return LinearHead(weight.float(), offset.float())


def read_head(path: str | Path, width: int) -> LinearHead:
    """A linear layer for features of ``width`` numbers from a state dict with ``fc.weight`` and ``fc.bias``.

    Also below "state_dict" or "model", with "module." in front, and under the names of LAYERS.
    """
    if not Path(path).is_file():
        raise ConfigError(f"BACKGROUNDS.HEAD is '{path}'; expected linear, knn, or a file with fc.weight and fc.bias")
    content = read_torch_file(path)
    state = content
    for outer in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(outer), dict):
            state = state[outer]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} is {describe(content)}; expected a state dict with fc.weight and fc.bias")
    tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    for layer in LAYERS:
        weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
        if weight is not None and bias is not None:
            break
    else:
        some = ", ".join(list(tensors)[-6:]) or "no tensors"
        raise WeightsError(f"{path} has no fc.weight and fc.bias (also tried: {', '.join(LAYERS[1:])}); it has {some}")
    if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        raise WeightsError(
            f"{path}: {layer}.weight {tuple(weight.shape)} and {layer}.bias {tuple(bias.shape)} do not fit features of "
            f"{width} numbers; expected ({len(bias)}, {width}) from a probe of the same trunk"
        )
    return LinearHead(weight.float(), bias.float())


def class_answer(
    outputs: int, classes: Sequence[str], map_file: str = "", rule: str = MAPS[0], names: Sequence[str] = ()
) -> Answer:
    """How ``outputs`` scores answer with one of ``classes``.

    Args:
        outputs: number of scores.
        classes: class folders of the settings, sorted.
        map_file: json with the class index of every output, -1 for none: a list, or {"0": 8, "1": -1, ...} as the
            release's in_to_in9.json. Without it outputs are matched by name, or one to one.
        rule: one of MAPS; without a table both are the same.
        names: class of each output, where known.
    """
    check_choice("BACKGROUNDS.MAP", rule, MAPS)
    if map_file:
        return Answer(_read_table(map_file, outputs, classes), rule)
    if names:
        strange = [name for name in classes if name not in names]
        if strange:
            raise DataError(
                f"BACKGROUNDS.TRAIN has no class folder {', '.join(strange[:5])} ({len(strange)} of {len(classes)} "
                f"classes of the settings are missing; it has {', '.join(list(names)[:5])}, ...); expected the same "
                "names, or BACKGROUNDS.CLASS_MAP with the class of every training folder"
            )
        table = [classes.index(name) if name in classes else NO_CLASS for name in names]
        return Answer(torch.tensor(table), rule)
    if outputs != len(classes):
        raise ConfigError(
            f"BACKGROUNDS.HEAD has {outputs} outputs and the settings have {len(classes)} classes; expected "
            "BACKGROUNDS.CLASS_MAP in_to_in9.json (of the Backgrounds Challenge) for a head of 1000 classes"
        )
    return Answer(torch.arange(outputs), rule)


def _read_table(path: str, outputs: int, classes: Sequence[str]) -> Tensor:
    value = read_json(path)
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
