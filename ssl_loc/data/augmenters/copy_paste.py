"""Copy-paste (DiLo: Zhao et al. 2021, section 3): the salient object on another background, at the same place.

Two views of an image then share the object only. The paste comes before the other augmentations. Where a crop follows
it directly, only what the crop shows is composed: the same bits for less work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import cv2
import numpy as np
import torch

from ssl_loc.config import CfgNode, register_config
from ssl_loc.data.augmenters.backgrounds import GRAY, TEXTURE, constant_grey, donor_crop, random_texture
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
from ssl_loc.data.augmenters.crops import RandomResizedCrop, crop_view
from ssl_loc.data.augmenters.deferred import blur_radius
from ssl_loc.data.augmenters.paste_records import DONOR_NEUTRAL, PASTE_NEUTRAL, pasted, refused
from ssl_loc.data.augmenters.ranges import check_within
from ssl_loc.data.augmenters.resize import Box, as_hwc, from_hwc
from ssl_loc.data.donors import Donor, check_donor_set
from ssl_loc.data.rng import Streams
from ssl_loc.saliency.binarize import binarize, threshold_of
from ssl_loc.structures import View
from ssl_loc.utils.errors import ConfigError, check_choice

BLENDS = ("none", "gauss", "mix")
MASK_MODES = ("soft", "binary")
# Background: several sets of donors.
SETS = "sets"


@register_config("AUGMENT.COPY_PASTE")
def copy_paste_config() -> CfgNode:
    node = CfgNode()
    # Probability of changing a view's background (DiLo paper: .5, and .2 is as good; official loader: .3). 0 = off, bit
    # for bit; 1 never shows an object in its own surroundings (paper: 44.5% against 59.3%).
    node.PROB = 0.5
    # What the object is pasted on: "gray" (one level, 0..255), "texture" (procedural ones), "windows:FILE" (parts of
    # photos without salient response, listed by tools/make_windows.py), "dataset:NAME" (photos of another dataset, a
    # registered name or a path form), "train" (other photos of DATA.TRAIN), "sets" (several of the last three; CVSA
    # paper, table 6).
    node.BACKGROUND = "gray"
    # The sets of BACKGROUND "sets", all their pictures alike: [train, "dataset:NAME", "windows:FILE"].
    node.BACKGROUND_SETS = []
    # Edge of the object: "none" takes the map as it is, "gauss" blurs it, "mix" blurs it for half of the pastes.
    node.BLEND = "none"
    # Standard deviation of that blur in px of the source image (official loader: 5).
    node.BLUR_RADIUS = 5.0
    # "soft": the grey values of the map are the object's opacity (official loader); "binary": the map is thresholded.
    node.MASK_MODE = "soft"
    # Where "binary" cuts: "fixed:V" (0 < V <= 1), "adaptive" (twice the map's mean) or "otsu".
    node.MASK_THRESHOLD = "fixed:0.5"
    # A paste is left out where the following crop would show less than this share of the object (0 = never): otherwise
    # small objects give views of mere background. Needs a crop directly after CopyPaste.
    node.MIN_FG_IN_CROP = 0.0
    return node


class Stays(Enum):
    """Why a background stays: no paste was drawn, or one that the object or the crop forbids."""

    NOT_DRAWN = 0
    REFUSED = 1


@dataclass(frozen=True)
class Paste:
    """What one view's paste drew.

    Attributes:
        alpha: opacity of the object, uint8 (H, W).
        grey: uniform number for the level of a grey background.
        place: three uniform numbers: texture, and offset of the background.
        donor: background image, where one is asked for.
    """

    alpha: np.ndarray
    grey: float
    place: np.ndarray
    donor: Donor | None


@AUGMENTER_REGISTRY.register()
class CopyPaste(Augmenter):
    """Paste the salient object, where it is, on another background with probability ``prob`` (DiLo).

    The opacity comes from the sample's map (DATA.MASKS); the view's mask and geometry stay, since the object does not
    move. A sample without a map, or with an empty one, keeps its background: pasting nothing would make a positive pair
    of two empty pictures. ``extra["pasted"]`` and ``extra["paste_refused"]`` tell.

    Args:
        prob: probability of a paste.
        background: "gray", "texture", "windows:FILE", "dataset:NAME", "train" or "sets".
        blend: "none", "gauss" or "mix".
        blur_radius: standard deviation of the blur in px of the source image.
        mask_mode: "soft" or "binary".
        mask_threshold: "fixed:V", "adaptive" or "otsu".
        min_fg_in_crop: least share of the object that the following crop must show.
        background_sets: names of the sets, for background "sets" only.
    """

    needs = frozenset({"saliency", "graded"})
    node = "COPY_PASTE"
    stream = "copy_paste"
    in_place = True
    wants_whole = True

    def __init__(
        self,
        prob: float = 0.5,
        background: str = GRAY,
        blend: str = "none",
        blur_radius: float = 5.0,
        mask_mode: str = "soft",
        mask_threshold: str = "fixed:0.5",
        min_fg_in_crop: float = 0.0,
        background_sets: Sequence[str] = (),
    ) -> None:
        self.prob = check_within("COPY_PASTE.PROB", prob)
        self.blend = check_choice("AUGMENT.COPY_PASTE.BLEND", blend, BLENDS)
        self.blur_radius = check_within("COPY_PASTE.BLUR_RADIUS", blur_radius, 0.1, float("inf"), "radius in px")
        self.mask_mode = check_choice("AUGMENT.COPY_PASTE.MASK_MODE", mask_mode, MASK_MODES)
        self.mask_threshold = mask_threshold
        _check_rule(mask_threshold)
        self.min_fg_in_crop = check_within("COPY_PASTE.MIN_FG_IN_CROP", min_fg_in_crop, meaning="share")
        self.background = background
        donor_sets = _donor_sets(background, tuple(background_sets))
        self.records = {**PASTE_NEUTRAL, **DONOR_NEUTRAL} if donor_sets else dict(PASTE_NEUTRAL)
        if not prob:
            self.needs = frozenset()
        elif donor_sets:
            self.needs, self.donor_sets = CopyPaste.needs | {"donor"}, donor_sets

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.AUGMENT.COPY_PASTE
        return {
            "prob": node.PROB,
            "background": node.BACKGROUND,
            "blend": node.BLEND,
            "blur_radius": node.BLUR_RADIUS,
            "mask_mode": node.MASK_MODE,
            "mask_threshold": node.MASK_THRESHOLD,
            "min_fg_in_crop": node.MIN_FG_IN_CROP,
            "background_sets": node.BACKGROUND_SETS,
        }

    def draw(self, view: View, streams: Streams, context: Context, crop: Box | None = None) -> Paste | Stays:
        """A paste, or why the background stays; ``crop`` is what the following crop will show."""
        u = streams(self.stream).random(6)
        if u[0] >= self.prob:
            return Stays.NOT_DRAWN
        opacity = self._object(context)
        if opacity is None or (crop is not None and not self._shows_enough(opacity, crop)):
            return Stays.REFUSED
        blurred = self.blend == "gauss" or (self.blend == "mix" and u[1] < 0.5)
        alpha = blur_alpha(opacity, self.blur_radius) if blurred else opacity
        donor = None
        if self.donor_sets:
            assert context.donors is not None  # the mapper reads ``needs``
            donor = context.donors.draw(self.donor_sets, streams(f"{self.stream}.donor"), context.sample.index)
        return Paste(alpha, float(u[2]), u[3:], donor)

    def compose(self, view: View, paste: Paste, box: Box) -> np.ndarray:
        """Part ``box`` of the composed picture -> uint8 (h, w, 3)."""
        size = (view.image.shape[1], view.image.shape[2])
        if paste.donor is not None:
            background = donor_crop(paste.donor.sample, paste.place[1:], size, box)
        elif self.background == TEXTURE:
            background = random_texture(paste.place, size, box)
        else:
            background = constant_grey(paste.grey, box)
        x1, y1, x2, y2 = box
        return composite(as_hwc(view.image)[y1:y2, x1:x2], background, paste.alpha[y1:y2, x1:x2])

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        paste = self.draw(view, streams, context)
        if isinstance(paste, Stays):
            return view if paste is Stays.NOT_DRAWN else replace(view, extra=refused(view.extra))
        whole = (0, 0, view.image.shape[2], view.image.shape[1])
        extra = pasted(view.extra, passed_over(paste))
        return View(from_hwc(self.compose(view, paste, whole)), view.mask, view.geometry, extra)

    def joined(self, following: Augmenter | None) -> Augmenter | None:
        # Only a crop that is a place and nothing else.
        if isinstance(following, RandomResizedCrop) and type(following).__call__ is RandomResizedCrop.__call__:
            return PastedCrop(self, following)
        if self.min_fg_in_crop > 0:
            raise ConfigError(
                f"AUGMENT.COPY_PASTE.MIN_FG_IN_CROP is {self.min_fg_in_crop:g}, but no crop follows CopyPaste "
                "directly; put RandomResizedCrop or SaliencyConstrainedCrop after it, or set it to 0"
            )
        return None

    def _object(self, context: Context) -> np.ndarray | None:
        """Opacity of the object, uint8 (H, W), before any blur; None where there is no object. Made once per sample."""
        sample = context.sample
        key = f"opacity {self.mask_mode} {self.mask_threshold}"
        if key not in context.memo:
            context.memo[key] = self._opacity(sample.saliency, sample.graded, (sample.height, sample.width))
        return context.memo[key]

    def _opacity(
        self, mask: torch.Tensor | None, graded: torch.Tensor | None, size: tuple[int, int]
    ) -> np.ndarray | None:
        if mask is None or graded is None:
            return None
        grey = graded.numpy()
        if self.mask_mode == "binary":
            grey = binarize(grey, self.mask_threshold).astype(np.uint8) * np.uint8(255)
        if not grey.any():
            return None
        if grey.shape != size:
            grey = cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return grey

    def _shows_enough(self, opacity: np.ndarray, crop: Box) -> bool:
        if self.min_fg_in_crop == 0:
            return True
        x1, y1, x2, y2 = crop
        return float(opacity[y1:y2, x1:x2].sum()) >= self.min_fg_in_crop * float(opacity.sum())


class PastedCrop(Augmenter):
    """A paste and the crop after it: the crop is drawn first, and only what it shows is composed."""

    wants_whole = True

    def __init__(self, paste: CopyPaste, crop: RandomResizedCrop) -> None:
        self.paste, self.crop = paste, crop
        self.needs = paste.needs | crop.needs
        self.donor_sets = (*paste.donor_sets, *crop.donor_sets)
        self.records = {**paste.records, **crop.records}

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        box, met = self.crop.place(view, streams, context)
        paste = self.paste.draw(view, streams, context, box)
        if isinstance(paste, Stays):
            cropped = crop_view(view, box, self.crop.size, self.crop.interpolation, met)
            return cropped if paste is Stays.NOT_DRAWN else replace(cropped, extra=refused(cropped.extra))
        pixels = from_hwc(self.paste.compose(view, paste, box))
        cropped = crop_view(view, box, self.crop.size, self.crop.interpolation, met, pixels)
        return replace(cropped, extra=pasted(cropped.extra, passed_over(paste)))


def passed_over(paste: Paste) -> int:
    """Donors that could not be read."""
    return 0 if paste.donor is None else paste.donor.passed_over


def composite(front: np.ndarray, back: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``(alpha front + (255 - alpha) back) / 255``, rounded: uint8 (h, w, 3) twice, alpha uint8 (h, w) -> (h, w, 3).

    The same bits as PIL's ``Image.composite``, in a third of the time. The weights are handed over in grey values, not
    in [0, 1]: OpenCV divides by their sum plus 1e-5, which would round some values down.
    """
    weight = alpha.astype(np.float32)
    return cv2.blendLinear(front, back, weight, 255 - weight)


