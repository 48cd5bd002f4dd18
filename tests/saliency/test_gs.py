"""GS: boundary saliency, seeds and saturation by hand; distances on a drawn picture."""

from __future__ import annotations

import numpy as np
import pytest

from ssl_loc.saliency.gs import GeodesicSaliency, background_seeds, border_saliency, saturate
from ssl_loc.saliency.region_graph import measure_regions


def test_border_saliency_by_hand() -> None:
    colours = np.array([[0, 4, 10], [4, 0, 6], [10, 6, 0]], dtype=np.float32)
    centres = np.array([[0, 0], [0, 1], [0, 0.5]], dtype=np.float32)
    # d / (1 + 3 place): 0-1: 4 / 4, 0-2: 10 / 2.5, 1-2: 6 / 2.5; with 40 regions the single nearest counts.
    assert np.allclose(border_saliency(colours, centres, 40), [1.0, 1.0, 2.4])
    # With 80 regions the two nearest.
    assert np.allclose(border_saliency(colours, centres, 80), [2.5, 1.7, 3.2])
    # More than there are: all others.
    assert np.allclose(border_saliency(colours, centres, 4000), [2.5, 1.7, 3.2])
    assert border_saliency(np.zeros((1, 1), np.float32), centres[:1], 40).tolist() == [0.0]


def test_seeds_are_all_alike_or_the_less_salient_half() -> None:
    assert background_seeds(np.array([3.0, 3.5, 4.0])).tolist() == [True, True, True]
    assert background_seeds(np.array([1.0, 3.0, 3.1, 5.0])).tolist() == [True, True, False, False]


def test_the_top_is_saturated() -> None:
    values = np.arange(100.0)
    # 2% of 100: the second largest becomes 1.
    assert np.allclose(saturate(values), np.minimum(values / 98, 1))
    assert saturate(np.zeros(5)).tolist() == [0] * 5


def grid(colours: np.ndarray) -> object:
    rows, columns = colours.shape
    labels = np.kron(np.arange(rows * columns).reshape(rows, columns), np.ones((8, 8))).astype(np.int32)
    rgb = np.repeat(np.kron(colours, np.ones((8, 8)))[None], 3, axis=0).astype(np.float32)
    return measure_regions(rgb, labels, rows * columns, 4)


def test_distance_accumulates_along_the_cheapest_path() -> None:
    """Nested grey squares: each ring lies one step of L further from the border; the free part is subtracted."""
    greys = np.full((9, 9), 0.2)
    for margin, grey in ((1, 0.3), (2, 0.45), (3, 0.65), (4, 0.9)):
        greys[margin : 9 - margin, margin : 9 - margin] = grey
    regions = grid(greys)
    light = regions.colour[:, 0].reshape(9, 9)
    scores = GeodesicSaliency("matlab").scores(regions).reshape(9, 9)
    # Regions off the diagonals have a neighbour of the same grey, so hardly anything is free.
    assert regions.clip < 1.0
    steps = np.maximum(np.diff([light[0, 4], light[1, 4], light[2, 4], light[3, 4], light[4, 4]]) - regions.clip, 0)
    assert np.allclose(scores[:5, 4], np.cumsum([0, *steps]) / steps.sum() * 1.0, atol=1e-3) or np.allclose(
        scores[:5, 4], np.minimum(np.cumsum([0, *steps]) / np.sort(np.cumsum(steps))[-2], 1), atol=1e-3
    )


@pytest.mark.parametrize(("preset", "expected"), [("matlab", True), ("paper", False)])
def test_an_object_on_the_border_is_no_seed_or_pays(preset: str, expected: bool) -> None:
    """A white block on the border: the published code drops it from the background, the paper makes it pay."""
    greys = np.full((10, 12), 0.3)
    greys[7:, 5:7] = 1.0
    regions = grid(greys)
    scores = GeodesicSaliency(preset).scores(regions).reshape(10, 12)
    assert scores[8, 5:7].min() > 0.9 if expected else scores[8, 5:7].max() > 0.9
    assert scores[:6].max() < 0.1
