"""The config is strict and its errors help."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_loc.components import get_cfg, setup_cfg
from ssl_loc.config import CfgNode, base_cfg, register_config
from ssl_loc.config.fragments import isolated
from ssl_loc.utils.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path):
    def _write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return _write


def test_misspelt_key_names_the_nearest_and_its_owner(write) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown config key SOLVER\.BASE_LRR in .*a\.yaml; did you mean BASE_LR\?.*defaults\.py"
    ):
        get_cfg().merge_from_file(write("a.yaml", "SOLVER: {BASE_LRR: 1.0}"))


def test_component_key_names_the_component_file() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.MOCO\.TT.*did you mean T\?.*ssl_loc/modeling/method/moco\.py"):
        get_cfg().merge_from_list(["MODEL.MOCO.TT", "0.1"])


def test_wrong_type_names_key_and_default() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.IMS_PER_BATCH in the command line is 'many' \(str\); expected int"):
        get_cfg().merge_from_list(["SOLVER.IMS_PER_BATCH", "many"])


def test_bool_is_not_a_number() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR .* expected float"):
        get_cfg().merge_from_list(["SOLVER.BASE_LR", "True"])


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("1e-4", 1e-4), ("0.5", 0.5)])
def test_numbers_people_write(write, text: str, value: float) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(write("a.yaml", f"SOLVER:\n  BASE_LR: {text}"))
    assert cfg.SOLVER.BASE_LR == value
    cfg.merge_from_list(["SOLVER.WEIGHT_DECAY", text])
    assert cfg.SOLVER.WEIGHT_DECAY == value


def test_base_is_read_first_and_depth_is_bounded(write) -> None:
    write("base.yaml", "SEED: 1\nSOLVER: {BASE_LR: 0.5}")
    write("mid.yaml", "_BASE_: base.yaml\nSEED: 2")
    cfg = setup_cfg(write("leaf.yaml", "_BASE_: mid.yaml\nDEVICE: cpu"), ["SOLVER.MOMENTUM", "0.8"])
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.DEVICE, cfg.SOLVER.MOMENTUM) == (2, 0.5, "cpu", 0.8)
    write("loop.yaml", "_BASE_: loop.yaml")
    with pytest.raises(ConfigError, match="more than 2 deep"):
        get_cfg().merge_from_file(write("x.yaml", "_BASE_: loop.yaml"))


def test_yaml_cannot_run_code(write) -> None:
    with pytest.raises(ConfigError, match="not plain yaml"):
        get_cfg().merge_from_file(write("evil.yaml", "SEED: !!python/object/apply:os.getpid []"))


def test_imports_bring_their_own_keys(write) -> None:
    write(
        "part.py",
        "from ssl_loc.config import CfgNode, register_config\n"
        "@register_config('MODEL.MY_PART')\n"
        "def node():\n    n = CfgNode()\n    n.SIZE = 3\n    return n\n",
    )
    with isolated():
        cfg = setup_cfg(write("a.yaml", "IMPORTS: ['./part.py']\nMODEL: {MY_PART: {SIZE: 5}}"))
        assert cfg.MODEL.MY_PART.SIZE == 5
        assert CfgNode.restore(cfg.to_dict()) == cfg
    with pytest.raises(ConfigError, match=r"names '\./absent\.py', but there is no file"):
        get_cfg().merge_from_file(write("b.yaml", "IMPORTS: ['./absent.py']"))


def test_a_stored_config_from_before_a_key_gets_its_default_and_says_so(caplog) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.5"])
    stored = cfg.to_dict()
    del stored["MODEL"]["FREEZE_AT"], stored["SOLVER"]
    with caplog.at_level("INFO"):
        again = CfgNode.restore(stored)
    assert again.MODEL.FREEZE_AT == 0 and again.SOLVER.BASE_LR == get_cfg().SOLVER.BASE_LR != 0.5
    assert "older than 2 keys" in caplog.text and "MODEL.FREEZE_AT" in caplog.text and "SOLVER" in caplog.text
    assert again.MODEL.MOCO.K == cfg.MODEL.MOCO.K  # what is there stays as it is


def test_missing_file_suggests_a_neighbour(write) -> None:
    path = write("cast_coco.yaml", "SEED: 1")
    with pytest.raises(ConfigError, match=r"did you mean cast_coco\.yaml"):
        get_cfg().merge_from_file(path.replace("cast_coco", "cast_cocoo"))


def test_dump_reads_back(write) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SEED", "7", "AUGMENT.VIEWS", "[['RandomFlip'], ['RandomFlip']]"])
    again = get_cfg()
    again.merge_from_file(write("dump.yaml", cfg.dump_yaml()))
    assert again == cfg


def test_imports_on_the_command_line_are_read(write) -> None:
    part = write(
        "cli_part.py",
        "from ssl_loc.config import CfgNode, register_config\n"
        "@register_config('MODEL.CLI_PART')\n"
        "def node():\n    n = CfgNode()\n    n.SIZE = 3\n    return n\n",
    )
    with isolated():
        cfg = get_cfg()
        cfg.merge_from_list(["IMPORTS", f"['{part}']", "MODEL.CLI_PART.SIZE", "4"])
        assert cfg.MODEL.CLI_PART.SIZE == 4
    with pytest.raises(ConfigError, match="there is no file"):
        get_cfg().merge_from_list(["IMPORTS", "['./nope.py']"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_BASE_: 5", r"_BASE_ in .* is 5; expected the path of a yaml"),
        ("IMPORTS: [5]", r"IMPORTS in .* is \[5\]; expected a list of \.py files"),
        ("- 1", "holds a list; expected a mapping"),
    ],
)
def test_odd_yaml_is_one_sentence(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_cfg().merge_from_file(write("odd.yaml", text))


def test_yaml_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        get_cfg().merge_from_file(str(tmp_path / "a.yaml"))


def test_unquoted_list_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="quote the names inside the list"):
        get_cfg().merge_from_list(["LOSS.NAMES", "[InfoNCE]"])


def test_odd_overrides_are_refused() -> None:
    with pytest.raises(ConfigError, match="KEY VALUE pairs"):
        base_cfg().merge_from_list(["SEED"])


def test_two_files_cannot_own_one_node(tmp_path: Path) -> None:
    with isolated():
        register_config("MODEL.TWICE")(lambda: CfgNode())
        code = compile("def node(): pass", str(tmp_path / "other.py"), "exec")
        scope: dict = {}
        exec(code, scope)
        with pytest.raises(ConfigError, match="registered twice"):
            register_config("MODEL.TWICE")(scope["node"])
