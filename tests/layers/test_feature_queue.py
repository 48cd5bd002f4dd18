"""The ring buffer, by hand."""

from __future__ import annotations

import pytest
import torch

from ssl_loc.layers import FeatureQueue


def _keys(*values: float) -> torch.Tensor:
    """Rows (value, -value): recognisable, two-dimensional."""
    column = torch.tensor(values)
    return torch.stack([column, -column], 1)


def test_starts_with_unit_columns_and_nothing_real() -> None:
    queue = FeatureQueue(16, 10)
    torch.testing.assert_close(queue.features.norm(dim=0), torch.ones(10))
    assert float(queue.real_share()) == 0


def test_wraps_around() -> None:
    queue = FeatureQueue(2, 5)
    queue.enqueue(_keys(1, 2, 3))
    assert queue.features[0, :3].tolist() == [1, 2, 3] and float(queue.real_share()) == pytest.approx(0.6)
    queue.enqueue(_keys(4, 5, 6))
    # Columns 3, 4, then 0 again.
    assert queue.features[0].tolist() == [6, 2, 3, 4, 5] and queue.features[1].tolist() == [-6, -2, -3, -4, -5]
    assert int(queue.pointer) == 1 and float(queue.real_share()) == 1


def test_more_keys_than_places_keeps_the_last() -> None:
    queue = FeatureQueue(2, 3)
    queue.enqueue(_keys(9))
    queue.enqueue(_keys(1, 2, 3, 4, 5))
    # Written one by one from column 1: 1 2 | 3 4 5 lands on columns 0, 1, 2.
    assert queue.features[0].tolist() == [3, 4, 5] and int(queue.pointer) == 0


def test_against_a_slow_list() -> None:
    queue = FeatureQueue(2, 7)
    slow, at, value = queue.features[0].tolist(), 0, 0.0
    for count in (3, 1, 7, 0, 11, 5, 20, 2):
        keys = [value + i + 1 for i in range(count)]
        value += count
        for key in keys:
            slow[at] = key
            at = (at + 1) % 7
        queue.enqueue(_keys(*keys))
        assert queue.features[0].tolist() == pytest.approx(slow) and int(queue.pointer) == at


def test_is_in_the_state_dict() -> None:
    queue = FeatureQueue(2, 5)
    queue.enqueue(_keys(1, 2, 3))
    other = FeatureQueue(2, 5)
    other.load_state_dict(queue.state_dict())
    other.enqueue(_keys(4))
    assert other.features[0, :4].tolist() == [1, 2, 3, 4] and float(other.real_share()) == pytest.approx(0.8)


def test_refuses_an_empty_queue() -> None:
    with pytest.raises(ValueError, match="size >= 1"):
        FeatureQueue(2, 0)
