"""Saliency estimators by name: from the pixels of one image to a map of what stands out."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from ssl_loc.utils.errors import ConfigError, DataError, check_choice
from ssl_loc.utils.registry import Registry

SALIENCY_REGISTRY = Registry("SALIENCY")
SALIENCY_REGISTRY.__doc__ = """
Estimators by name: a subclass of :class:`Estimator`, called as ``(image: uint8 (H, W, 3) RGB) -> float32 (H, W)`` in
[0, 1]. Same size, a constant image gives zeros, never NaN, the same bits in every process.
"""
# Modules whose import fills the registry; loaded on demand, since they bring OpenCV and a compiler with them.
_MODULES: tuple[str, ...] = ("gs", "mc", "rbd", "fusion", "cam", "gradient")


class SolveFailed(DataError):
    """The linear algebra of an estimator gave no finite answer for this image."""


class Estimator(ABC):
    """Base of registered estimators; cheap to pickle, so that process pools can hand it on.

    Args:
        preset: one of ``presets``; "" is the first of them.

    Attributes:
        name: the name it is registered under.
        presets: named sets of constants, the default first; ("",) where there are none.
        uses_labels: True if labels of any kind go into the maps (a supervised classifier, annotations).
        version: changes whenever the maps change, so that folders of maps are not mixed.
    """

    name: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("",)
    uses_labels: bool = False
    version: str = "1"

    def __init__(self, preset: str = "") -> None:
        self.preset = check_choice(f"preset of {self.name}", preset or self.presets[0], self.presets)

    @abstractmethod
    def estimate(self, image: np.ndarray) -> np.ndarray:
        """The map of a checked image, in [0, 1], any float type."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) RGB -> float32 (H, W) in [0, 1].

        Raises:
            DataError: the array is no such image.
            SolveFailed: the map has values that are not finite.
        """
        check_image(image)
        saliency = np.asarray(self.estimate(image), dtype=np.float32)
        if not np.isfinite(saliency).all():
            raise SolveFailed(f"{self.name} has no finite map for this image; use another estimator for it")
        return np.clip(saliency, 0.0, 1.0)


def check_image(image: np.ndarray) -> None:
    """Refuse what is no uint8 (H, W, 3) array with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(
            f"an image has shape {image.shape} and type {image.dtype}; expected (height, width, 3) uint8 RGB: convert "
            "grey, alpha and 16-bit pictures first (ssl_loc.data.image_io.read_image does)"
        )


def load_estimators() -> None:
    """Import the built-in estimators, so that ``SALIENCY_REGISTRY`` is full."""
    for module in _MODULES:
        importlib.import_module(f"ssl_loc.saliency.{module}")


def build_estimator(name: str, preset: str = "", **options: Any) -> Estimator:
    """Make the estimator ``name``.

    Args:
        name: as registered, e.g. "rbd".
        preset: one of its presets; "" is its default.
        options: further arguments of its ``__init__``.

    Raises:
        ConfigError: unknown name, preset or option; the message lists the known ones.
    """
    load_estimators()
    cls = SALIENCY_REGISTRY.get(name)
    known = [p for p in inspect.signature(cls).parameters if p != "preset"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"{name} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}")
    return cls(preset=preset, **options)