def blur_alpha(alpha: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of an opacity map, uint8 (h, w); borders are repeated, the Gaussian is cut at 3 sigma."""
    kernel = cv2.getGaussianKernel(2 * blur_radius(sigma) + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(alpha, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def _donor_sets(background: str, sets: tuple[str, ...]) -> tuple[str, ...]:
    """Where backgrounds come from; empty where they are drawn."""
    key = "AUGMENT.COPY_PASTE.BACKGROUND"
    if bool(sets) != (background == SETS):
        raise ConfigError(
            f"{key} is '{background}' and {key}_SETS {list(sets)}; expected a list of sets with BACKGROUND sets, and "
            "an empty one with every other"
        )
    if background in (GRAY, TEXTURE):
        return ()
    for name in sets:
        check_donor_set(f"{key}_SETS", name)
    if sets:
        return sets
    try:
        check_donor_set(key, background)
    except ConfigError:
        raise ConfigError(
            f"{key} is '{background}'; expected gray, texture, windows:FILE (a list of tools/make_windows.py), "
            "dataset:NAME (a registered dataset or a path form such as dataset:folder:/data/photos), train, or sets "
            "with BACKGROUND_SETS"
        ) from None
    return (background,)


def _check_rule(rule: str) -> None:
    try:
        threshold_of(np.ones((1, 1), np.float32), rule)
    except ConfigError as error:
        raise ConfigError(f"AUGMENT.COPY_PASTE.MASK_THRESHOLD: {error}") from None
