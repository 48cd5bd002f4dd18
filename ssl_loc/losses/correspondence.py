"""Which positions of one view have a counterpart in another, and how far that is from a mask. Pure functions, fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.comm import all_reduce_sum, get_world_size
from ssl_loc.utils.errors import check_choice
from ssl_loc.utils.precision import full_precision

LOGITS = ("raw", "scaled", "cosine")
REDUCTIONS = ("mean", "sum")
# Shorter features are divided by this instead of by their length.
MIN_LENGTH = 1e-12


def correspondence(p: Tensor, t: Tensor, logit: str = "raw", temperature: float = 0.2) -> Tensor:
    """C = max over key positions of sigmoid(A), A = P^T T (CVSA paper, equations 3 and 4).

    Args:
        p: (N, D, h, w) predictions at the positions of the query view.
        t: (N, D, h', w') target features at those of the key view.
        logit: "raw" = dot products; "scaled" = dot products / sqrt(D); "cosine" = cosines / ``temperature``.

    Returns:
        (N, h, w) in (0, 1), float32 or the inputs' float64, also under autocast.
    """
    check_choice("LOSS.CROSS_VIEW_ALIGNMENT.LOGIT", logit, LOGITS)
    with torch.autocast(p.device.type, enabled=False):
        rows, columns = full_precision(p).flatten(2), full_precision(t).flatten(2)
        if logit == "cosine":
            rows, columns = (F.normalize(x, dim=1, eps=MIN_LENGTH) for x in (rows, columns))
            rows = rows / temperature
        elif logit == "scaled":
            rows = rows / rows.shape[1] ** 0.5
        logits = rows.transpose(1, 2) @ columns  # A: (N, hw, h'w')
        # The sigmoid rises, so it may as well be taken of the maxima alone.
        return logits.amax(2).sigmoid().unflatten(1, p.shape[2:])


def alignment_error(c: Tensor, target: Tensor, valid: Tensor, reduction: str = "mean") -> Tensor:
    """|| M - C ||^2 averaged over the images of the global batch that have a mask (CVSA paper, equation 5).

    Args:
        c: (N, h, w) correspondences.
        target: (N, h, w) masks at the same size, in [0, 1].
        valid: (N,) weights, 0 for images without a usable mask.
        reduction: over the cells of an image, "mean" or "sum" (h * w times as large).

    Returns:
        Scalar whose mean over processes, of the value and of the gradients (what DistributedDataParallel takes), is
        that of one process with the global batch.
    """
    check_choice("LOSS.CROSS_VIEW_ALIGNMENT.REDUCTION", reduction, REDUCTIONS)
    with torch.autocast(c.device.type, enabled=False):
        squares = (target.to(c.dtype) - c).square().flatten(1)
        each = squares.mean(1) if reduction == "mean" else squares.sum(1)
        v = valid.to(c.dtype)
        return get_world_size() * (v * each).sum() / all_reduce_sum(v.sum()).clamp_min(1)
