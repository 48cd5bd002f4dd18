"""Saliency-constrained crop (CAST paper, section 3.2): a random crop that shows enough of the salient object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.crops import (
    SINGLES,
    SIZE_ATTEMPTS,
    RandomResizedCrop,
    centre_box,
    crop_arguments,
    draw_rest,
    draw_single,
    smallest_crop_share,
)
from ssl_loc.data.augmenters.gauss_sampler import draw_gauss_proposals, enlarged_box
from ssl_loc.data.augmenters.resize import Box
from ssl_loc.data.augmenters.summed_area import SummedArea
from ssl_loc.data.rng import Streams
from ssl_loc.structures import View
from ssl_loc.utils.errors import ConfigError

SAMPLERS = ("uniform", "gauss")
SECOND_CONSTRAINTS = ("ref", "all")


@register_config("AUGMENT.CONSTRAINED_CROP")
def constrained_crop_config() -> CfgNode:
    node = CfgNode()
    # Share phi of the salient area that a crop must cover, in [0, 1) (CAST paper: .2). The threshold in force is
    # min(phi, smallest crop area / salient area), as in the official code, with the area of the smallest crop after
    # its sides are rounded to whole pixels. 0 = RandomResizedCrop, bit for bit.
    node.PHI = 0.2
    # Where proposals lie: "uniform" like RandomResizedCrop, or "gauss" around the mask's centroid with the official
    # code's fallback (it stays drawn to the mask at PHI 0).
    node.SAMPLER = "uniform"
    # What the views after the first must cover: "ref" = phi of the mask, "all" = also phi of that part of the mask
    # which lies in each earlier view's crop.
    node.SECOND_CONSTRAINT = "ref"
    # Proposals that are tested before the fallback (official code: 10). Of fewer than 10, where none fits into the
    # image, the one that RandomResizedCrop takes is tested instead (uniform sampler).
    node.ATTEMPTS = 50
    return node


@AUGMENTER_REGISTRY.register()
class SaliencyConstrainedCrop(RandomResizedCrop):
    """Random resized crop that covers at least ``phi`` of the salient area.

    The first few proposals, one of which mostly does, are tested one by one, all others at once on a summed-area
    table; the first one that fits and covers is taken. If none does, the uniform sampler takes the proposal with the
    largest coverage, the gauss sampler a box around the mask; ``geometry.constraint_met`` tells. A sample without a
    mask, or with an empty one, is cropped without constraint. Sizes, shapes and interpolation are those of
    AUGMENT.RANDOM_RESIZED_CROP.

    Args:
        phi: share of the salient area to cover, in [0, 1).
        sampler: "uniform" or "gauss".
        second_constraint: "ref" or "all".
        attempts: proposals per view.
        size, scale, ratio, interpolation: see :class:`RandomResizedCrop`.
    """

    needs = frozenset({"saliency"})
    node = "CONSTRAINED_CROP"

    def __init__(
        self,
        phi: float = 0.2,
        sampler: str = "uniform",
        second_constraint: str = "ref",
        attempts: int = 50,
        size: int = 224,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(size, scale, ratio, interpolation)
        if not 0 <= phi < 1:
            raise ConfigError(f"AUGMENT.CONSTRAINED_CROP.PHI is {phi}; expected a share in [0, 1)")
        if sampler not in SAMPLERS:
            raise ConfigError(f"AUGMENT.CONSTRAINED_CROP.SAMPLER is '{sampler}'; expected {' or '.join(SAMPLERS)}")
        if second_constraint not in SECOND_CONSTRAINTS:
            choices = " or ".join(SECOND_CONSTRAINTS)
            raise ConfigError(
                f"AUGMENT.CONSTRAINED_CROP.SECOND_CONSTRAINT is '{second_constraint}'; expected {choices}"
            )
        if attempts < 1:
            raise ConfigError(f"AUGMENT.CONSTRAINED_CROP.ATTEMPTS is {attempts}; expected at least 1")
        self.phi, self.sampler, self.second_constraint, self.attempts = phi, sampler, second_constraint, attempts
        if second_constraint == "all":
            # The earlier views' crops are places in the whole image.
            self.wants_whole = True
            self.whole_because = "AUGMENT.CONSTRAINED_CROP.SECOND_CONSTRAINT is all"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.AUGMENT.CONSTRAINED_CROP
        return {
            "phi": node.PHI,
            "sampler": node.SAMPLER,
            "second_constraint": node.SECOND_CONSTRAINT,
            "attempts": node.ATTEMPTS,
            **crop_arguments(cfg),
        }

    def threshold(self, area: SummedArea) -> float:
        """phi_eff = min(phi, smallest crop area / salient area): what the smallest crop can still reach.

        The smallest crop is that of whole pixels (or map cells): every crop passes on a map that is salient everywhere.
        """
        if area.empty:
            return 0.0
        return min(self.phi, smallest_crop_share(area.source, area.shape, self.limits) / area.area_frac)

    def choose(
        self, rng: np.random.Generator, height: int, width: int, area: SummedArea, others: Sequence[Box] = ()
    ) -> tuple[Box, bool]:
        """Draw a box that covers the mask (and its part in each of ``others``) -> box, constraint met."""
        threshold = self.threshold(area)
        if self.sampler == "gauss":
            boxes, fits = draw_gauss_proposals(rng, self.attempts, height, width, self.limits, area.centroid())
        else:
            singles: list[Box | None] = []
            for _ in range(0 if others else min(SINGLES, self.attempts)):
                box = draw_single(rng, height, width, self.limits)
                if box is not None and area.coverage_of(box) >= threshold:
                    return box, True
                singles.append(box)
            boxes, fits = self._uniform_proposals(rng, height, width, singles)
        boxes = boxes[fits]
        if len(boxes):
            coverage = self._coverage(area, boxes, others)
            met = coverage >= threshold
            best = int(met.argmax())
            if met[best]:
                return _box(boxes[best]), True
            if self.sampler == "uniform":
                return _box(boxes[int(coverage.argmax())]), False
        box = enlarged_box(rng, area.bounding_box(), height, width, self.limits.ratio)
        return box, bool(self._coverage(area, np.array([box]), others)[0] >= threshold)

    def _uniform_proposals(
        self, rng: np.random.Generator, height: int, width: int, singles: list[Box | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        # At least as many rows as RandomResizedCrop draws, so that phi = 0 finds the same box.
        boxes, fits = draw_rest(rng, max(self.attempts, SIZE_ATTEMPTS), height, width, self.limits, singles)
        if not fits[:SIZE_ATTEMPTS].any():
            # RandomResizedCrop would take the centre here; nothing before it fits, so it is the first proposal.
            centre = np.array([centre_box(height, width, self.limits.ratio)])
            return np.concatenate([centre, boxes]), np.concatenate([[True], fits])
        # Of fewer attempts than that, only those are tested; where none of them fits, the one that RandomResizedCrop
        # takes is the only proposal.
        tested = max(self.attempts, int(fits.argmax()) + 1)
        return boxes[:tested], fits[:tested]

    @staticmethod
    def _coverage(area: SummedArea, boxes: np.ndarray, others: Sequence[Box]) -> np.ndarray:
        """Smallest share covered over the mask and its parts in ``others`` -> (K,)."""
        coverage = area.coverage(boxes)
        for other in others:
            coverage = np.minimum(coverage, area.coverage(boxes, np.array(other)))
        return coverage

    def place(self, view: View, streams: Streams, context: Context) -> tuple[Box, bool]:
        height, width = view.image.shape[1:]
        area, others = self._area_of(view, context)
        if area is None or area.empty:
            return super().place(view, streams, context)
        return self.choose(streams(self.stream), height, width, area, others)

    def _area_of(self, view: View, context: Context) -> tuple[SummedArea | None, list[Box]]:
        """Summed-area table of the view's mask, and the earlier crops to cover, both in the view's frame."""
        if view.mask is None:
            return None, []
        earlier = [v.geometry.visible for v in context.earlier] if self.second_constraint == "all" else []
        if earlier and view.geometry != View.whole(context.sample).geometry:
            raise ConfigError(
                "AUGMENT.CONSTRAINED_CROP.SECOND_CONSTRAINT is 'all', but another augmenter cuts or moves the image "
                "before SaliencyConstrainedCrop; put the crop first in AUGMENT.VIEWS"
            )
        if view.image is context.sample.image:
            area = context.summed_area()
        else:
            area = SummedArea(view.mask[0].numpy(), (view.image.shape[1], view.image.shape[2]))
        return area, [_rounded(box) for box in earlier]


def _box(row: np.ndarray) -> Box:
    x1, y1, x2, y2 = row.tolist()
    return x1, y1, x2, y2


def _rounded(box: tuple[float, float, float, float]) -> Box:
    x1, y1, x2, y2 = (round(v) for v in box)
    return x1, y1, x2, y2
