"""RBD: what touches the border little for its size is no background; contrast against the background, made smooth.

Zhu, Liang, Wei, Sun, "Saliency optimization from robust background detection", CVPR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY, SolveFailed
from ssl_loc.saliency.region_graph import (
    Regions,
    all_paths,
    clip_value,
    pair_distances,
    path_lengths,
    ring_differences,
    two_rings,
)
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
# Published code: weight of a region that is background for certain.
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
        colours = pair_distances(regions.colour)
        rings = two_rings(regions.adjacent)
        first, top = ring_differences(regions.adjacent, colours)
        # Published code: widths that follow the image's own differences, within limits.
        geodesic = constants.geodesic or max(5.0, min(10.0, 3 * first, top / 10))
        neighbour = constants.neighbour or max(min(3 * first, 0.2 * top, 20.0), RIDGE)
        paths = all_paths(path_lengths(regions, colours, clip_value(regions, colours) if constants.clip else 0.0))
        connectivity = boundary_connectivity(kernel(paths, geodesic, constants.cut), regions.border)
        background = 1 - np.exp(-(connectivity**2) / (2 * CONNECTIVITY_WIDTH**2))
        near = kernel(pair_distances(regions.centre), constants.place, constants.cut)
        contrast = stretch((colours * near) @ background)
        if constants.cut:
            contrast = np.where(contrast < otsu(contrast), 0.0, contrast)
        weights = constants.background * np.where(connectivity > constants.sure, SURE_WEIGHT, background)
        linked = rings | np.outer(regions.border, regions.border)
        smooth = np.where(linked, kernel(colours, neighbour, constants.cut), 0.0) + SMOOTHNESS * regions.adjacent
        return stretch(optimise(weights, contrast, smooth))


def kernel(distances: np.ndarray, width: float, cut: bool) -> np.ndarray:
    """exp(-d^2 / (2 width^2)), with ``cut`` 0 beyond 3 widths."""
    distances = distances.astype(np.float64)
    values = np.exp(-(distances**2) / (2 * width**2))
    return np.where(distances > 3 * width, 0.0, values) if cut else values


def boundary_connectivity(alike: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Length on the image border over the root of the area, of what is like each region (paper, eq. 3 to 6).

    Args:
        alike: (n, n) path kernel.
        border: bool (n,).
    """
    return alike[:, border].sum(axis=1) / np.sqrt(alike.sum(axis=1))


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
        SolveFailed: the system is singular.
    """
    system = -smooth
    np.fill_diagonal(system, 0.0)
    np.fill_diagonal(system, background + foreground + RIDGE - system.sum(axis=1))
    try:
        return np.linalg.solve(system, foreground)
    except np.linalg.LinAlgError as error:
        raise SolveFailed(f"rbd found no solution for this image ({error}); use another estimator for it") from None
