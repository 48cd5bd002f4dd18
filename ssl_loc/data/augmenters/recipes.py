"""The augmentation recipes of the base methods, as values for AUGMENT.VIEWS.

Sources: MoCo v1 and InstDisc (He et al. 2020, code), MoCo v2 (Chen et al. 2020), SimCLR (Chen et al. 2020, s = 1), BYOL
(Grill et al. 2020, appendix B). Sides are AUGMENT.SIZE. CAST's constrained crop and CVSA's SaliencySwap replace
"RandomResizedCrop" by name; DiLo's CopyPaste comes before it.
"""

from __future__ import annotations

import copy
from typing import Any

from ssl_loc.utils.errors import ConfigError, did_you_mean

_SMALL_CROP = {"SCALE": [0.08, 1.0]}
_MOCO_V1 = [
    "RandomResizedCrop",
    "RandomGrayscale",
    {"ColorJitter": {"P": 1.0, "HUE": 0.4}},
    "RandomFlip",
]
_MOCO_V2 = ["RandomResizedCrop", "ColorJitter", "RandomGrayscale", "GaussianBlur", "RandomFlip"]
_SIMCLR = [
    {"RandomResizedCrop": _SMALL_CROP},
    "RandomFlip",
    {"ColorJitter": {"BRIGHTNESS": 0.8, "CONTRAST": 0.8, "SATURATION": 0.8, "HUE": 0.2}},
    "RandomGrayscale",
    "GaussianBlur",
]
_BYOL = [
    {"RandomResizedCrop": {**_SMALL_CROP, "INTERPOLATION": "bicubic"}},
    "RandomFlip",
    {"ColorJitter": {"SATURATION": 0.2}},
    "RandomGrayscale",
]
_RECIPES: dict[str, list[list[Any]]] = {
    "moco_v1": [_MOCO_V1, _MOCO_V1],
    "instdisc": [_MOCO_V1, _MOCO_V1],
    "moco_v2": [_MOCO_V2, _MOCO_V2],
    "simclr": [_SIMCLR, _SIMCLR],
    "byol": [
        [*_BYOL, {"GaussianBlur": {"P": 1.0}}, {"Solarize": {"P": 0.0}}],
        [*_BYOL, {"GaussianBlur": {"P": 0.1}}, {"Solarize": {"P": 0.2}}],
    ],
}


def recipe(name: str, crop: str = "RandomResizedCrop", paste: str = "") -> list[list[Any]]:
    """AUGMENT.VIEWS of a recipe: "moco_v1", "instdisc" (the same), "moco_v2", "simclr" or "byol".

    ``crop`` replaces the first augmenter of every view, e.g. "SaliencyConstrainedCrop" or "SaliencySwap" (their sizes
    and shapes then come from AUGMENT.RANDOM_RESIZED_CROP). ``paste`` is put before it: "CopyPaste".
    """
    if name not in _RECIPES:
        raise ConfigError(f"no augmentation recipe '{name}'{did_you_mean(name, _RECIPES)} Known: {', '.join(_RECIPES)}")
    views = copy.deepcopy(_RECIPES[name])
    if crop != "RandomResizedCrop":
        for steps in views:
            steps[0] = crop
    if paste:
        for steps in views:
            steps.insert(0, paste)
    return views
