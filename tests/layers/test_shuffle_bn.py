"""Shuffle-BN: a permutation of the global batch that depends on seed and step alone."""

from __future__ import annotations

import torch

from ssl_loc.layers import ShuffleBN

TOTAL = 8


def _order_dependent(x: torch.Tensor) -> torch.Tensor:
    """Encoder that tells neighbours: differences within pairs, like a norm layer with groups of two."""
    return (x.view(-1, 2, 1) - x.view(-1, 2, 1).flip(1)).reshape(-1, 1)


def _keys(step: int = 5, salt: int = 0) -> torch.Tensor:
    batch = torch.arange(TOTAL, dtype=torch.float32).square()[:, None]
    return ShuffleBN(seed=1)(_order_dependent, batch, step, salt)


def test_undone_exactly() -> None:
    x = torch.randn(11, 3)
    assert torch.equal(ShuffleBN(0)(lambda images: images * 2, x, step=3), x * 2)


def test_images_meet_other_neighbours_at_each_step_and_salt() -> None:
    results = {tuple(_keys(step, salt)[:, 0].tolist()) for step in range(5) for salt in range(2)}
    assert len(results) > 5
    assert torch.equal(_keys(), _keys())


def test_permutations_are_uniform_and_repeatable() -> None:
    first = [int(ShuffleBN(0).permutation(4, step)[0]) for step in range(400)]
    counts = [first.count(i) for i in range(4)]
    # 400 draws over 4 places: 100 expected, standard deviation 8.7.
    assert all(60 < c < 140 for c in counts), counts
    assert torch.equal(ShuffleBN(7).permutation(9, 2, 1), ShuffleBN(7).permutation(9, 2, 1))
    assert not torch.equal(ShuffleBN(7).permutation(50, 2), ShuffleBN(8).permutation(50, 2))
