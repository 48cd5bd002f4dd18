"""Collapse in numbers.

They are measured on the global batch whenever numbers are logged, in two places: on the queries q that the losses see
(after the projector, for BYOL after the predictor; every method has them, with or without negatives) and on the pooled
features of the trunk, which are what leaves the house. Nothing here draws a random number or touches a gradient, so a
run with another period makes the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_loc.utils import comm

# Rows of the global batch that the rank is computed of: its cost grows with the cube of this number.
MAX_ROWS = 1024


@torch.no_grad()
def collapse_numbers(q: Tensor, pooled: Tensor) -> dict[str, Tensor | float]:
    """Signs of collapse on the global batch, from this process's part of it. Collective; equal in every process.

    Args:
        q: (N, D) unit queries of the first pair.
        pooled: (N, C) pooled features of the trunk they were made of; compared by direction, as kNN compares them.

    Returns:
        "feature_std" and "effective_rank" of q, "trunk_std" and "trunk_effective_rank" of the trunk, see
        :func:`spread` and :func:`effective_rank`; "feature_std_ideal", "trunk_std_ideal": the spread of directions
        that are even over the sphere, 1 / sqrt(D).
    """
    numbers: dict[str, Tensor | float] = {}
    for name, rank, rows in (
        ("feature_std", "effective_rank", q.float()),
        ("trunk_std", "trunk_effective_rank", torch.nn.functional.normalize(pooled.float(), dim=1)),
    ):
        rows = comm.all_gather(rows)
        # Broken features give NaN here and are reported by the finite check; a decomposition of them would raise.
        broken = torch.where(torch.isfinite(rows).all(), 0.0, torch.nan)
        rows = rows.nan_to_num()
        numbers[name] = spread(rows) + broken
        numbers[f"{name}_ideal"] = rows.shape[1] ** -0.5
        numbers[rank] = effective_rank(rows) + broken
    return numbers


def spread(rows: Tensor) -> Tensor:
    """Standard deviation per dimension, mean over the dimensions, of (N, D): 0 when all rows are equal."""
    return rows.std(0, unbiased=False).mean()


def effective_rank(rows: Tensor) -> Tensor:
    """Dimensions in use: exp of the entropy of the singular values of the centred (N, D), as shares of their sum.

    1 when all rows lie on a line or at a point, D when they spread evenly, at most min(N - 1, D). Roy and Vetterli,
    "The effective rank", EUSIPCO 2007; as a monitor of pretraining: Garrido et al., "RankMe", ICML 2023 (they do not
    centre; here an offset common to all images, which tells nothing apart, does not count). Of more than ``MAX_ROWS``
    rows evenly spaced ones are taken.
    """
    if len(rows) > MAX_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, MAX_ROWS, device=rows.device).round().long()]
    centred = rows.double() - rows.double().mean(0)
    # The smaller Gram matrix has the squared singular values as its eigenvalues, several times faster than an SVD.
    gram = centred @ centred.T if len(rows) < rows.shape[1] else centred.T @ centred
    # Rounding of float32 rows is no dimension: it would count fully where nothing else is left.
    noise = rows.numel() * (rows.abs().max().double() * torch.finfo(torch.float32).eps) ** 2
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    singular = torch.where(values > noise, values.sqrt(), 0.0)
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.special.entr(share).sum().exp().float()
