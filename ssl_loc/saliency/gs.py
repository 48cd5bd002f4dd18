"""GS: saliency is the distance, in colour along a path, to the border of the image.

Wei, Wen, Zhu, Sun, "Geodesic saliency using background priors", ECCV 2012.
"""

from __future__ import annotations

import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY
from ssl_loc.saliency.region_graph import Regions, pair_distances, paths_from
from ssl_loc.saliency.regional import RegionEstimator

# Published code, for 200 regions: how many nearest border regions tell whether a border region is background.
NEIGHBOURS_PER_200 = 5
# Published code: border regions above this boundary saliency may be objects.
SEED_LIMIT = 0.5
# The most salient 2% are all 1 (published code).
TOP_SHARE = 0.02


@SALIENCY_REGISTRY.register(name="gs")
class GeodesicSaliency(RegionEstimator):
    """Colour distance along a path to the image border (GS, ECCV 2012); presets matlab, paper.

    "matlab" drops border regions that look like objects from the background, "paper" makes them pay for it.
    """

    name = "gs"
    presets = ("matlab", "paper")

    def scores(self, regions: Regions) -> np.ndarray:
        border = np.flatnonzero(regions.border)
        saliency = border_saliency(regions.differences[np.ix_(border, border)], regions.centre[border], regions.count)
        entrance = np.full(regions.count, np.inf, dtype=np.float32)
        entrance[border] = saliency if self.preset == "paper" else np.where(background_seeds(saliency), 0.0, np.inf)
        return saturate(paths_from(regions.lengths, regions.clip, entrance))


def border_saliency(colours: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """How much each border region differs from the border regions most like it, near ones counting more.

    Args:
        colours: (b, b) colour distances.
        centres: (b, 2) places, 0..1.
        count: number of regions of the whole image.
    """
    if len(colours) < 2:
        return np.zeros(len(colours))
    contrast = colours / (1 + 3 * pair_distances(centres))
    np.fill_diagonal(contrast, np.inf)
    k = min(max(1, round(NEIGHBOURS_PER_200 * count / 200)), len(colours) - 1)
    return np.sort(contrast, axis=1)[:, :k].mean(axis=1)


def background_seeds(saliency: np.ndarray) -> np.ndarray:
    """Which border regions are background: all of them if they are much alike, else the less salient ones."""
    low, high = saliency.min(), saliency.max()
    if high - low <= 1:
        return np.ones(len(saliency), dtype=bool)
    return (saliency - low) / (high - low) <= SEED_LIMIT


def saturate(distance: np.ndarray) -> np.ndarray:
    """Divide by the value that TOP_SHARE of the regions reach, and clip to 1."""
    rank = max(1, round(TOP_SHARE * len(distance)))
    top = np.sort(distance)[-rank]
    return np.minimum(distance / top, 1.0) if top > 0 else np.zeros_like(distance)
