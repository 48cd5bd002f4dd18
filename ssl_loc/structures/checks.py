"""Field checks shared by the structures: they say which field is wrong and how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_tensor(
    owner: str, field: str, value: Any, shape: tuple[int | None, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    """Raise if ``value`` is no tensor of one of ``dtypes`` with ``shape`` (None = any length)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{owner}.{field} is {type(value).__name__}, expected a torch.Tensor")
    if value.dtype not in dtypes:
        raise TypeError(f"{owner}.{field} has dtype {value.dtype}, expected {' or '.join(map(str, dtypes))}")
    got = value.shape
    # Loaders come here a dozen times per image, hence a plain loop.
    fits = len(got) == len(shape)
    for wanted, length in zip(shape, got, strict=False):
        if wanted is not None and wanted != length:
            fits = False
    if not fits:
        want = "(" + ", ".join("*" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{owner}.{field} has shape {tuple(got)}, expected {want}")
