"""The demo's plan is complete and ordered; its runner skips, resumes and stops; its table is arithmetic."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ssl_loc.components import setup_cfg
from ssl_loc.demo import run as demo_run
from ssl_loc.demo.plan import METHODS, RECIPE, ROOT, SIZES, Stage, build_plan, command_of
from ssl_loc.demo.run import Runner, StageError, stage_keys
from ssl_loc.demo.table import MEANINGLESS, claims, collect, mean_std, render
from ssl_loc.utils.errors import ConfigError


def _overrides(stage: Stage) -> list[str]:
    """The KEY VALUE words of a command."""
    words = list(stage.command)
    first = next(i for i, w in enumerate(words) if w.isupper() or (w.split(".")[0].isupper() and "." in w))
    return words[first:]


def test_every_stage_comes_after_what_it_needs_and_folders_are_its_own(tmp_path):
    stages = build_plan(tmp_path, 3)
    done: set[str] = set()
    for stage in stages:
        assert set(stage.needs) <= done
        done.add(stage.name)
        assert Path(command_of(stage)[1]).is_file()
        assert all(path.is_file() for path in stage.inputs)
        assert stage.folder.is_relative_to(tmp_path / "seed3")
    assert len({s.name for s in stages}) == len({s.folder for s in stages}) == len(stages)
    counts = {kind: sum(s.kind == kind for s in stages) for kind in ("pretrain", "fine-tune", "evaluate", "report")}
    assert counts == {"pretrain": 3, "fine-tune": 3, "evaluate": 2, "report": 1}


@pytest.mark.parametrize("size", sorted(SIZES))
def test_pretraining_commands_are_one_recipe_with_one_seed(tmp_path, size):
    cfgs = {}
    for stage in build_plan(tmp_path, 5, size):
        if stage.kind == "pretrain":
            config = stage.command[stage.command.index("--config-file") + 1]
            cfgs[Path(config).stem] = setup_cfg(str(ROOT / config), _overrides(stage))
    assert set(cfgs) == set(METHODS.values())
    assert all(cfg.SEED == 5 for cfg in cfgs.values())
    moco, crop, cast = (cfgs[name].to_dict() for name in METHODS.values())
    assert cast["LOSS"]["NAMES"] == ["InfoNCE", "GradCAMAttention"] and crop["LOSS"]["NAMES"] == ["InfoNCE"]
    for other in (crop, cast):  # apart from the crop, the masks and the loss, nothing differs
        for room in ("SOLVER", "MODEL", "ENGINE"):
            assert other[room] == moco[room]
    assert cast["AUGMENT"] == crop["AUGMENT"]
    plain = [
        [n if n != "SaliencyConstrainedCrop" else "RandomResizedCrop" for n in v] for v in cast["AUGMENT"]["VIEWS"]
    ]
    assert [[str(n) for n in v] for v in plain] == [[str(n) for n in v] for v in moco["AUGMENT"]["VIEWS"]]


def test_detection_recipe_has_the_trunk_of_the_pretraining(tmp_path):
    from ssl_loc.modeling import build_backbone
    from ssl_loc.modeling.backbone import build_backbone_from_description
    from ssl_loc.transfer.recipe import load_recipe
    from ssl_loc.transfer.run import described_backbone

    stage = next(s for s in build_plan(tmp_path, 0) if s.kind == "fine-tune")
    recipe = load_recipe(str(ROOT / RECIPE), _overrides(stage))
    mine = build_backbone_from_description(described_backbone(recipe))
    theirs = build_backbone(setup_cfg(str(ROOT / "configs/quick/cast.yaml")))
    assert {k: v.shape for k, v in mine.state_dict().items() if "num_batches" not in k} == {
        k: v.shape for k, v in theirs.state_dict().items() if "num_batches" not in k
    }


def test_unknown_size_names_the_choices(tmp_path):
    with pytest.raises(ConfigError, match="full, smoke"):
        build_plan(tmp_path, 0, "tiny")


def test_keys_follow_command_inputs_and_what_came_before(tmp_path):
    text = tmp_path / "config.yaml"
    text.write_text("a")
    first = Stage("a", "a", "draw", ("t", "--workers", "2"), tmp_path / "a", (), (text,))
    second = Stage("b", "b", "draw", ("t",), tmp_path / "b", ("a",))
    keys = stage_keys([first, second])
    assert keys == stage_keys([replace(first, command=("t", "--workers", "7")), second])
    for changed in (replace(first, command=("u", "--workers", "2")),):
        other = stage_keys([changed, second])
        assert other["a"] != keys["a"] and other["b"] != keys["b"]
    text.write_text("b")
    assert stage_keys([first, second])["b"] != keys["b"]


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Stages whose command is a line of Python that runs in their folder."""

    monkeypatch.setattr(demo_run, "command_of", lambda stage: [sys.executable, "-c", *stage.command])
    monkeypatch.setattr(demo_run, "_POLL", 0.01)

    def stage(name, code, needs=()):
        folder = tmp_path / "out" / name
        return Stage(name, name, "draw", (code.replace("HERE", repr(str(folder))),), folder, needs)

    return stage


