"""One augmented picture of a sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssl_loc.structures.checks import check_tensor
from ssl_loc.structures.geometry import Geometry
from ssl_loc.structures.sample import Sample


@dataclass
class View:
    """An augmented picture with its mask and geometry.

    Attributes:
        image: uint8 (3, h, w).
        mask: uint8 (1, h', w') with values 0..255, covering the same extent as ``image`` (same size once the view has
            been cropped), or None when the sample has no usable map.
        geometry: where the view came from.
        extra: what augmenters drew and losses or deferred operations need, by name; plain numbers or tensors.
    """

    image: Tensor
    mask: Tensor | None
    geometry: Geometry
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tensor("View", "image", self.image, (3, None, None), (torch.uint8,))
        if self.mask is not None:
            check_tensor("View", "mask", self.mask, (1, None, None), (torch.uint8,))

    @classmethod
    def whole(cls, sample: Sample) -> View:
        """The untouched sample as a view: what an augmenter pipeline starts from."""
        size = (sample.height, sample.width)
        mask = None if sample.saliency is None else sample.saliency[None]
        return cls(sample.image, mask, Geometry((0.0, 0.0, float(size[1]), float(size[0])), size, size))
