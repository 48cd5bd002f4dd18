"""A study's plan is complete and fair, its table is arithmetic, and what is wrong in its yaml is said."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from ssl_loc.components import setup_cfg
from ssl_loc.demo import run as demo_run
from ssl_loc.demo.plan import ROOT, Stage, build_plan
from ssl_loc.demo.run import Runner, StageError, stage_keys
from ssl_loc.demo.study import read_study
from ssl_loc.demo.study_plan import KINDS, plan_study
from ssl_loc.demo.study_table import collect_study, draw_study, render_study
from ssl_loc.utils.errors import ConfigError

STUDIES = sorted((ROOT / "configs/study").glob("*.yaml"))
SMALL = """
TITLE: small
ROWS:
  A: {CONFIG: configs/quick/moco.yaml, MEASURE: [features, detector]}
  "B (maps)": {CONFIG: configs/quick/dilo.yaml, MAPS: rbd, KEYS: {AUGMENT.COPY_PASTE.PROB: 1.0}, MEASURE: [features]}
  C: {CONFIG: configs/quick/cvsa_stage_2.yaml, MAPS: truth, INIT: A, MEASURE: [features]}
CLAIMS: ["A > B (maps): kNN %", "random > A: linear %"]
"""


@pytest.fixture
def small(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    return read_study(file)


def _overrides(stage: Stage) -> list[str]:
    words = list(stage.command)
    return words[words.index("--resume") + 1 :]


@pytest.mark.parametrize("file", STUDIES, ids=lambda p: p.stem)
def test_shipped_studies_build_and_rows_differ_only_in_what_they_are(file, tmp_path):
    """Every row has the same solver, data and trunk: otherwise the comparison would not be fair."""
    stages = plan_study(read_study(file), tmp_path, [4])
    done: set[str] = set()
    for stage in stages:
        assert set(stage.needs) <= done, f"{stage.name} comes before {set(stage.needs) - done}"
        done.add(stage.name)
        assert stage.kind in KINDS
    assert len({s.name for s in stages}) == len({s.folder for s in stages}) == len(stages)
    cfgs = [
        setup_cfg(str(ROOT / s.command[s.command.index("--config-file") + 1]), _overrides(s))
        for s in stages
        if s.kind == "pretrain"
    ]
    for cfg in cfgs:
        assert cfg.SEED == 4 and cfg.DATA.TRAIN == f"scenes:{tmp_path}/seed4/scenes:train"
        for room in ("SOLVER", "ENGINE"):
            assert cfg[room].to_dict() == cfgs[0][room].to_dict()
        assert cfg.MODEL.RESNET.to_dict() == cfgs[0].MODEL.RESNET.to_dict()
    render_study(read_study(file), tmp_path, [4])  # every claim names rows and columns that are there


def test_maps_first_stage_and_keys_reach_the_command(small, tmp_path):
    stages = {s.name: s for s in plan_study(small, tmp_path, [2])}
    b = stages["seed2/pretrain_b__maps"]
    cfg = setup_cfg(str(ROOT / "configs/quick/dilo.yaml"), _overrides(b))
    assert str(tmp_path / "seed2/maps_rbd") == cfg.DATA.MASKS.ROOT and cfg.AUGMENT.COPY_PASTE.PROB == 1.0
    assert set(b.needs) == {"seed2/draw_scenes", "seed2/maps_rbd"}
    c = stages["seed2/pretrain_c"]
    cfg = setup_cfg(str(ROOT / "configs/quick/cvsa_stage_2.yaml"), _overrides(c))
    assert str(tmp_path / "seed2/pretrain_a") == cfg.MODEL.INIT_FROM and "seed2/pretrain_a" in c.needs
    labelled = stages["seed2/draw_labelled"].command
    assert labelled[labelled.index("--seed") + 1] == "1002"  # no picture in common with the unlabelled set
    assert {n for n in stages if "detect" in n} == {"seed2/detect_random", "seed2/detect_a"}
    assert "seed2/evaluate_grounding" not in stages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("MAPS: rbd", "MAPS: rdb", "choices: none, truth"),
        ("MEASURE: [features]}", "MEASURE: [knn]}", "MEASURE names knn"),
        ("INIT: A", "INIT: D", "no row 'D'"),
        ("CLAIMS", "CLAIM", "did you mean"),
        ("C: {CONFIG", "a: {CONFIG", "differ in letters"),
        ("{CONFIG: configs/quick/moco.yaml, ", "{", "with CONFIG"),
        ("ROWS:", "ROWS: 3\nKEYS:", "expected a mapping"),
        ("C: {CONFIG", "random: {CONFIG", "cannot be called 'random'"),
        ("C: {CONFIG", "p=1: {CONFIG", "nor have '='"),
        ("MEASURE: [features]}", "MEASURE: features}", "expected a list"),
    ],
)
def test_errors_say_what_was_given(tmp_path, old, new, message):
    file = tmp_path / "study.yaml"
    file.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_study(file)


def _write(out: Path, seed: int, label: str, protocol: str, top1: float) -> None:
    folder = out / f"seed{seed}" / "evaluate_features" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    result = {"protocol": protocol, "metrics": {"top1": top1}, "details": {"label": label}}
    (folder / f"{protocol}_{label}.json".replace(" ", "")).write_text(json.dumps(result))


def test_table_and_claims_are_paired_arithmetic(small, tmp_path):
    for seed, (a, b) in enumerate([(50.0, 40.0), (60.0, 48.0), (40.0, 26.0)]):
        _write(tmp_path, seed, "A", "knn", a)
        _write(tmp_path, seed, "B (maps)", "knn", b)
        _write(tmp_path, seed, "A", "linear", 70.0)
    for seed, value in enumerate([75.0, 60.0, 74.0]):
        _write(tmp_path, seed, "random", "linear", value)
    assert collect_study(small, tmp_path, [0, 1])["A", "kNN %"] == {0: 50.0, 1: 60.0}
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in render_study(small, tmp_path, [0, 1, 2]).splitlines()
    ]
    assert ["A", "50.0 ± 10.0", "70.0 ± 0.0"] in lines and ["C", "-", "-"] in lines
    # Differences 10, 12, 14: mean 12, sample deviation 2, t = 12 / (2 / sqrt 3) = 10.39; with two degrees of freedom
    # P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)) = .0046. And 5, -10, 4: mean -1/3, deviation 8.4.
    assert ["claim", "holds", "paired difference", "in seeds", "p"] in lines
    t = 12 / (2 / math.sqrt(3))
    assert f"{0.5 - t / (2 * math.sqrt(2 + t * t)):.3f}" == "0.005"
    assert ["A > B (maps): kNN %", "yes", "+12.0 ± 2.0", "3 of 3", "0.005"] in lines
    assert ["random > A: linear %", "no", "-0.3 ± 8.4", "2 of 3", "0.524"] in lines


def test_a_difference_that_may_be_chance_is_no_yes(small, tmp_path):
    """30, 31, 36 against 29, 31, 31: +2 ± 2.6, t = 1.31, p = .16; one seed alone has no verdict."""
    for seed, (a, b) in enumerate([(30.0, 29.0), (31.0, 31.0), (36.0, 31.0)]):
        _write(tmp_path, seed, "A", "knn", a)
        _write(tmp_path, seed, "B (maps)", "knn", b)
    text = render_study(small, tmp_path, [0, 1, 2, 3])
    t = 2 / (math.sqrt(7) / math.sqrt(3))
    p = f"{0.5 - t / (2 * math.sqrt(2 + t * t)):.3f}"
    assert "in the mean" in text and "+2.0 ± 2.6" in text and p in text
    assert "32.3 ± 3.2 (3 of 4)" in text
    assert "one seed" in render_study(small, tmp_path, [0])


def test_picture_has_a_dot_per_seed_and_a_panel_per_measured_column(small, tmp_path):
    from ssl_loc.visualization.study_figure import study_figure

    assert draw_study(small, tmp_path, [0], tmp_path / "no.png") is None and not (tmp_path / "no.png").exists()
    _write(tmp_path, 0, "A", "knn", 50.0)
    assert draw_study(small, tmp_path, [0], tmp_path / "yes.png").stat().st_size > 1000
    figure = study_figure(["A", "B"], ["kNN %"], {("A", "kNN %"): [50.0, 60.0, 43.0]})
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "kNN %" and [t.get_text() for t in ax.get_yticklabels()] == ["A", "B"]
    assert len(ax.collections) == 1  # nothing for B
    assert ax.collections[0].get_offsets().tolist() == [[50.0, 0.0], [60.0, 0.0], [43.0, 0.0]]
    assert ax.lines[0].get_xdata()[0] == 51.0


def test_claim_with_an_unknown_name_is_an_error(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(SMALL.replace("A > B (maps): kNN %", "A > B: kNN %"))
    with pytest.raises(ConfigError, match="names 'B'"):
        render_study(read_study(file), tmp_path, [0])


def test_stopped_trainings_go_on(small, tmp_path):
    """The runner starts the same command again in the same folder: both kinds of training must take that."""
    stages = [*plan_study(small, tmp_path, [0]), *build_plan(tmp_path, 0)]
    trainings = [stage for stage in stages if stage.kind in ("pretrain", "fine-tune")]
    assert len(trainings) == 3 + 2 + 6 and all("--resume" in stage.command for stage in trainings)


def test_a_row_is_made_again_when_its_own_python_file_changes(tmp_path):
    part, config, file = tmp_path / "mine.py", tmp_path / "mine.yaml", tmp_path / "study.yaml"
    part.write_text("A = 1\n")
    config.write_text('IMPORTS: ["./mine.py"]\n')
    file.write_text(f"KEYS:\nROWS: {{Mine: {{CONFIG: {config}}}}}\n")
    study = read_study(file)
    assert study.keys == {}
    before = stage_keys(plan_study(study, tmp_path, [0]))
    part.write_text("A = 2\n")
    after = stage_keys(plan_study(study, tmp_path, [0]))
    assert {name for name in before if before[name] != after[name]} >= {
        "seed0/pretrain_mine",
        "seed0/evaluate_features",
    }


def test_stages_of_one_kind_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_run, "command_of", lambda stage: [sys.executable, "-c", "pass"])
    draw = Stage("d", "draw", "draw", ("a",), tmp_path / "d")
    train = Stage("t", "train", "pretrain", ("b",), tmp_path / "t", ("d",))
    with pytest.raises(StageError, match="needs d \\(draw\\), not finished"):
        Runner(tmp_path).run([draw, train], ["pretrain"])
    first = Runner(tmp_path)
    first.run([draw, train], ["draw"])
    assert set(first.seconds) == {"d"}
    second = Runner(tmp_path)
    second.run([draw, train], ["pretrain"])
    assert set(second.seconds) == {"d", "t"}
