"""RBD: what touches the border little for its size is no background; contrast against the background, made smooth.

Zhu, Liang, Wei, Sun, "Saliency optimization from robust background detection", CVPR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY, SolveFailed
from ssl_loc.saliency.compiled import compiled
from ssl_loc.saliency.region_graph import Regions, all_paths, nearest_difference, pair_distances, solve_positive
from ssl_loc.saliency.regional import RegionEstimator, stretch


@dataclass(frozen=True)
class RbdConstants:
    """What the presets differ in.

    Attributes:
        geodesic, neighbour: widths (Lab units) of the path and the smoothness kernels; None: from the image.
        place: width of the spatial kernel of the contrast, in shares of the image.
        background: weight of the background term.
        sure: boundary connectivity above which a region is background for certain.
        clip: small colour differences cost nothing on paths.
        cut: kernels are 0 beyond 3 widths, and contrast below Otsu's threshold is 0.
    """

    geodesic: float | None
    neighbour: float | None
    place: float
    background: float
    sure: float
    clip: bool
    cut: bool


PRESETS = {
    # The published code.
    "matlab": RbdConstants(None, None, place=0.4, background=5.0, sure=3.0, clip=True, cut=True),
    # The text of the paper.
    "paper": RbdConstants(10.0, 10.0, place=0.25, background=1.0, sure=np.inf, clip=False, cut=False),
}
# Paper: widths of the boundary connectivity's kernel, and the smoothness that neighbours have in any case.
CONNECTIVITY_WIDTH, SMOOTHNESS = 1.0, 0.1
# Published code: what a region that is background for certain has in place of its probability.
SURE_WEIGHT = 1000.0
# Keeps the system regular where a region has no term at all.
RIDGE = 1e-8


@SALIENCY_REGISTRY.register(name="rbd")
class RobustBackground(RegionEstimator):
    """Contrast to regions that the border tells are background, optimised (RBD, CVPR 2014); presets matlab, paper."""

    name = "rbd"
    presets = tuple(PRESETS)

    def scores(self, regions: Regions) -> np.ndarray:
        constants = PRESETS[self.preset]
        geodesic, neighbour = adaptive_widths(regions)
        paths = all_paths(regions.lengths, regions.clip if constants.clip else 0.0)
        width = constants.neighbour or neighbour
        alike = kernel(paths, constants.geodesic or geodesic, constants.cut)
        connectivity = boundary_connectivity(alike, regions.border)
        background = 1 - np.exp(-(connectivity**2) / (2 * CONNECTIVITY_WIDTH**2))
        contrast = self.contrast(regions, background, constants)
        weights = constants.background * np.where(connectivity > constants.sure, SURE_WEIGHT, background)
        reach = 3.0 if constants.cut else np.inf
        smooth = smoothness(regions.differences, regions.adjacent, regions.rings, regions.border, width, reach)
        return stretch(optimise(weights, contrast, smooth))

    @staticmethod
    def contrast(regions: Regions, background: np.ndarray, constants: RbdConstants) -> np.ndarray:
        """Colour difference to the background regions around (paper, eq. 7), stretched, weak values dropped."""
        near = kernel(pair_distances(regions.centre), constants.place, constants.cut)
        near *= regions.differences
        values = stretch(near @ background)
        return np.where(values < otsu(values), 0.0, values) if constants.cut else values


def adaptive_widths(regions: Regions) -> tuple[float, float]:
    """Widths of the path and the smoothness kernels that follow the image's own differences (published code)."""
    usual = nearest_difference(regions.adjacent, regions.differences)
    largest = np.sort(regions.differences[np.triu(regions.adjacent, 1)])
    top = float(largest[-max(1, round(0.01 * len(largest))) :].mean()) if len(largest) else 0.0
    return max(5.0, min(10.0, 3 * usual, top / 10)), max(min(3 * usual, 0.2 * top, 20.0), RIDGE)


def kernel(distances: np.ndarray, width: float, cut: bool) -> np.ndarray:
    """exp(-d^2 / (2 width^2)) in the type of ``distances``, with ``cut`` 0 beyond 3 widths."""
    # In place: large temporary arrays cost more than the exponentials.
    values = distances * distances
    values *= distances.dtype.type(-0.5 / width**2)
    np.exp(values, out=values)
    if cut:
        values *= distances <= 3 * width
    return values


def boundary_connectivity(alike: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Length on the image border over the root of the area, of what is like each region (paper, eq. 3 to 6).

    Args:
        alike: (n, n) path kernel.
        border: bool (n,).
    """
    return (alike @ border.astype(alike.dtype)) / np.sqrt(alike.sum(axis=1))


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold of values in [0, 1], on 256 bins."""
    grey = np.rint(values * 255).astype(np.uint8)
    return float(cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)[0]) / 255


def optimise(background: np.ndarray, foreground: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Minimise sum b s^2 + sum f (s - 1)^2 + sum over pairs w (s_p - s_q)^2 in closed form (paper, eq. 9).

    Args:
        background, foreground: weights (n,), >= 0.
        smooth: symmetric weights (n, n); each unordered pair counts once, the diagonal not at all.

    Raises:
        SolveFailed: there is no finite minimum.
    """
    system = _system(background + foreground + RIDGE, smooth)
    try:
        return solve_positive(system, foreground)
    except ArithmeticError as error:
        raise SolveFailed(f"rbd found no solution for this image ({error}); use another estimator for it") from None


@compiled
def smoothness(differences, adjacent, rings, border, width, reach):  # type: ignore[no-untyped-def]
    """How alike two regions should come out, float32 (n, n): exp(-d^2 / (2 width^2)) within two rings and along the
    border, 0 beyond ``reach`` widths, and a little more between neighbours."""
    n = len(border)
    weights = np.zeros((n, n), dtype=np.float32)
    rate, farthest = -0.5 / width**2, reach * width
    for i in range(n):
        for j in range(i):
            if rings[i, j] or (border[i] and border[j]):
                d = differences[i, j]
                value = np.exp(d * d * rate) if d <= farthest else 0.0
                weights[i, j] = weights[j, i] = value + SMOOTHNESS if adjacent[i, j] else value
    return weights


@compiled
def _system(diagonal, smooth):  # type: ignore[no-untyped-def]
    """Laplacian of the weights plus a diagonal, float64."""
    n = len(diagonal)
    system = np.empty((n, n))
    for i in range(n):
        total = 0.0
        for j in range(n):
            system[i, j] = -smooth[i, j]
            total += smooth[i, j]
        system[i, i] = diagonal[i] + total - smooth[i, i]
    return system
