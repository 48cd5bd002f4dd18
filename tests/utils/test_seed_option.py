"""One meaning of --seeds in every tool."""

from __future__ import annotations

import math

import pytest

from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.seeds import mean_std, parse_seeds


@pytest.mark.parametrize(
    "text, seeds",
    [("1", [0]), ("3", [0, 1, 2]), ("0,1,2", [0, 1, 2]), ("7, 3", [7, 3]), ("7,", [7]), ("0,", [0])],
)
def test_a_number_of_seeds_or_the_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1,1", "a", "1,-2", "1.5", ",", "1,,2"])
def test_what_names_no_seeds_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--seeds is '{text}'; expected a number of seeds"):
        parse_seeds(text)


def test_zero_seeds_may_mean_seed_zero() -> None:
    with pytest.raises(ConfigError, match="write --seeds 0,"):
        parse_seeds("0")


def test_sample_deviation() -> None:
    # (1, 2, 6): mean 3, squares 4 + 1 + 9 = 14, over n - 1 = 2.
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7.0)))
    mean, std = mean_std([5.0])
    assert mean == 5.0 and math.isnan(std)
