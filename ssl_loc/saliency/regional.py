"""Estimators that score superpixels: the way from an image of any size to superpixels and back."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import cv2
import numpy as np

from ssl_loc.saliency.build import Estimator, SolveFailed
from ssl_loc.saliency.colour import to_planes
from ssl_loc.saliency.frame import photo_inside_frame
from ssl_loc.saliency.region_graph import Regions, measure_regions
from ssl_loc.saliency.small_algebra import small_algebra
from ssl_loc.saliency.superpixels import slic
from ssl_loc.utils.errors import ConfigError

# The published constants (regions of 600 px, bands of 8 px, 250 nodes) were chosen on photos of 400 x 300.
MAX_SIDE = 400
# Short side that small pictures are enlarged to, so that there are regions to compare.
MIN_SIDE = 128
SMALL_SIDE, SMALL_COUNT = 32, 10
# Mean area of a region (px at the working size): the published one and half of it. Two partitions are better than
# either wherever a region of one of them straddles a contour.
REGION_PX = (600, 300)
COMPACTNESS = 20.0
# Width of the outer band that makes a region a border one (RBD's published code).
BORDER_BAND = 8
# Superpixels are found at 1 / REDUCE of the working size: 4 x cheaper, equal quality.
REDUCE = 2
# Lab units; a picture whose regions differ by less than anybody can see is constant (the just noticeable one is 2.3).
VISIBLE = 1.0
FEWEST_REGIONS = 4
# Of the working size, in px; and how many: the matrices of 4000 regions take some GB.
SMALLEST_REGION, MOST_REGIONS = 64, 4000


class RegionEstimator(Estimator):
    """Superpixels -> :meth:`scores` -> map.

    Args:
        preset: named constants.
        max_side: larger images are scaled down to this longer side (px); the map is scaled up again.
        region_px: mean area of a region, one partition and map for each; the result is their geometric mean.
        remove_frame: look for an artificial frame around the photo and give it saliency 0.
    """

    region_px: tuple[float, ...] = REGION_PX

    def __init__(
        self,
        preset: str = "",
        max_side: int = MAX_SIDE,
        region_px: float | Sequence[float] = (),
        remove_frame: bool = False,
    ) -> None:
        super().__init__(preset)
        self.max_side, self.remove_frame = max_side, bool(remove_frame)
        self.region_px = region_sizes(region_px) or type(self).region_px
        if not isinstance(max_side, int) or max_side < MIN_SIDE:
            raise ConfigError(f"max_side of {self.name} is {max_side!r}; expected a whole number >= {MIN_SIDE} (px)")
        smallest, largest = min(self.region_px), max(self.region_px)
        if smallest < SMALLEST_REGION or (most := self.region_count(max_side, max_side, smallest)) > MOST_REGIONS:
            what = "smaller ones tell nothing" if smallest < SMALLEST_REGION else f"that makes up to {most} of them"
            raise ConfigError(
                f"{self.name} got max_side {max_side} and region_px {self.region_px}: {what}; expected regions of at "
                f"least {SMALLEST_REGION} px, and at most {MOST_REGIONS} (time grows with their cube)"
            )
        if (fewest := self.region_count(max_side, max_side * 3 // 4, largest)) < SMALL_COUNT:
            raise ConfigError(
                f"{self.name} got max_side {max_side} and region_px {self.region_px}: a photo has {fewest} regions "
                f"then, too few to compare; expected regions so small that there are at least {SMALL_COUNT}"
            )

    @abstractmethod
    def scores(self, regions: Regions) -> np.ndarray:
        """Saliency of each region: (n,), in [0, 1]; the regions differ visibly and are at least FEWEST_REGIONS."""

    def region_count(self, height: int, width: int, region_px: float) -> int:
        """How many regions of that size a picture of the working size has."""
        return max(1, round(height * width / region_px))

    def estimate(self, image: np.ndarray) -> np.ndarray:
        with small_algebra():
            if not self.remove_frame:
                return self.photo_map(image)
            saliency = np.zeros(image.shape[:2], dtype=np.float32)
            inside = photo_inside_frame(image)
            saliency[inside] = self.photo_map(np.ascontiguousarray(image[inside]))
            return saliency

    def photo_map(self, image: np.ndarray) -> np.ndarray:
        """The map of an image without frame, float32 (H, W): the geometric mean over the partitions, stretched."""
        height, width = working_size(image.shape[0], image.shape[1], self.max_side)
        rgb, lab = to_planes(image, (max(1, round(height / REDUCE)), max(1, round(width / REDUCE))))
        found = []
        for region_px in self.region_px:
            # Small pictures get smaller regions, so that there are some to compare.
            wanted = max(SMALL_COUNT, self.region_count(height, width, region_px))
            labels, count = slic(lab, wanted, COMPACTNESS)
            regions = measure_regions(rgb, labels, count, max(1, BORDER_BAND // REDUCE))
            if count >= FEWEST_REGIONS and visible(regions.colour):
                found.append((labels, self.finite(self.scores(regions))))
        if not found:
            return np.zeros(image.shape[:2], dtype=np.float32)
        # Geometric: what stands out in one partition only is weak. Roots of regions are fewer than those of pixels.
        average = np.ones(lab.shape[1:], dtype=np.float32)
        for labels, scores in found:
            average *= (scores ** np.float32(1 / len(found)))[labels]
        return self.finish(stretch(average), image, rgb)

    def finish(self, saliency: np.ndarray, image: np.ndarray, guide: np.ndarray) -> np.ndarray:
        """Bring the map to the image's size.

        Args:
            saliency: float32 (h, w), 0..1, at the size of the superpixels.
            image: uint8 (H, W, 3).
            guide: float32 (3, h, w), the small image.
        """
        return cv2.resize(saliency, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)

    def finite(self, scores: np.ndarray) -> np.ndarray:
        """The scores as float32, if they are numbers."""
        if not np.isfinite(scores).all():
            raise SolveFailed(f"{self.name} found no finite solution for this image; use another estimator for it")
        return scores.astype(np.float32)


def region_sizes(given: float | Sequence[float]) -> tuple[float, ...]:
    """One size or several as a tuple.

    Raises:
        ConfigError: what is given is no finite number.
    """
    sizes = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    if not all(isinstance(px, (int, float)) and math.isfinite(px) for px in sizes):
        raise ConfigError(f"region_px is {given!r}; expected a number of px, or a list of them")
    return sizes


def working_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Size (h, w) at which an image is looked at.

    Large ones shrink to ``max_side``, small or thin ones grow until their short side is MIN_SIDE (very thin ones out of
    proportion, so that the other stays below ``max_side``).
    """
    scale = min(1.0, max_side / max(height, width))
    h, w = height * scale, width * scale
    if min(h, w) < SMALL_SIDE or h * w / REGION_PX[0] < SMALL_COUNT:
        scale = MIN_SIDE / min(h, w)
        h, w = min(max_side, h * scale), min(max_side, w * scale)
    return max(1, round(h)), max(1, round(w))


def visible(colour: np.ndarray) -> bool:
    """True if some two regions differ by VISIBLE or more along L, a or b."""
    return bool(np.ptp(colour, axis=0).max() >= VISIBLE)


def stretch(values: np.ndarray) -> np.ndarray:
    """Minimum..maximum to 0..1; all zeros where there is no difference."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
