"""Augmenters: pictures of one sample with masks and geometry. Importing this package registers the built-in ones."""

from ssl_loc.data.augmenters import (  # noqa: F401 (importing registers)
    blur,
    constrained_crop,
    copy_paste,
    crops,
    fixed_crops,
    flip,
    official_jitter,
    photometric,
    saliency_swap,
)
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.build import (
    AUGMENTER_REGISTRY,
    Pipeline,
    augment,
    build_device_photometric,
    build_pipelines,
)

__all__ = [
    "AUGMENTER_REGISTRY",
    "Augmenter",
    "Context",
    "Pipeline",
    "augment",
    "build_device_photometric",
    "build_pipelines",
]
