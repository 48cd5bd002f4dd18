"""Losses as pure functions of tensors. All compute in float32 (or float64), also under autocast."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.comm import all_reduce_sum, get_world_size
from ssl_loc.utils.precision import full_precision

# A map whose norm times its target's is below this has no direction: its cosine is 0 and gives no gradient.
COSINE_EPS = 1e-8
REDUCTIONS = ("per_sample", "batch_flat")
# Loss of one direction as constant + factor * cosine: BYOL paper, equation 2; OpenMixup's BYOL; CVSA paper, equation 6.
COSINE_FORMS = {"byol": (2.0, -2.0), "openmixup": (0.0, -2.0), "half": (0.0, -0.5)}


class InfoNCE(NamedTuple):
    """Mean ``loss`` and, detached for the log, ``positive`` (N,) and ``negative`` (N, K) similarities."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


def info_nce(q: Tensor, k: Tensor, negatives: Tensor, temperature: float) -> InfoNCE:
    """Cross-entropy of the positive among K + 1 keys (MoCo paper, equation 1).

    L = mean over n of -log( exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over K of exp(q.k_i / tau)) ).

    Args:
        q: (N, D) unit rows.
        k: (N, D) unit rows, the positives.
        negatives: (D, K) unit columns. Not copied and not written; keep it unchanged until the backward pass.
        temperature: tau > 0.
    """
    if temperature <= 0:
        raise ValueError(f"InfoNCE temperature is {temperature}; expected a number > 0")
    with torch.autocast(q.device.type, enabled=False):
        q, k, negatives = full_precision(q), full_precision(k), full_precision(negatives)
        positive = (q * k).sum(1)
        negative = q @ negatives
        logits = torch.cat([positive[:, None], negative], 1).div_(temperature)  # (N, 1 + K), the positive first
        target = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        return InfoNCE(F.cross_entropy(logits, target), positive.detach(), negative.detach())


def negative_cosine(q: Tensor, k: Tensor, form: str = "byol") -> Tensor:
    """Mean of 2 - 2 q.k over unit rows (N, D), or of another multiple (``COSINE_FORMS``)."""
    if form not in COSINE_FORMS:
        raise ValueError(f"cosine loss '{form}' is unknown; expected one of {', '.join(COSINE_FORMS)}")
    constant, factor = COSINE_FORMS[form]
    with torch.autocast(q.device.type, enabled=False):
        return constant + factor * (full_precision(q) * full_precision(k)).sum(1).mean()


def cosine_attention(cam: Tensor, target: Tensor, valid: Tensor, reduction: str = "per_sample") -> Tensor:
    """1 - cos(map, mask) over the global batch (CAST paper, equation 4).

    Args:
        cam: (N, h, w) attention maps.
        target: (N, h, w) masks at the same size.
        valid: (N,) weights v, 0 for samples without a usable mask.
        reduction: "per_sample" = sum of v (1 - cos) / max(1, sum of v); "batch_flat" = 1 - cosine of all maps of the
            batch flattened into one vector (official CAST code, there per GPU).

    Returns:
        Scalar. With W processes it is such that the mean over processes, of the value and of the gradients (what
        DistributedDataParallel takes), equals the result of one process with the global batch.
    """
    with torch.autocast(cam.device.type, enabled=False):
        g = full_precision(cam).flatten(1)
        m, v = target.to(g.dtype).flatten(1), valid.to(g.dtype)
        total = all_reduce_sum(v.sum())
        if reduction == "per_sample":
            # times world: the mean over processes then divides by the global sum of v alone.
            return get_world_size() * (v * (1 - cosine(g, m))).sum() / total.clamp_min(1)
        if reduction == "batch_flat":
            g, m = g * v[:, None], m * v[:, None]
            dot, gg, mm = all_reduce_sum(torch.stack([(g * m).sum(), g.square().sum(), m.square().sum()]))
            return (1 - _ratio(dot, gg, mm)) * (total > 0)
    raise ValueError(f"attention reduction '{reduction}' is unknown; expected one of {', '.join(REDUCTIONS)}")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the rows of (N, P) tensors -> (N,); 0 with zero gradient where a row has no length."""
    return _ratio((a * b).sum(1), a.square().sum(1), b.square().sum(1))


def _ratio(dot: Tensor, aa: Tensor, bb: Tensor) -> Tensor:
    """dot / sqrt(aa * bb), 0 with zero gradient where the root is below COSINE_EPS."""
    product = aa * bb
    defined = product > COSINE_EPS**2
    return dot * torch.rsqrt(torch.where(defined, product, torch.ones_like(product))) * defined
