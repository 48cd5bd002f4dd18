"""The memory bank by hand, and the draws from it."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.ddp import run_in_processes

from ssl_loc.layers import MemoryBank, draw
from ssl_loc.layers.memory_bank import last_occurrence
from ssl_loc.utils.comm import get_rank, get_world_size


def _bank(rows: list[list[float]], momentum: float = 0.5) -> MemoryBank:
    bank = MemoryBank(2, momentum)
    bank.allocate(len(rows))
    bank.features.copy_(torch.tensor(rows))
    return bank


def test_update_by_hand() -> None:
    """(1, 0) and (0, 1) half and half give the diagonal; a quarter and three give (1, 3) / sqrt(10)."""
    bank = _bank([[1, 0], [0, 1], [1, 0]])
    bank.update(torch.tensor([2, 1]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]) @ torch.eye(2))
    torch.testing.assert_close(bank.features[2], torch.tensor([0.5**0.5, 0.5**0.5]))
    assert bank.features[0].tolist() == [1, 0]
    bank = _bank([[1, 0]], momentum=0.25)
    bank.update(torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(bank.features[0], torch.tensor([0.1**0.5, 0.9**0.5]))


def test_the_last_of_an_image_is_written() -> None:
    bank = _bank([[1, 0], [0, 1]], momentum=0.0)
    bank.update(torch.tensor([1, 0, 1, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    assert bank.features.tolist() == [[0, -1], [-1, 0]]


def test_last_occurrence_against_a_loop() -> None:
    index = torch.randint(0, 7, (40,), generator=torch.Generator().manual_seed(0))
    expected = [max(j for j in range(40) if index[j] == index[i]) for i in range(40)]
    assert last_occurrence(index).tolist() == expected


def test_random_start_and_state() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(16)
    assert bank.size == 0
    bank.allocate(50)
    torch.testing.assert_close(bank.features.norm(dim=1), torch.ones(50))
    assert abs(float(bank.features.mean())) < 0.03 and bank.features.min() < 0 < bank.features.max()
    state = copy.deepcopy(bank.state_dict())
    unsized = MemoryBank(16)
    unsized.load_state_dict(state)
    assert torch.equal(unsized.features, bank.features)
    other = MemoryBank(16)
    other.allocate(49)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="dim >= 1 and momentum"):
        MemoryBank(4, momentum=2)


def _halves(rank: int) -> torch.Tensor:
    """Images 3 and 5 are in both halves."""
    torch.manual_seed(0)
    bank = MemoryBank(4)
    bank.allocate(9)
    index = torch.tensor([3, 1, 5, 7, 5, 3, 0, 8])
    features = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    n = 8 // get_world_size()
    mine = slice(get_rank() * n, (get_rank() + 1) * n)
    bank.update(index[mine], features[mine])
    return bank.features


def test_two_processes_write_what_one_does() -> None:
    one = _halves(0)
    for two in run_in_processes(_halves, 2):
        assert torch.equal(one, two)


def test_draws_are_a_function_of_their_counters() -> None:
    rows = torch.tensor([4, 0, 123456789, 4])
    drawn = draw(7, 3, rows, 50, 1000)
    assert drawn.shape == (4, 50) and drawn.min() >= 0 and drawn.max() < 1000
    assert torch.equal(drawn[0], drawn[3]) and torch.equal(draw(7, 3, rows[2:3], 50, 1000), drawn[2:3])
    assert torch.equal(draw(7, 3, rows, 20, 1000), drawn[:, :20])
    for other in (draw(8, 3, rows, 50, 1000), draw(7, 4, rows, 50, 1000), draw(7, 3, rows + 1, 50, 1000)):
        assert (other == drawn).float().mean() < 0.05
    with pytest.raises(ValueError, match="count >= 1"):
        draw(0, 0, rows, 0, 5)


def test_draws_are_splitmix64() -> None:
    """The generator's published numbers for the seed 0 (Vigna's splitmix64.c), where all counters are 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [(value & (2**63 - 1)) % 1000003 for value in published]
    assert draw(0, 0, torch.zeros(1, dtype=torch.int64), 3, 1000003)[0].tolist() == expected


def test_draws_are_uniform_and_independent() -> None:
    """Chi-squared of 100 bins over 200 000 draws, and of pairs of neighbouring steps, rows and columns (p 1e-6)."""
    rows = torch.arange(200)
    drawn = draw(1, 5, rows, 1000, 100)
    counts = torch.bincount(drawn.flatten(), minlength=100).double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 178  # 99 degrees of freedom
    coarse = drawn // 10
    for other in (draw(1, 6, rows, 1000, 100) // 10, coarse.roll(1, 0), coarse.roll(1, 1)):
        pairs = torch.bincount((coarse * 10 + other).flatten(), minlength=100).double()
        assert float(((pairs - 2000) ** 2 / 2000).sum()) < 178
