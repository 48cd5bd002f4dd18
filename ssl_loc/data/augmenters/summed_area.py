"""How much of a map lies inside each of many boxes, without touching the map again."""

from __future__ import annotations

import cv2
import numpy as np

# A table of int32 holds maps of up to this many grey-value units exactly; larger maps use float64 (exact to 2^53).
_INT32_LIMIT = 2**31 - 1


class SummedArea:
    """Summed-area table of a map.

    Args:
        mask: uint8 (h, w), 0..255; grey values count as fractions of a salient pixel.
        source: (H, W) of the image the map covers. Where the map is smaller, box edges are rounded to map cells, so
            the coverage is exact to one cell.
    """

    def __init__(self, mask: np.ndarray, source: tuple[int, int]) -> None:
        self.shape: tuple[int, int] = (mask.shape[0], mask.shape[1])
        self.source = source
        depth = cv2.CV_32S if mask.size * 255 <= _INT32_LIMIT else cv2.CV_64F
        self.table = cv2.integral(mask, sdepth=depth)
        # Sum of grey values, and the share of the image that is salient (in [0, 1]).
        self.total = float(self.table[-1, -1])
        self.area_frac = self.total / (255.0 * mask.size)

    @property
    def empty(self) -> bool:
        return self.total == 0

    def inside(self, boxes: np.ndarray) -> np.ndarray:
        """Sum of grey values inside ``boxes`` (K, 4), XYXY half-open in the source frame -> (K,).

        Boxes may be empty (they hold 0) and must lie inside the image.
        """
        h, w = self.shape
        if self.shape != self.source:
            scale = np.array([w / self.source[1], h / self.source[0]] * 2)
            boxes = np.rint(boxes * scale).astype(np.int64)
        x1, y1, x2, y2 = boxes.T
        stride = w + 1
        corners = np.stack([y2 * stride + x2, y1 * stride + x1, y1 * stride + x2, y2 * stride + x1])
        # float64 before adding: the two-term sums below can leave int32.
        a, b, c, d = self.table.ravel().take(corners).astype(np.float64)
        return np.where((x2 > x1) & (y2 > y1), a + b - c - d, 0.0)

    def coverage_of(self, box: tuple[int, int, int, int]) -> float:
        """:meth:`coverage` of a single, not empty box, at the price of four look-ups."""
        x1, y1, x2, y2 = box
        if self.shape != self.source:
            fx, fy = self.shape[1] / self.source[1], self.shape[0] / self.source[0]
            x1, y1, x2, y2 = round(x1 * fx), round(y1 * fy), round(x2 * fx), round(y2 * fy)
        table = self.table
        inside = table.item(y2, x2) + table.item(y1, x1) - table.item(y1, x2) - table.item(y2, x1)
        return inside / self.total if self.total > 0 else 1.0

    def coverage(self, boxes: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
        """Share of the map inside each of ``boxes`` (K, 4) -> (K,).

        With ``within`` (4,), share of that part of the map that lies in ``within``. An empty map is covered (1).
        """
        if within is None:
            whole, parts = self.total, self.inside(boxes)
        else:
            whole = float(self.inside(within[None])[0])
            low, high = np.maximum(boxes[:, :2], within[:2]), np.minimum(boxes[:, 2:], within[2:])
            parts = self.inside(np.concatenate([low, high], 1))
        return parts / whole if whole > 0 else np.ones(len(boxes))

    def bounding_box(self) -> tuple[int, int, int, int]:
        """Smallest box in the source frame around all pixels above 0; the whole image for an empty map."""
        rows = np.flatnonzero(np.diff(self.table[:, -1]))
        columns = np.flatnonzero(np.diff(self.table[-1]))
        if len(rows) == 0:
            return 0, 0, self.source[1], self.source[0]
        sy, sx = self.source[0] / self.shape[0], self.source[1] / self.shape[1]
        x1, x2 = int(columns[0] * sx), int(np.ceil((columns[-1] + 1) * sx))
        y1, y2 = int(rows[0] * sy), int(np.ceil((rows[-1] + 1) * sy))
        return x1, y1, min(x2, self.source[1]), min(y2, self.source[0])

    def centroid(self) -> tuple[float, float]:
        """Centre of mass (x, y) in the source frame, as pixel indices (a pixel's own centre is its index)."""
        h, w = self.shape
        if self.empty:
            return (self.source[1] - 1) / 2, (self.source[0] - 1) / 2
        columns, rows = np.diff(self.table[-1]).astype(np.float64), np.diff(self.table[:, -1]).astype(np.float64)
        x, y = float(columns @ np.arange(w)) / self.total, float(rows @ np.arange(h)) / self.total
        return (x + 0.5) * self.source[1] / w - 0.5, (y + 0.5) * self.source[0] / h - 0.5
