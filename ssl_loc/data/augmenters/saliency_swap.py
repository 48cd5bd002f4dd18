"""SaliencySwap (CVSA: Wu et al. 2022, section 3.1): a crop of the object, pasted into another picture.

It takes the place of the random resized crop. The view is composed at its final size: the background is resized to the
view, the crop of the object to its rectangle there, so each is resampled once and the mask is exact to the pixel. (The
paper pastes into the background at its own size and then resizes the whole.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.base import Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.crops import RandomResizedCrop, crop_arguments, crop_view
from ssl_loc.data.augmenters.object_box import BOX_SOURCES, GT_BOX, object_box
from ssl_loc.data.augmenters.paste_geometry import MIN_PATCH_PX, Placed, draw_patch, free_rectangle, over_box, pasted_at
from ssl_loc.data.augmenters.paste_records import (
    DONOR_NEUTRAL,
    PASTE_BOX_NEUTRAL,
    PASTE_NEUTRAL,
    pasted,
    refused,
    with_paste_box,
)
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.augmenters.resize import Box, crop_resize_image, crop_resize_mask
from ssl_loc.data.donors import TRAIN, Donor, check_donor_set
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import ConfigError, check_choice

MODES = ("auto", "same", "other")
MASKS = ("rect", "saliency")


@register_config("AUGMENT.SALIENCY_SWAP")
def saliency_swap_config() -> CfgNode:
    node = CfgNode()
    # Probability of a swap; else the view is a RandomResizedCrop. 0 = RandomResizedCrop, bit for bit (CVSA paper: 1).
    node.PROB = 1.0
    # Where the object lands in the other picture: "same" covers that picture's own object (its box), "other" puts it at
    # a random place, in a random size; "auto" is "same" for backgrounds from DATA.TRAIN and "other" for all others.
    node.MODE = "auto"
    # The crop of the object takes a share of its box drawn from U(LAMBDA, 1) (CVSA paper: .5 of {.08, .2, .3, .4, .5,
    # .8}); width / height is drawn from AUGMENT.RANDOM_RESIZED_CROP.RATIO.
    node.LAMBDA = 0.5
    # "other": share of the view that the object takes, drawn from U(BETA, 1) (the paper gives no value).
    node.BETA = 0.5
    # The object's box: "threshold_cc" (largest part of the map above twice its mean), "maxsum" (rectangle of the
    # largest sum of map - half its maximum), or "gt_box" (the largest annotated one: labels; all of the paper's main
    # results). The rectangle of the largest mean, as the paper writes it, would be the most salient pixel.
    node.BOX_SOURCE = "threshold_cc"
    # Sets of pictures to paste into, all their images alike: "train", "dataset:NAME", "windows:FILE".
    node.BACKGROUND_SETS = ["train"]
    # The view's mask: "rect" is the pasted rectangle, "saliency" the sample's mask inside of it.
    node.MASK = "rect"
    # "same": False stretches the crop of the object to the box it covers, True keeps its shape (it is enlarged until it
    # covers the box, and cut where it leaves the picture).
    node.KEEP_ASPECT = False
    return node


@dataclass(frozen=True)
class SwapSettings:
    """Settings of a swap; meanings and units as in AUGMENT.SALIENCY_SWAP."""

    prob: float = 1.0
    mode: str = "auto"
    least_crop: float = 0.5
    least_share: float = 0.5
    box_source: str = "threshold_cc"
    background_sets: tuple[str, ...] = (TRAIN,)
    mask: str = "rect"
    keep_aspect: bool = False

    def __post_init__(self) -> None:
        where = "AUGMENT.SALIENCY_SWAP"
        check_within("SALIENCY_SWAP.PROB", self.prob)
        check_choice(f"{where}.MODE", self.mode, MODES)
        check_choice(f"{where}.BOX_SOURCE", self.box_source, BOX_SOURCES)
        check_choice(f"{where}.MASK", self.mask, MASKS)
        for name, value in (("LAMBDA", self.least_crop), ("BETA", self.least_share)):
            if not 0 < value <= 1:
                raise ConfigError(f"{where}.{name} is {value}; expected a share above 0, up to 1")
        if not self.background_sets:
            raise ConfigError(f"{where}.BACKGROUND_SETS is empty; expected at least one set, for example train")
        for name in self.background_sets:
            check_donor_set(f"{where}.BACKGROUND_SETS", name)
            # Maps are those of DATA.TRAIN; annotations belong to every dataset that has them.
            boxless = name != TRAIN and (self.box_source != GT_BOX or name.startswith("windows:"))
            if self.mode == "same" and boxless:
                raise ConfigError(
                    f"{where}.MODE is 'same', which needs the box of every background's own object, and '{name}' has "
                    "none: masks are those of DATA.TRAIN only; take MODE auto or other, or BOX_SOURCE gt_box with "
                    "an annotated dataset"
                )

    @property
    def needs(self) -> frozenset[str]:
        """What samples must be loaded with."""
        if not self.prob:
            return frozenset()
        boxes = {"boxes"} if self.box_source == GT_BOX else {"saliency", "graded"}
        return frozenset({"donor", *boxes, *({"saliency"} if self.mask == "saliency" else ())})


@AUGMENTER_REGISTRY.register()
class SaliencySwap(RandomResizedCrop):
    """Crop of the object pasted into another picture, in the place of a random resized crop (CVSA).

    ``geometry`` maps the pasted rectangle to the source image, and ``geometry.shown`` is what the view shows of it;
    ``extra["paste_box"]`` is the rectangle in the view. A sample without a box (empty map, no annotation) gives a crop
    of the whole image instead, without a mask, so that no loss asks where its object is
    (``extra["paste_refused"]``).

    Args:
        settings: of the swap.
        size, scale, ratio, interpolation: see :class:`RandomResizedCrop`; crops of backgrounds ("other") and views
            without a swap use all of them, the crop of the object ``ratio`` and ``interpolation``.
    """

    needs = frozenset({"donor", "saliency", "graded"})
    node = "SALIENCY_SWAP"
    records = {**PASTE_NEUTRAL, **DONOR_NEUTRAL, **PASTE_BOX_NEUTRAL}
    wants_whole = True

    def __init__(
        self,
        settings: SwapSettings | None = None,
        size: int = 224,
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__(size, scale, ratio, interpolation)
        self.settings = settings or SwapSettings()
        self.needs = self.settings.needs
        self.donor_sets = self.settings.background_sets if self.settings.prob else ()
        self.donor_boxes = self.settings.mode == "same" and self.settings.box_source == GT_BOX
        if size < MIN_PATCH_PX:
            raise ConfigError(f"SaliencySwap makes views of {size} px; expected at least {MIN_PATCH_PX} (AUGMENT.SIZE)")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.AUGMENT.SALIENCY_SWAP
        settings = SwapSettings(
            prob=node.PROB,
            mode=node.MODE,
            least_crop=node.LAMBDA,
            least_share=node.BETA,
            box_source=node.BOX_SOURCE,
            background_sets=tuple(node.BACKGROUND_SETS),
            mask=node.MASK,
            keep_aspect=node.KEEP_ASPECT,
        )
        return {"settings": settings, **crop_arguments(cfg)}

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        # A stream of its own: the crop that is taken where nothing is swapped draws as if there were no swap.
        u = streams(f"{self.stream}.swap").random(8)
        if u[0] >= self.settings.prob:
            return super().__call__(view, streams, context)
        height, width = view.image.shape[1:]
        box = self._box_of(context)
        patch = draw_patch(u[1:5], box or (0, 0, width, height), self.settings.least_crop, self.limits.ratio)
        if box is None:
            cropped = crop_view(view, patch, self.size, self.interpolation)
            return View(cropped.image, None, cropped.geometry, refused(cropped.extra))
        assert context.donors is not None  # the mapper reads ``needs``
        donor = context.donors.draw(self.donor_sets, streams(f"{self.stream}.donor"), context.sample.index)
        if self._covers(donor):
            target = self._box_under(donor)
            placed = over_box(patch, target, donor.sample, self.size, self.settings.keep_aspect)
            frame = (0, 0, donor.sample.width, donor.sample.height)
        else:
            placed = free_rectangle(u[5:], patch, self.size, self.settings.least_share)
            frame = self.draw(streams(f"{self.stream}.background"), donor.sample.height, donor.sample.width)
        return self._compose(view, placed, donor, frame)

    def _box_of(self, context: Context) -> Box | None:
        key = f"object box {self.settings.box_source}"
        if key not in context.memo:
            context.memo[key] = object_box(context.sample, self.settings.box_source)
        return context.memo[key]

    def _box_under(self, donor: Donor) -> Box | None:
        """Box of the background's own object."""
        if self.settings.box_source == GT_BOX and donor.sample.boxes is None:
            raise ConfigError(
                f"AUGMENT.SALIENCY_SWAP.MODE is '{self.settings.mode}', which needs boxes, but the backgrounds of "
                f"'{donor.source}' have none; take an annotated dataset, or MODE other"
            )
        return object_box(donor.sample, self.settings.box_source)

    def _covers(self, donor: Donor) -> bool:
        """True for the paper's mode I: the object covers the background's own one."""
        mode = self.settings.mode
        return mode == "same" or (mode == "auto" and donor.source == TRAIN)

    def _compose(self, view: View, placed: Placed, donor: Donor, frame: Box) -> View:
        x1, y1, x2, y2 = placed.rectangle
        out = (self.size, self.size)
        background: Sample = donor.sample
        image = crop_resize_image(background.image, frame, out, self.interpolation)
        image[:, y1:y2, x1:x2] = crop_resize_image(view.image, placed.patch, (y2 - y1, x2 - x1), self.interpolation)
        geometry = pasted_at(placed, self.size, view.geometry)
        extra = with_paste_box(pasted(view.extra, donor.passed_over), geometry)
        return View(image, self._mask(view, placed), geometry, extra)

    def _mask(self, view: View, placed: Placed) -> torch.Tensor | None:
        x1, y1, x2, y2 = placed.rectangle
        mask = torch.zeros((1, self.size, self.size), dtype=torch.uint8)
        if self.settings.mask == "rect":
            mask[:, y1:y2, x1:x2] = 255
        elif view.mask is None:
            return None
        else:
            source = (view.image.shape[1], view.image.shape[2])
            mask[:, y1:y2, x1:x2] = crop_resize_mask(view.mask, placed.patch, source, (y2 - y1, x2 - x1))
        return mask
