"""The collapse monitor: its numbers in closed form, its alarm, and that it changes no run."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import assert_equal_bits, last_state, tiny_cfg
from torch import Tensor, nn

from ssl_loc.engine import train
from ssl_loc.engine.collapse import MAX_ROWS, collapse_numbers, effective_rank
from ssl_loc.engine.collapse_alarm import CollapseAlarm, CollapseError
from ssl_loc.modeling.method import byol
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.events import read_metrics

Data = tuple[Path, Path]
BYOL = [
    *("MODEL.METHOD", "BYOL", "LOSS.NAMES", ["NegativeCosine"], "MODEL.NORM", "BN"),
    *("MODEL.BYOL.DIM", 16, "MODEL.BYOL.HIDDEN", 32, "ENGINE.LOG_PERIOD", 4, "SOLVER.WARMUP_ITERS", 0),
]


def plus_minus(dim: int) -> Tensor:
    """+-e_i: mean 0, every dimension has mean square 1/D, D equal singular values."""
    return torch.cat([torch.eye(dim), -torch.eye(dim)])


def test_numbers_in_closed_form() -> None:
    numbers = collapse_numbers(plus_minus(4), 3 * plus_minus(8))
    assert numbers["feature_std"] == pytest.approx(0.5, rel=1e-5) and numbers["feature_std_ideal"] == 0.5
    assert numbers["effective_rank"] == pytest.approx(4.0, rel=1e-4)
    # The trunk's features count by direction: the factor 3 is gone.
    assert numbers["trunk_std"] == pytest.approx(8**-0.5, rel=1e-5)
    assert numbers["trunk_std_ideal"] == pytest.approx(8**-0.5)
    assert numbers["trunk_effective_rank"] == pytest.approx(8.0, rel=1e-4)
    broken = collapse_numbers(plus_minus(4) * math.nan, plus_minus(4))
    assert math.isnan(broken["feature_std"]) and math.isnan(broken["effective_rank"])
    assert broken["trunk_effective_rank"] == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("count", [7, 40, 3 * MAX_ROWS])
def test_one_direction_is_rank_one_and_none_is_too(count: int) -> None:
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(1, 24, generator=g))
    line = torch.randn(count, 1, generator=g) * direction
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-4)
    assert effective_rank(line + 5) == pytest.approx(1.0, abs=1e-2), "an offset common to all is no dimension"
    # Equal rows up to the last bit of float32: rounding is no dimension either.
    same = direction.expand(count, -1) * (1 + 6e-8 * torch.randint(0, 2, (count, 24), generator=g))
    assert effective_rank(same) == 1.0
    assert collapse_numbers(same, same)["feature_std"] < 1e-6


def test_rank_is_the_slow_formula() -> None:
    """Entropy of singular values by an SVD, wide and tall; unequal singular values s, 1 - s in closed form."""
    for shape in ((50, 8), (8, 50)):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()
        s = torch.linalg.svdvals(x - x.mean(0))[: min(shape)]
        p = (s / s.sum())[s > 1e-9]
        assert effective_rank(x.float()) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-4)
    two = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(two) == pytest.approx(expected, rel=1e-5)


FINE = {"feature_std": 0.2, "feature_std_ideal": 0.25, "effective_rank": 9.0, "trunk_std": 0.1, "trunk_std_ideal": 0.3}
POINT = {**FINE, "feature_std": 0.01}
LINE = {**FINE, "trunk_effective_rank": 1.2}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_it_warns_once_and_again_while_it_lasts(caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseAlarm(patience=2, repeat=3)
    said = []
    # Measurements 3 and 4 are the first two in a row; then every third one; a recovery starts anew.
    for n, values in enumerate([POINT, FINE, POINT, POINT, POINT, LINE, LINE, FINE, LINE, LINE], start=1):
        before = len(warnings(caplog))
        alarm.watch(10 * n, values)
        said += [n] * (len(warnings(caplog)) - before)
    assert said == [4, 7, 10] and alarm.warnings == 3
    first, second, _ = warnings(caplog)
    assert "collapsed at iteration 40: the spread of the embedding (feature_std) is 0.040 of an even one" in first
    assert "the trunk uses 1.20 dimensions (trunk_effective_rank" in second and "SOLVER.BASE_LR" in first


def test_not_a_number_is_not_a_collapse() -> None:
    """The finite check reports it."""
    CollapseAlarm("stop", patience=1).watch(1, {**FINE, "feature_std": math.nan, "effective_rank": math.nan})
    with pytest.raises(CollapseError, match="iteration 7: .*0.040 of an even one.*nothing was written"):
        CollapseAlarm("stop", patience=1).watch(7, POINT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"action": "shout"}, "ENGINE.COLLAPSE.ACTION is 'shout'; expected one of off, warn, stop"),
        ({"std": 1.5}, "ENGINE.COLLAPSE.STD is 1.5"),
        ({"rank": float("nan")}, "ENGINE.COLLAPSE.RANK is nan"),
        ({"patience": 0}, "ENGINE.COLLAPSE.PATIENCE is 0"),
        ({"repeat": 0}, "ENGINE.COLLAPSE.REPEAT is 0"),
    ],
)
def test_values_out_of_range_name_their_key(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CollapseAlarm(**arguments)


def constant_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """All images get one feature; the head still gets a gradient."""
    real = byol.BYOL.pool
    monkeypatch.setattr(byol.BYOL, "pool", lambda *args: torch.ones_like(real(*args)) + 0 * real(*args))


def test_a_constant_encoder_stops_the_run(drawn: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant_trunk(monkeypatch)
    keys = [*BYOL, "SOLVER.MAX_ITER", 8, "ENGINE.LOG_PERIOD", 1, "ENGINE.CHECKPOINT_PERIOD", 2]
    with pytest.raises(CollapseError, match="iteration 3: .*of the trunk .trunk_std. is 0.000.*trunk uses 1.00 dim"):
        train(tiny_cfg(drawn, tmp_path / "stop", *keys, "ENGINE.COLLAPSE.ACTION", "stop"))
    assert [row["iteration"] for row in read_metrics(tmp_path / "stop")] == [1, 2, 3], "the numbers are written first"
    assert last_state(tmp_path / "stop")["iteration"] == 2
    train(tiny_cfg(drawn, tmp_path / "warn", *keys))
    text = (tmp_path / "warn" / "log.txt").read_text()
    assert text.count("the features have collapsed at iteration 3") == text.count("have collapsed") == 1


def test_byol_without_predictor_collapses_and_byol_does_not(
    drawn: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without predictor and with a target that follows at once, a constant is the shortest way. The alarm is at .1
    instead of .05 of the even spread, since a run of a second does not go to the end."""
    watch = ["SOLVER.MAX_ITER", 40, "ENGINE.COLLAPSE.ACTION", "stop", "ENGINE.COLLAPSE.STD", 0.1]
    healthy = train(tiny_cfg(drawn, tmp_path / "byol", *BYOL, *watch, "MODEL.BYOL.TAU", 0.9, "SOLVER.BASE_LR", 0.1))
    assert healthy["iteration"] == 40
    made: list[str] = []

    def heads(kind: str, *args: Any, **kwargs: Any) -> nn.Module:
        made.append(kind)
        return nn.Identity() if len(made) == 2 else real(kind, *args, **kwargs)

    real = byol.build_head
    monkeypatch.setattr(byol, "build_head", heads)
    with pytest.raises(CollapseError, match="the spread of the embedding"):
        train(tiny_cfg(drawn, tmp_path / "bare", *BYOL, *watch, "MODEL.BYOL.TAU", 0.0, "SOLVER.BASE_LR", 4.0))


def test_watching_changes_no_bit(drawn: Data, tmp_path: Path) -> None:
    often = tiny_cfg(drawn, tmp_path / "often", *BYOL, "ENGINE.LOG_PERIOD", 1)
    never = tiny_cfg(drawn, tmp_path / "never", *BYOL, "ENGINE.LOG_PERIOD", 100, "ENGINE.COLLAPSE.ACTION", "off")
    train(often)
    train(never)
    assert_equal_bits(last_state(tmp_path / "often"), last_state(tmp_path / "never"))
    assert all(row["trunk_effective_rank"] > 1 for row in read_metrics(tmp_path / "often"))
