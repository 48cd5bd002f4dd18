"""What augmenters that exchange backgrounds write into ``view.extra``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ssl_loc.structures import Geometry

# 1 where the view's background was exchanged.
PASTED = "pasted"
# 1 where it should have been, but the sample has no object to keep (empty map, no box) or the crop shows too little.
PASTE_REFUSED = "paste_refused"
# Donors that could not be read and were replaced by others.
DONORS_PASSED_OVER = "donors_passed_over"
# XYXY in px of the view, half-open: where a patch of the sample was pasted into another picture; zeros without.
PASTE_BOX = "paste_box"

PASTE_NEUTRAL = {PASTED: torch.tensor(0.0), PASTE_REFUSED: torch.tensor(0.0)}
DONOR_NEUTRAL = {DONORS_PASSED_OVER: torch.tensor(0.0)}
PASTE_BOX_NEUTRAL = {PASTE_BOX: torch.zeros(4)}


def pasted(extra: Mapping[str, Any], passed_over: int = 0) -> dict[str, Any]:
    """``extra`` of a view whose background was exchanged."""
    before = float(extra.get(DONORS_PASSED_OVER, 0.0))
    counted = {DONORS_PASSED_OVER: torch.tensor(before + passed_over)} if DONORS_PASSED_OVER in extra else {}
    return {**extra, PASTED: torch.tensor(1.0), **counted}


def refused(extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` of a view whose background had to stay."""
    return {**extra, PASTE_REFUSED: torch.tensor(1.0)}


def with_paste_box(extra: dict[str, Any], geometry: Geometry) -> dict[str, Any]:
    """``extra`` with the paste box of a view that now has ``geometry``; unchanged where nothing was pasted."""
    if geometry.shown is None or PASTE_BOX not in extra:
        return extra
    x1, y1, x2, y2 = geometry.shown
    corners = geometry.to_view(torch.tensor([[x1, y1], [x2, y2]], dtype=torch.float64))
    box = torch.cat([corners.min(0).values, corners.max(0).values]).float()
    return {**extra, PASTE_BOX: box}