def test_finished_stages_are_skipped_and_failed_ones_go_on(scripted, tmp_path):
    out = tmp_path / "out"
    add = "import pathlib; p = pathlib.Path(HERE, 'runs'); p.write_text((p.read_text() if p.exists() else '') + 'x')"
    ok = f"pathlib.Path({str(tmp_path / 'ok')!r}).exists()"
    fails = f"{add}; import sys; sys.exit(0 if {ok} else 'no luck')"
    stages = [scripted("a", add), scripted("b", fails, ("a",)), scripted("c", add, ("b",))]
    with pytest.raises(StageError, match="no luck"):
        Runner(out).run(stages)
    assert not (out / "c").exists()
    (tmp_path / "ok").touch()
    runner = Runner(out, slots=2)
    runner.run(stages)
    assert runner.skipped == ["a"] and set(runner.seconds) == {"a", "b", "c"}
    assert [(out / n / "runs").read_text() for n in "abc"] == ["x", "xx", "x"]  # b went on in its own folder
    again = Runner(out)
    again.run(stages)
    assert again.skipped == ["a", "b", "c"]
    changed = [scripted("a", add + "; p.write_text('new')"), *stages[1:]]
    Runner(out).run(changed)  # the folder of the old command is not mixed with the new one's
    assert [(out / n / "runs").read_text() for n in "abc"] == ["new", "x", "x"]


def test_a_failure_stops_what_runs_beside_it(scripted, tmp_path):
    waits = "import time, pathlib; pathlib.Path(HERE, 'started').touch(); time.sleep(60)"
    started = str(tmp_path / "out" / "a" / "started")
    seen = f"import pathlib, time\nwhile not pathlib.Path({started!r}).exists(): time.sleep(.01)\nraise SystemExit(3)"
    with pytest.raises(StageError, match="status 3"):
        Runner(tmp_path / "out", slots=2).run([scripted("a", waits), scripted("b", seen)])


def _write(out: Path, seed: int, row: str, protocol: str, metrics: dict) -> None:
    folder = out / f"seed{seed}"
    path = folder / (
        f"evaluate_{protocol}/results/{row}.json" if protocol == "grounding" else f"detect_{row}/result.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    label = next(label for label, name in METHODS.items() if name == row)
    values = {"protocol": protocol, "version": "1", "metrics": metrics, "details": {"label": label}}
    path.write_text(json.dumps(values))


def test_table_averages_over_seeds_and_judges_the_claims(tmp_path):
    for seed, (cast, moco) in enumerate([(0.5, 0.2), (0.7, 0.3)]):
        _write(tmp_path, seed, "cast", "grounding", {"iou_mean": cast})
        _write(tmp_path, seed, "moco", "grounding", {"iou_mean": moco})
        _write(tmp_path, seed, "cast", "detection", {"bbox/AP": 20.0, "bbox/AP50": 40.0})
        _write(tmp_path, seed, "moco", "detection", {"bbox/AP": 21.0, "bbox/AP50": 40.0})
    numbers = collect(tmp_path, [0, 1])
    assert numbers["CAST", "grounding IoU %"] == [50.0, 70.0]
    assert mean_std([50.0, 70.0]) == pytest.approx((60.0, 14.1421356))
    verdicts = {c.text: c.holds for c in claims(numbers)}
    assert verdicts == {"grounding IoU: CAST at least 2 x MoCo": True, "detector AP: CAST at least MoCo": False}
    stages = build_plan(tmp_path, 0)
    text = render(numbers, {"seed0/pretrain_cast": 100.0}, stages)
    assert "60.0 ± 14.1" in text and "NO  detector AP: CAST at least MoCo: 20.0 / 21.0" in text
    assert "pretrain 100" in text
    text = render(numbers, {}, stages, SIZES["smoke"].meaningful)
    assert "60.0 ± 14.1" in text and MEANINGLESS in text and "NO  " not in text and "yes " not in text


def test_report_names_models_as_the_table_does(tmp_path):
    words = build_plan(tmp_path, 0)[-1].command
    named = [tuple(word.split("=", 1)) for word in words if "=" in word]
    base = tmp_path / "seed0"
    assert named == [(label, str(base / f"pretrain_{name}")) for label, name in METHODS.items()] + [
        ("random", str(base / "detect_random")),
        ("MoCo", str(base / "detect_moco")),
        ("CAST", str(base / "detect_cast")),
    ]
    assert "mean nothing" in " ".join(build_plan(tmp_path, 0, "smoke")[-1].command)
