"""Structures: geometry by hand, overlap by counting pixels, errors that name the field."""

from __future__ import annotations

import pytest
import torch

from ssl_loc.data.rng import Streams
from ssl_loc.structures import Geometry, GeometryBatch, Sample, View, Views


def _views(boxes: list[list[tuple[float, ...]]], flips: list[list[bool]], size: int = 8) -> Views:
    rows = [
        [Geometry(b, (size, size), (100, 100), flip=f) for b, f in zip(rb, rf, strict=True)]  # type: ignore[arg-type]
        for rb, rf in zip(boxes, flips, strict=True)
    ]
    n, v = len(boxes), len(boxes[0])
    return Views(
        images=[torch.zeros(n, 3, size, size, dtype=torch.uint8) for _ in range(v)],
        masks=[torch.zeros(n, 1, size, size, dtype=torch.uint8) for _ in range(v)],
        has_mask=torch.ones(n, v, dtype=torch.bool),
        geometry=GeometryBatch.stack(rows),
        index=torch.arange(n),
        label=torch.full((n,), -1),
    )


def test_geometry_maps_points_by_hand() -> None:
    g = Geometry((10.0, 20.0, 50.0, 40.0), (10, 20), (100, 100))
    # x: (30 - 10) * 20 / 40 = 10; y: (25 - 20) * 10 / 20 = 2.5
    assert g.to_view(torch.tensor([30.0, 25.0])).tolist() == [10.0, 2.5]
    flipped = Geometry((10.0, 20.0, 50.0, 40.0), (10, 20), (100, 100), flip=True)
    assert flipped.to_view(torch.tensor([20.0, 25.0])).tolist() == [15.0, 2.5]
    points = torch.rand(50, 2) * 100
    assert torch.allclose(flipped.to_source(flipped.to_view(points)), points, atol=1e-4)


def test_intersect() -> None:
    a = Geometry((0.0, 0.0, 10.0, 10.0), (1, 1), (20, 20))
    assert a.intersect(Geometry((5.0, 6.0, 20.0, 9.0), (1, 1), (20, 20))) == (5.0, 6.0, 10.0, 9.0)
    assert a.intersect(Geometry((10.0, 0.0, 20.0, 9.0), (1, 1), (20, 20))) is None


def test_overlap_counts_shared_cells() -> None:
    # View a sees x 0..8, view b sees x 4..12 (y the same): the right half of a; mirrored a: the left half.
    boxes = [[(0.0, 0.0, 8.0, 8.0), (4.0, 0.0, 12.0, 8.0)]] * 2
    views = _views(boxes, [[False, False], [True, False]])
    cover = views.overlap(0, 1, (2, 4))
    assert cover[0, 0].tolist() == [[0.0, 0.0, 1.0, 1.0]] * 2
    assert cover[1, 0].tolist() == [[1.0, 1.0, 0.0, 0.0]] * 2
    # b sees from x = 4 of 0..8 in 3 cells: cell 1 spans 8/3..16/3, of which 4..16/3 is half.
    assert torch.allclose(views.overlap(0, 1, (1, 3))[0, 0, 0], torch.tensor([0.0, 0.5, 1.0]), atol=1e-6)


def test_to_other_is_there_and_back_through_the_source() -> None:
    """The same as the maps of single views; nan outside of what either shows, a pasted part included."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(5, 40, 2, generator=generator)
    rows = []
    for i in range(5):
        low = torch.randint(0, 30, (2, 2), generator=generator).tolist()
        shown = None if i < 3 else (25.0, 25.0, 45.0, 50.0)
        rows.append(
            [
                Geometry((x, y, x + 40.0, y + 50.0), (20, 30), (100, 100), flip, shown=shown)
                for (x, y), flip in zip(low, (i % 2 == 0, i == 1), strict=True)
            ]
        )
    found = GeometryBatch.stack(rows).to_other(0, 1, points)
    size = torch.tensor([30.0, 20.0])
    for (a, b), p, q in zip(rows, points, found, strict=True):
        source = a.to_source(p * size)
        x1, y1, x2, y2 = a.intersect(b)
        inside = (source[:, 0] >= x1) & (source[:, 0] <= x2) & (source[:, 1] >= y1) & (source[:, 1] <= y2)
        assert 0 < inside.sum() < 40
        assert torch.equal(q.isfinite().all(1), inside)
        torch.testing.assert_close(q[inside], b.to_view(source[inside]) / size)


def test_overlap_matches_pixel_count() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        low = torch.randint(0, 40, (2, 2), generator=generator)
        high = low + torch.randint(4, 40, (2, 2), generator=generator)
        a, b = ([*map(float, (*low[i], *high[i]))] for i in (0, 1))
        flip = bool(torch.rand(1, generator=generator) < 0.5)
        views = _views([[tuple(a), tuple(b)]], [[flip, False]])
        seen = torch.zeros(100, 100)
        seen[int(b[1]) : int(b[3]), int(b[0]) : int(b[2])] = 1
        inside = seen[int(a[1]) : int(a[3]), int(a[0]) : int(a[2])]
        expected = torch.nn.functional.adaptive_avg_pool2d((inside.flip(1) if flip else inside)[None], (1, 1))
        assert torch.allclose(views.overlap(0, 1, (1, 1))[0], expected, atol=1e-6)


def test_disjoint_views_overlap_nowhere() -> None:
    views = _views([[(0.0, 0.0, 4.0, 4.0), (6.0, 6.0, 9.0, 9.0)]], [[True, False]])
    assert views.overlap(0, 1, (3, 3)).sum() == 0


def test_mask_at_area_keeps_a_small_object_that_point_sampling_loses() -> None:
    views = _views([[(0.0, 0.0, 8.0, 8.0)]], [[False]], size=224)
    views.masks[0][0, 0, 50:54, 50:54] = 255  # between the 7 align-corners samples at multiples of 223/6
    assert views.mask_at(0, (7, 7), "point").sum() == 0
    assert views.mask_at(0, (7, 7))[0, 0, 1, 1].item() == pytest.approx(16 / 32**2)


def test_constructors_name_the_wrong_field() -> None:
    with pytest.raises(TypeError, match=r"Sample\.image has dtype torch\.float32, expected torch\.uint8"):
        Sample(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"View\.mask has shape \(4, 4\), expected \(1, \*, \*\)"):
        View(
            torch.zeros(3, 4, 4, dtype=torch.uint8),
            torch.zeros(4, 4, dtype=torch.uint8),
            Geometry((0, 0, 1, 1), (4, 4), (4, 4)),
        )
    with pytest.raises(ValueError, match=r"Geometry\.box is empty"):
        Geometry((3.0, 0.0, 3.0, 5.0), (4, 4), (9, 9))


def test_missing_masks_are_said() -> None:
    views = _views([[(0.0, 0.0, 8.0, 8.0)]], [[False]])
    views.masks = None
    with pytest.raises(ValueError, match="carries no masks"):
        views.mask_at(0, (7, 7))


def test_streams_depend_on_every_counter_and_nothing_else() -> None:
    base = Streams(1, 2, 3, 0)("crop").random(4).tolist()
    assert Streams(1, 2, 3, 0)("crop").random(4).tolist() == base
    others = [Streams(2, 2, 3), Streams(1, 3, 3), Streams(1, 2, 4), Streams(1, 2, 3, 1)]
    assert all(s("crop").random(4).tolist() != base for s in others)
    assert Streams(1, 2, 3)("flip").random(4).tolist() != base
