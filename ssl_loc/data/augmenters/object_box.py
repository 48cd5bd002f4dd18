"""The foreground box of a sample: of its annotations, or of its map."""

from __future__ import annotations

import numpy as np

from ssl_loc.data.augmenters.resize import Box
from ssl_loc.saliency.boxes import BOX_METHODS, MIN_AREA, saliency_box
from ssl_loc.structures import Sample

GT_BOX = "gt_box"
BOX_SOURCES = (GT_BOX, *BOX_METHODS)


def object_box(sample: Sample, source: str) -> Box | None:
    """Box of the sample's object (integer XYXY, half-open, inside the image), or None where it has none.

    Args:
        sample: with boxes or a map.
        source: "gt_box" takes the largest annotated box; "threshold_cc" and "maxsum" read the map (see
            ``saliency.boxes``).
    """
    size = (sample.height, sample.width)
    if source == GT_BOX:
        return None if sample.boxes is None else largest_box(sample.boxes.numpy(), size)
    grey = sample.saliency if sample.graded is None else sample.graded
    if grey is None:
        return None
    box = saliency_box(grey.numpy(), source)
    if box is None:
        return None
    # The map may be stored at a fraction of the image's size.
    scale = np.array([size[1] / grey.shape[1], size[0] / grey.shape[0]] * 2)
    return largest_box((np.array(box) * scale)[None], size)


def largest_box(boxes: np.ndarray, size: tuple[int, int]) -> Box | None:
    """The largest of ``boxes`` (M, 4) inside an image of ``size`` (H, W), rounded outwards; None where it has no area.

    Corners may be swapped and boxes may leave the image, as in real annotations; the first of equal ones is taken.
    """
    if not len(boxes):
        return None
    low = np.floor(np.minimum(boxes[:, :2], boxes[:, 2:])).clip(0, size[::-1])
    high = np.ceil(np.maximum(boxes[:, :2], boxes[:, 2:])).clip(0, size[::-1])
    areas = (high - low).prod(1)
    best = int(areas.argmax())
    if areas[best] < MIN_AREA:
        return None
    (x1, y1), (x2, y2) = low[best].astype(int).tolist(), high[best].astype(int).tolist()
    return x1, y1, x2, y2
