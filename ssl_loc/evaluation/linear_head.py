"""A linear layer on frozen features: fitted by L-BFGS, written beside results, read from files of any linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_loc.checkpoint.files import describe, read_torch_file, write_torch_file
from ssl_loc.evaluation.probe import Scale
from ssl_loc.evaluation.results import slug
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError, WeightsError

# Names of the layer in files of linear probes (torchvision, MoCo's main_lincls.py and its kin).
LAYERS = ("fc", "linear", "classifier", "head")
# Below EvalData.out.
HEADS = "heads"
# Stands for the label of the weights in the name of a head's file.
LABEL = "{label}"


@dataclass(frozen=True)
class LinearHead:
    """A linear layer: weight float32 (C, D), bias float32 (C,); ``classes`` names the outputs where that is known."""

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.weight)

    def __call__(self, features: Tensor) -> Tensor:
        """(M, D) -> scores (M, C)."""
        return features @ self.weight.T + self.bias


def fit_linear(x: Tensor, y: Tensor, outputs: int, c: float = 1.0, scale: bool = True) -> tuple[LinearHead, int]:
    """Multinomial logistic regression by L-BFGS (scikit-learn) on features (N, D), labels (N,) -> layer, iterations.

    ``c`` is the inverse L2 strength; ``scale`` standardizes every feature first (folded into the layer). A class
    without a training image can never be the answer.
    """
    from sklearn.linear_model import LogisticRegression

    wide = x.double()
    change = Scale(wide) if scale else None
    used = change(wide) if change else wide
    model = LogisticRegression(C=c, max_iter=1000).fit(used.numpy(), y.numpy())
    rows, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(rows) == 1:  # two classes: scikit-learn keeps the difference alone
        rows, bias = torch.cat([-rows / 2, rows / 2]), torch.cat([-bias / 2, bias / 2])
    if change:
        rows = rows * change.factor
        bias = bias - rows @ change.mean
    weight = torch.zeros(outputs, x.shape[1], dtype=torch.float64)
    offset = torch.full((outputs,), -torch.inf, dtype=torch.float64)
    seen = torch.from_numpy(model.classes_)
    weight[seen], offset[seen] = rows, bias
    return LinearHead(weight.float(), offset.float()), int(model.n_iter_.max())


def head_path(out: str | Path, label: str, seed: int) -> Path:
    """Where the linear protocol leaves the layer of weights ``label``."""
    return Path(out) / HEADS / f"{slug(label)}_seed{seed}.pth"


def named_head(word: str, label: str) -> str:
    """``word``, the name of a head's file, with "{label}" as :func:`head_path` writes this label."""
    return word.replace(LABEL, slug(label))


def write_head(path: str | Path, head: LinearHead, weights: Weights) -> None:
    """State dict with ``fc.weight`` and ``fc.bias``, the classes, and the digest of the trunk it belongs to."""
    state = {"fc.weight": head.weight.contiguous(), "fc.bias": head.bias.contiguous()}
    write_torch_file(path, {"state_dict": state, "classes": list(head.classes), "trunk": weights.digest})


def read_head(path: str | Path, width: int, digest: str = "") -> LinearHead:
    """A linear layer for features of ``width`` numbers from a state dict with ``fc.weight`` and ``fc.bias``.

    Also below "state_dict" or "model", with "module." in front, and under the names of LAYERS. A file of
    :func:`write_head` has to be of the trunk with this ``digest``.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no head {path}; expected a file with fc.weight and fc.bias of a linear probe")
    content = read_torch_file(path)
    state = content
    for outer in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(outer), dict):
            state = state[outer]
    if not isinstance(state, dict):
        raise WeightsError(f"{path} is {describe(content)}; expected a state dict with fc.weight and fc.bias")
    weight, bias = _layer({str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}, path)
    if weight.dim() != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
        raise WeightsError(
            f"{path}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} do not fit features of {width} "
            f"numbers; expected ({len(bias)}, {width}) and ({len(bias)},), from a probe of the same trunk"
        )
    return LinearHead(weight.float(), bias.float(), _classes_of(content, path, len(bias), digest))


def _layer(tensors: dict[str, Tensor], path: str | Path) -> tuple[Tensor, Tensor]:
    for layer in LAYERS:
        weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
        if weight is not None and bias is not None:
            return weight, bias
    some = ", ".join(list(tensors)[-6:]) or "no tensors"
    raise WeightsError(f"{path} has no fc.weight and fc.bias (also tried: {', '.join(LAYERS[1:])}); it has {some}")


def _classes_of(content: dict[str, Any], path: str | Path, outputs: int, digest: str) -> tuple[str, ...]:
    """Names of the outputs in a file of :func:`write_head`, () in others."""
    trunk, classes = content.get("trunk"), content.get("classes")
    if isinstance(trunk, str) and digest and trunk != digest:
        raise WeightsError(
            f"{path} was trained on the features of the trunk {trunk}; expected one of {digest}, the weights under "
            "evaluation (tools/evaluate.py --protocol linear writes one for each)"
        )
    if not isinstance(classes, list) or len(classes) != outputs or not all(isinstance(c, str) for c in classes):
        return ()
    return tuple(classes)
