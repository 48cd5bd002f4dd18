"""Fusion: GS, MC and RBD on the same superpixels, summed with fixed weights, brought to the edges of the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY
from ssl_loc.saliency.gs import GeodesicSaliency
from ssl_loc.saliency.mc import AbsorbingChain
from ssl_loc.saliency.rbd import RobustBackground
from ssl_loc.saliency.refine import guided_upsample
from ssl_loc.saliency.region_graph import Regions
from ssl_loc.saliency.regional import MAX_SIDE, RegionEstimator, stretch

# MC is the best ranker of the three and errs least together with the others, which share their path distances.
WEIGHTS = (("gs", 1.0), ("rbd", 1.0), ("mc", 2.0))
# Photographers put what matters away from the rim: width of a weak prior on the place, in shares of the image.
PLACE_WIDTH = 0.5
# Logistic curve that moves middle values towards 0 and 1: its slope, and the largest value of the adaptive threshold
# (twice the mean, the benchmarks' habit) that its middle follows.
SLOPE, LARGEST_THRESHOLD = 8.0, 0.9
# Guided filter: half width in px at half the working size, and the variance below which a window is flat.
RADIUS, FLAT = 4, 3e-4


@SALIENCY_REGISTRY.register(name="fusion")
class Fusion(RegionEstimator):
    """Weighted sum of GS, MC and RBD with edge-aware refinement; presets matlab, paper (those of its parts)."""

    name = "fusion"
    presets = ("matlab", "paper")
    region_px = AbsorbingChain.region_px

    def __init__(
        self,
        preset: str = "",
        max_side: int = MAX_SIDE,
        region_px: float | Sequence[float] = (),
        remove_frame: bool = False,
    ) -> None:
        kinds: tuple[type[RegionEstimator], ...] = (GeodesicSaliency, RobustBackground, AbsorbingChain)
        self.parts = {kind.name: kind(preset) for kind in kinds}
        super().__init__(preset, max_side, region_px, remove_frame)

    def region_count(self, height: int, width: int, region_px: float) -> int:
        return self.parts["mc"].region_count(height, width, region_px)

    def scores(self, regions: Regions) -> np.ndarray:
        total = np.zeros(regions.count)
        for name, weight in WEIGHTS:
            total += weight * self.parts[name].scores(regions)
        return stretch(stretch(total) * central(regions.centre))

    def finish(self, saliency: np.ndarray, image: np.ndarray, guide: np.ndarray) -> np.ndarray:
        return stretch(guided_upsample(image, guide, decide(saliency), RADIUS, FLAT))


def central(centre: np.ndarray) -> np.ndarray:
    """Weight of each region for its place, (n, 2) in 0..1 -> (n,): 1 in the middle, .37 in the corners."""
    return np.exp(-((centre - 0.5) ** 2).sum(axis=1) / (2 * PLACE_WIDTH**2))


def decide(saliency: np.ndarray) -> np.ndarray:
    """Logistic curve that keeps 0 and 1, its middle halfway from 1/2 to the map's adaptive threshold."""
    middle = (0.5 + min(2 * float(saliency.mean()), LARGEST_THRESHOLD)) / 2
    low, high = logistic(np.array([0.0, 1.0]), middle)
    return ((logistic(saliency, middle) - low) / (high - low)).astype(np.float32)


def logistic(values: np.ndarray, middle: float) -> np.ndarray:
    """1 / (1 + exp(-SLOPE (x - middle)))."""
    return 1 / (1 + np.exp(SLOPE * (middle - values)))
