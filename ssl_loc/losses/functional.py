"""Losses as pure functions of tensors. All compute in float32 (or float64), also under autocast."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.comm import all_gather, all_gather_with_grad, all_reduce_sum, get_rank, get_world_size
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.precision import full_precision

# A map whose norm times its target's is below this has no direction: its cosine is 0 and gives no gradient.
COSINE_EPS = 1e-8
REDUCTIONS = ("per_sample", "batch_flat")
# Loss of one direction as constant + factor * cosine: BYOL paper, equation 2; OpenMixup's BYOL; CVSA paper, equation 6.
COSINE_FORMS = {"byol": (2.0, -2.0), "openmixup": (0.0, -2.0), "half": (0.0, -0.5)}


class InfoNCE(NamedTuple):
    """Mean ``loss`` and, detached for the log, ``positive`` (N,) and ``negative`` (N, K) similarities (-inf where a
    column does not count)."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


def info_nce(
    q: Tensor, k: Tensor, negatives: Tensor, temperature: float, drawn: Tensor | None = None, own: Tensor | None = None
) -> InfoNCE:
    """Cross-entropy of the positive among K + 1 keys (MoCo paper, equation 1; softmax-NCE on a memory bank).

    L = mean over n of -log( exp(q.k+ / tau) / (exp(q.k+ / tau) + sum over K of exp(q.k_i / tau)) ).

    Args:
        q: (N, D) unit rows.
        k: (N, D) unit rows, the positives.
        negatives: (D, K) unit columns. Not copied and not written; keep it unchanged until the backward pass.
        temperature: tau > 0.
        drawn: (N, K') int64 columns of ``negatives`` that are each row's own negatives; None = all.
        own: (N,) int64 column of ``negatives`` that is each row's positive and does not count as negative; None = none.
    """
    if temperature <= 0:
        raise ValueError(f"InfoNCE temperature is {temperature}; expected a number > 0")
    with torch.autocast(q.device.type, enabled=False):
        q, k, negatives = full_precision(q), full_precision(k), full_precision(negatives)
        positive = (q * k).sum(1)
        negative = negative_similarity(q, negatives, drawn)
        if own is not None:
            negative = negative.scatter(1, own[:, None], -torch.inf)
        logits = torch.cat([positive[:, None], negative], 1).div_(temperature)  # (N, 1 + K), the positive first
        target = torch.zeros(len(q), dtype=torch.int64, device=q.device)
        return InfoNCE(F.cross_entropy(logits, target), positive.detach(), negative.detach())


def negative_similarity(q: Tensor, negatives: Tensor, drawn: Tensor | None = None) -> Tensor:
    """q . k of unit rows (N, D) with columns (D, n) -> (N, n), or only with each row's ``drawn`` columns -> (N, K)."""
    if drawn is None:
        return q @ negatives
    if drawn.shape[1] * q.shape[1] > negatives.shape[1]:
        # Gathered columns would take more memory than the products with all of them.
        return (q @ negatives).gather(1, drawn)
    return torch.einsum("nd,nkd->nk", q, negatives.t()[drawn])


def nce(positive: Tensor, negative: Tensor, temperature: float, log_z: Tensor, population: int) -> Tensor:
    """Noise-contrastive estimation with a fixed partition function (InstDisc paper, equations 4 to 7).

    With P = exp(s / tau) / Z and noise of 1 / n, "is it the image itself" has the odds P / (K / n), so both terms are
    logistic losses of s / tau - ln Z - ln(K / n): no exponential of 1 / .07 is ever taken. (The authors' code takes
    them, and adds 1e-7 to the denominators.)

    Args:
        positive: (N,) cosines with the images' own features.
        negative: (N, K) cosines with the drawn ones.
        temperature: tau > 0.
        log_z: scalar ln Z.
        population: n.
    """
    with torch.autocast(positive.device.type, enabled=False):
        shift = log_z + math.log(negative.shape[1] / population)
        own = F.softplus(shift - full_precision(positive) / temperature)
        noise = F.softplus(full_precision(negative) / temperature - shift)
        return (own + noise.sum(1)).mean()


@torch.no_grad()
def log_partition(scores: Tensor, population: int) -> Tensor:
    """ln Z with Z = n * mean of exp(scores) over a global batch (N, K + 1) (InstDisc paper, equation 8). Collective."""
    local = torch.logsumexp(full_precision(scores).flatten(), 0) - math.log(scores.numel())
    everyone = all_gather(local[None])
    return torch.logsumexp(everyone, 0) - math.log(len(everyone)) + math.log(population)


class NTXent(NamedTuple):
    """Mean ``loss`` and, detached for the log, ``positive`` (2N,) similarities, the ``hardest`` (2N,) and the mean
    (``negative``, scalar) of the negative ones."""

    loss: Tensor
    positive: Tensor
    hardest: Tensor
    negative: Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> NTXent:
    """Cross-entropy of each view's partner among the 2N - 1 other views of the global batch (SimCLR paper, equation 1).

    Args:
        first, second: (N, D) unit rows of the two views of this process's images; gradient flows to both, and to the
            rows of the other processes. All processes hold the same N.
        temperature: tau > 0.

    Raises:
        ConfigError: the global batch is one image, so there are no negatives.
    """
    if temperature <= 0:
        raise ValueError(f"NT-Xent temperature is {temperature}; expected a number > 0")
    with torch.autocast(first.device.type, enabled=False):
        views = [full_precision(first), full_precision(second)]
        everyone = torch.cat([all_gather_with_grad(z) for z in views])  # (2 N_global, D)
        total = len(everyone) // 2
        if total == 1:
            raise ConfigError(
                "NT-Xent takes its negatives from the batch, which has one image; set SOLVER.IMS_PER_BATCH (divided by "
                "SOLVER.ACCUMULATE, whose parts do not see each other) to 2 or more"
            )
        own = torch.arange(len(first), device=first.device) + get_rank() * len(first)
        itself, partner = torch.cat([own, own + total])[:, None], torch.cat([own + total, own])
        similarity = torch.cat(views) @ everyone.T
        logits = (similarity / temperature).scatter(1, itself, -torch.inf)
        loss = F.cross_entropy(logits, partner)
        with torch.no_grad():
            positive = similarity.gather(1, partner[:, None])[:, 0]
            others = similarity.scatter(1, itself, 0.0).scatter(1, partner[:, None], 0.0)
            negative = others.sum() / (others.numel() - 2 * len(others))
            hardest = logits.scatter(1, partner[:, None], -torch.inf).amax(1) * temperature
        return NTXent(loss, positive, hardest, negative)


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
