"""MC: saliency is how long a random walk over alike regions takes to leave through the border of the image.

Jiang, Zhang, Lu, Yang, Yang, "Saliency detection via absorbing Markov chain", ICCV 2013.
"""

from __future__ import annotations

import numpy as np

from ssl_loc.saliency.build import SALIENCY_REGISTRY, SolveFailed
from ssl_loc.saliency.compiled import compiled
from ssl_loc.saliency.region_graph import Regions, solve_positive, torus_neighbours, two_rings
from ssl_loc.saliency.regional import SMALLEST_REGION, RegionEstimator, stretch

# Published code: 250 regions whatever the size, which is one in 480 px of the usual 400 x 300.
REGIONS, USUAL_PX = 250, 400 * 300
# Paper: sigma^2 = 0.1, so affinity = exp(-10 d); the floor keeps the walk from getting stuck (published code).
DECAY, FLOOR = 10.0, 1e-5
# Published code: a region whose affinities (its own 1 included) sum to less stands alone.
ALONE = 1.1
# Published code: the border is no frame once its affinities to the inside sum to this (at 250 regions).
FRAME_SUM = 13.0
# Published code: a map with less of its mass at middle values is good as it is.
CLEAR_SCORE = 2.0
BINS = 10
# Published code: a region that stands alone is salient beside one above this.
SALIENT = 0.3


@SALIENCY_REGISTRY.register(name="mc")
class AbsorbingChain(RegionEstimator):
    """Time until a random walk ends at the image border (MC, ICCV 2013); presets matlab, paper.

    "matlab" takes lone regions and artificial frames out of the chain and links opposite borders; "paper" links all
    border regions with each other.
    """

    name = "mc"
    presets = ("matlab", "paper")

    region_px = (USUAL_PX / REGIONS, 300)

    def region_count(self, height: int, width: int, region_px: float) -> int:
        return max(1, min(round(USUAL_PX / region_px), height * width // SMALLEST_REGION))

    def scores(self, regions: Regions) -> np.ndarray:
        paper = self.preset == "paper"
        neighbours, border = torus_neighbours(regions.labels, regions.count, not paper)
        edges = two_rings(neighbours)
        if paper:
            edges |= np.outer(border, border)
        affinity = affinities(regions.differences, edges)
        if paper:
            return walk(affinity, border, np.ones(regions.count, dtype=bool))
        return self._published(affinity, neighbours, border)

    def _published(self, affinity: np.ndarray, neighbours: np.ndarray, border: np.ndarray) -> np.ndarray:
        alone = affinity.sum(axis=1) < ALONE
        kept = ~alone
        border = border & kept
        limit = FRAME_SUM * np.sqrt(len(affinity) / REGIONS)
        if is_frame(affinity, neighbours, border, kept, limit):
            inner = neighbours[border].any(axis=0) & ~border & kept
            if inner.any():
                kept, border = kept & ~border, inner
        scores = np.zeros(len(affinity))
        if border.any():
            scores = walk(affinity, border, kept)
        beside_salient = (neighbours & (scores > SALIENT)).any(axis=1)
        scores[alone & beside_salient] = 1.0
        return scores


@compiled
def affinities(differences, edges):  # type: ignore[no-untyped-def]
    """exp(-10 d) + 1e-5 on the edges, d stretched to 0..1 over them; 1 on the diagonal, 0 elsewhere; float64 (n, n)."""
    n = len(edges)
    low, high = np.inf, 0.0
    for i in range(n):
        for j in range(i):
            if edges[i, j]:
                low, high = min(low, differences[i, j]), max(high, differences[i, j])
    rate = DECAY / (high - low) if high > low else 0.0
    affinity = np.zeros((n, n))
    for i in range(n):
        affinity[i, i] = 1.0
        for j in range(i):
            if edges[i, j]:
                affinity[i, j] = affinity[j, i] = np.exp((low - differences[i, j]) * rate) + FLOOR
    return affinity


def is_frame(affinity: np.ndarray, neighbours: np.ndarray, border: np.ndarray, kept: np.ndarray, limit: float) -> bool:
    """True if the border regions are hardly like the regions inside of them (an artificial frame)."""
    inside = neighbours[border] & (kept & ~border)
    return bool((affinity[border] * inside).sum() <= limit)


def walk(affinity: np.ndarray, border: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Saliency of the regions from absorption times; 0 for those that are not ``kept``.

    Where the times leave much at middle values, stays are weighted by how rarely an endless walk comes by (paper,
    section 4.2).
    """
    rarity = 1 / affinity[kept].sum(axis=1)
    plain, weighted = expected_stay(affinity, border, kept, np.stack([np.ones_like(rarity), rarity], axis=1)).T
    found = stretch(plain)
    if middle_mass(found) >= CLEAR_SCORE:
        found = stretch(weighted)
    scores = np.zeros(len(affinity))
    scores[kept] = found
    return scores


def expected_stay(affinity: np.ndarray, border: np.ndarray, kept: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """What a walk from each kept region collects until it is absorbed: (I - Q)^-1 worth, (m, k) for m kept regions.

    Each border region has an absorbing double. Regions that are not kept absorb as well (published code).

    Args:
        affinity: (n, n).
        border, kept: bool (n,).
        worth: (m, k), collected at each visit; ones give the number of steps.

    Raises:
        SolveFailed: some region never gets to the border.
    """
    total = affinity.sum(axis=1) + affinity[:, border].sum(axis=1)
    # I - Q = T^-1 (T - A) with A symmetric: a positive definite system, half the work.
    system = -affinity if kept.all() else -affinity[np.ix_(kept, kept)]
    np.fill_diagonal(system, total[kept] + np.diag(system))
    try:
        return solve_positive(system, total[kept, None] * worth)
    except ArithmeticError as error:
        raise SolveFailed(f"mc found no solution for this image ({error}); use another estimator for it") from None


def middle_mass(saliency: np.ndarray) -> float:
    """Sum over 10 bins of share x distance from the nearer end: 1 if all is at 0 or 1, 5 if all is at a half."""
    share = np.histogram(saliency, bins=BINS, range=(0, 1))[0] / len(saliency)
    place = np.arange(1, BINS + 1)
    return float((share * np.minimum(place, BINS + 1 - place)).sum())
