"""One decoded image with its map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_loc.structures.checks import check_tensor


@dataclass
class Sample:
    """A decoded image and everything known about it.

    Attributes:
        image: uint8 (3, H, W), RGB. Any memory layout (channels-last memory is what the resize likes best).
        saliency: binary or graded map, uint8 (h, w), 0..255, or None. ``(h, w)`` is (H, W) or a reduced version of
            it covering the same extent (masks may be stored at reduced resolution).
        graded: the map before it was made binary, uint8 (h, w), or None where no augmenter asked for it.
        boxes: float32 (M, 4) XYXY, source frame, half-open, or None.
        label: class index, -1 unknown.
        index: stable position in the dataset.
        path: file the image came from, for messages.
    """

    image: Tensor
    saliency: Tensor | None = None
    boxes: Tensor | None = None
    label: int = -1
    index: int = 0
    path: str = ""
    graded: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("Sample", "image", self.image, (3, None, None), (torch.uint8,))
        if self.saliency is not None:
            check_tensor("Sample", "saliency", self.saliency, (None, None), (torch.uint8,))
        if self.graded is not None:
            check_tensor("Sample", "graded", self.graded, (None, None), (torch.uint8,))
        if self.boxes is not None:
            check_tensor("Sample", "boxes", self.boxes, (None, 4), (torch.float32,))

    @property
    def height(self) -> int:
        return self.image.shape[1]

    @property
    def width(self) -> int:
        return self.image.shape[2]
