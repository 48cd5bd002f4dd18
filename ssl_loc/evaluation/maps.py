"""How well a map points at a mask: IoU, pointing game, energy, and the density of many IoUs. Pure tensor functions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.utils.errors import ConfigError

# Below this maximum a map counts as zero: dividing by it would only blow up rounding noise.
ZERO_MAP = 1e-12


def normalize_map(cam: Tensor, norm: str = "max") -> Tensor:
    """Scale each map of (N, h, w) to [0, 1].

    "max" divides by the maximum, so a map that is active everywhere stays active everywhere; "minmax" also moves the
    minimum to 0. Maps whose maximum (or range) is at most 1e-12 become zeros.
    """
    flat = cam.flatten(1)
    if norm == "minmax":
        flat = flat - flat.amin(1, keepdim=True)
    elif norm != "max":
        raise ConfigError(f"NORM is '{norm}'; expected 'max' or 'minmax'")
    top = flat.amax(1, keepdim=True)
    scaled = torch.where(top > ZERO_MAP, flat / top.clamp(min=ZERO_MAP), torch.zeros_like(flat))
    return scaled.view_as(cam)


def upsample_map(cam: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear (align_corners False) resize of (N, h, w) to (N, *size); the identity at equal size."""
    if tuple(cam.shape[1:]) == tuple(size):
        return cam
    return F.interpolate(cam[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def binary_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """IoU of boolean maps (N, h, w) -> float64 (N,); NaN where the union is empty (to be excluded, and counted)."""
    inter = (prediction & target).flatten(1).sum(1).double()
    union = (prediction | target).flatten(1).sum(1).double()
    return torch.where(union > 0, inter / union.clamp(min=1), torch.full_like(union, float("nan")))


def pointing_hit(cam: Tensor, target: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018, without tolerance): does the maximum lie on the target? -> bool (N,).

    A map that is zero everywhere points nowhere: a miss. Of several equal maxima the first in reading order counts.
    """
    flat = cam.flatten(1)
    at = flat.argmax(1, keepdim=True)
    return target.flatten(1).gather(1, at)[:, 0] & (flat.amax(1) > ZERO_MAP)


def energy_inside(cam: Tensor, target: Tensor) -> Tensor:
    """Share of the map's sum that lies on the target -> float64 (N,); 0 for a zero map."""
    flat = cam.flatten(1).double()
    total = flat.sum(1)
    inside = (flat * target.flatten(1)).sum(1)
    return torch.where(total > ZERO_MAP, inside / total.clamp(min=ZERO_MAP), torch.zeros_like(total))


def histogram(values: np.ndarray, bins: int = 50) -> tuple[list[int], list[float]]:
    """Counts and bin edges over [0, 1]; a value of exactly 1 falls in the last bin."""
    counts, edges = np.histogram(values, bins=bins, range=(0.0, 1.0))
    return counts.tolist(), edges.tolist()


def density(values: np.ndarray, points: int = 201) -> tuple[list[float], list[float]]:
    """Gaussian kernel density of values in [0, 1] -> (x, density), reflected at 0 and 1 so that it integrates to 1.

    Bandwidth by Scott's rule, std * n ** (-1/5). Fewer than two different values have no density: both lists are empty.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or values.std(ddof=1) == 0:
        return [], []
    bandwidth = values.std(ddof=1) * len(values) ** -0.2
    x = np.linspace(0.0, 1.0, points)
    # A kernel that leaves [0, 1] is folded back at the border: mirror images of every value at 0 and at 1.
    mirrored = np.concatenate([values, -values, 2.0 - values])
    steps = (x[:, None] - mirrored[None, :]) / bandwidth
    y = np.exp(-0.5 * steps**2).sum(1) / (len(values) * bandwidth * np.sqrt(2 * np.pi))
    return x.tolist(), y.tolist()
