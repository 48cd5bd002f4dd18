"""From heat maps and masks to the numbers of a grounding protocol, whatever the maps are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ssl_loc.evaluation.maps import (
    ZERO_MAP,
    binary_iou,
    density,
    energy_inside,
    histogram,
    normalize_map,
    pointing_hit,
    upsample_map,
)
from ssl_loc.structures.views import resize_mask
from ssl_loc.utils.errors import ConfigError, check_choice


@dataclass(frozen=True)
class MapScores:
    """How a rectified map is compared with a mask (CAST paper, section 4.4, and what its text leaves open).

    Attributes:
        threshold: share of the maximum from which on a value counts as "looked at".
        grid: compare at the "input" size (map upsampled), or at the size of the "map" (mask averaged, salient from .5).
        norm: scale maps by their "max", or to their range: "minmax".
        bins: bins of the histogram over [0, 1].
        node: name of the options' node, for messages.
    """

    threshold: float = 0.5
    grid: str = "input"
    norm: str = "max"
    bins: int = 50
    node: str = "GROUNDING"

    def __post_init__(self) -> None:
        check_choice(f"{self.node}.GRID", self.grid, ("input", "map"))
        check_choice(f"{self.node}.NORM", self.norm, ("max", "minmax"))
        if not 0 < self.threshold < 1:
            raise ConfigError(f"{self.node}.THRESHOLD is {self.threshold}; expected a number between 0 and 1")

    def measure(self, cams: Tensor, masks: Tensor) -> dict[str, np.ndarray]:
        """Per-image numbers from rectified maps (N, h, w) and boolean masks (N, H, W)."""
        if self.grid == "map":
            size = (int(cams.shape[1]), int(cams.shape[2]))
            masks = resize_mask(masks[:, None].float(), size)[:, 0] >= 0.5
        full = (int(masks.shape[1]), int(masks.shape[2]))
        zero = cams.flatten(1).amax(1) <= ZERO_MAP
        scaled = upsample_map(normalize_map(cams, self.norm), full)
        numbers = {
            "iou": binary_iou(scaled >= self.threshold, masks),
            "pointing": pointing_hit(scaled, masks),
            "energy": energy_inside(scaled, masks),
            "zero": zero,
            "mask_share": masks.flatten(1).double().mean(1),
        }
        return {key: value.cpu().numpy() for key, value in numbers.items()}

    def metrics(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Averages over images; images whose union is empty are left out of the IoU."""
        iou = rows["iou"][~np.isnan(rows["iou"])]
        return {
            "iou_mean": float(iou.mean()) if len(iou) else 0.0,
            "iou_median": float(np.median(iou)) if len(iou) else 0.0,
            "pointing_game": float(rows["pointing"].mean()),
            "energy_in_mask": float(rows["energy"].mean()),
            "zero_cam_rate": float(rows["zero"].mean()),
            # What a map that is active everywhere would score: read the IoU against it.
            "iou_of_full_map": float(rows["mask_share"].mean()),
        }

    def details(self, rows: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
        """Numbers of images, IoU per image, histogram and density."""
        iou = rows["iou"]
        valid = ~np.isnan(iou)
        counts, edges = histogram(iou[valid], self.bins)
        x, y = density(iou[valid])
        return {
            "images": int(valid.sum()),
            "images_empty_union": int((~valid).sum()),
            "per_image": {"name": list(names), "iou": [round(v, 4) if v == v else None for v in iou.tolist()]},
            "histogram": {"edges": edges, "counts": counts},
            "density": {"x": x, "y": y},
        }

    def options(self) -> dict[str, Any]:
        """Plain values for a result."""
        return {"threshold": self.threshold, "grid": self.grid, "norm": self.norm}


def concatenate(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Per-image numbers of several batches as one; ``rows`` is not empty."""
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
