"""What leaves the house: torchvision names, meta, digest; what enters by MODEL.INIT_FROM."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision
from engine_runs import cast_keys, last_state, tiny_cfg

import ssl_loc
from ssl_loc.checkpoint import export_backbone, load_backbone, method_state
from ssl_loc.checkpoint.files import tensor_digest
from ssl_loc.engine import train
from ssl_loc.modeling import build_backbone_from_description, build_method
from ssl_loc.utils.errors import WeightsError

Data = tuple[Path, Path]
# Exactly torchvision's resnet18, so that the one-line recipe can be tried.
R18 = ("MODEL.RESNET.WIDTH", 64, "MODEL.RESNET.LAYERS", [], "MODEL.RESNET.STEM", "imagenet")


@pytest.fixture(scope="module")
def run(drawn: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished CAST run of one step."""
    out = tmp_path_factory.mktemp("export") / "run"
    train(tiny_cfg(drawn, out, *cast_keys(drawn), *R18, "SOLVER.MAX_ITER", 1, "MODEL.CHANNELS_LAST", True))
    return out


def tool(name: str) -> ModuleType:
    """Import ``tools/<name>.py``."""
    path = Path(ssl_loc.__file__).resolve().parents[1] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torchvision_reads_it_in_one_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "backbone.pth"
    export_backbone(run, out)
    net = torchvision.models.resnet18(num_classes=3)
    report = net.load_state_dict(torch.load(out)["model"], strict=False)
    assert report.unexpected_keys == [] and report.missing_keys == ["fc.weight", "fc.bias"]
    # The same function: pooled features of our query trunk and of torchvision's network.
    cfg = tiny_cfg((run, run), run, *R18)
    method = build_method(cfg).eval()
    method.load_state_dict(method_state(last_state(run)))
    net.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 64, 64) * 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    trunk = method.trunk()
    with torch.no_grad():
        ours = trunk.pooled(trunk(method.normalize(images)))
        theirs = net.eval()((images - mean) / std)
    torch.testing.assert_close(theirs, ours)
    key_trunk = method.key_trunk
    assert not torch.equal(key_trunk.conv1.weight, trunk.conv1.weight), "the query trunk is the one to export"


def test_meta_tells_all_one_needs(run: Path, drawn: Data, tmp_path: Path) -> None:
    written = export_backbone(run / "checkpoints" / "iter_0000001.pth", tmp_path / "b.pth")
    file = load_backbone(tmp_path / "b.pth")
    meta = file.meta
    assert meta == written.meta
    assert meta["pixel_mean"] == [123.675, 116.28, 103.53] and meta["pixel_std"] == [58.395, 57.12, 57.375]
    assert (meta["channel_order"], meta["stride_in_1x1"], meta["iteration"]) == ("RGB", False, 1)
    assert (meta["method"], meta["dataset"], meta["dataset_size"]) == ("MoCo", f"folder:{drawn[0]}", 16)
    assert (meta["mask_source"], meta["uses_labels"]) == ("drawn", False)
    assert meta["config"]["LOSS"]["GRAD_CAM_ATTENTION"]["WEIGHT"] == 3.0
    assert torch.__version__.startswith(meta["versions"]["torch"])
    assert meta["digest"] == tensor_digest(file.model)
    trunk = build_backbone_from_description(meta["backbone"])
    trunk.load_state_dict(file.model)
    assert all(t.is_contiguous() for t in file.model.values())


def test_changed_tensors_are_noticed(run: Path, tmp_path: Path) -> None:
    export_backbone(run, tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth")
    content["model"]["bn1.bias"] += 1
    torch.save(content, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="digest .* was changed after the export"):
        load_backbone(tmp_path / "b.pth")


@pytest.mark.parametrize("kind", ["backbone", "run", "checkpoint"])
def test_init_from_fills_both_trunks_and_nothing_else(run: Path, drawn: Data, tmp_path: Path, kind: str) -> None:
    from ssl_loc.engine.run import init_trunks

    given = {"run": run, "checkpoint": run / "checkpoints" / "iter_0000001.pth", "backbone": tmp_path / "b.pth"}[kind]
    expected = export_backbone(run, tmp_path / "b.pth").model
    method = build_method(tiny_cfg(drawn, run, *R18))
    head = method.head().weight.clone()
    init_trunks(method, str(given))
    for trunk in (method.query_trunk, method.key_trunk):
        assert all(torch.equal(t, expected[name]) for name, t in trunk.state_dict().items())
    assert torch.equal(method.head().weight, head)


def test_init_from_another_architecture_is_refused(run: Path, drawn: Data, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="MODEL.INIT_FROM .* holds the trunk .*'width': 64.* builds .*'width': 8"):
        train(tiny_cfg(drawn, tmp_path / "other", "MODEL.INIT_FROM", str(run)))


def call(monkeypatch: pytest.MonkeyPatch, name: str, *words: Any) -> int:
    """Exit status of ``tools/<name>.py words...``, in this process."""
    module = tool(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        module.run_tool(module.main)
    return int(stop.value.code or 0)


def test_export_tool(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "export_backbone", run, "--out", tmp_path / "b.pth") == 0
    text = capsys.readouterr().out
    assert (
        "tensors  120" in text
        and "pixels   RGB, mean [123.675, 116.28, 103.53]" in text
        and load_backbone(tmp_path / "b.pth").meta["digest"] in text
    )
    assert call(monkeypatch, "export_backbone", tmp_path / "b.pth", "--out", tmp_path / "c.pth") == 2
    assert "is a backbone exported by" in capsys.readouterr().err
    assert call(monkeypatch, "export_backbone", tmp_path, "--out", tmp_path / "c.pth") == 2
    assert "holds no run" in capsys.readouterr().err
    # Of a run or of an export, into any other program's file.
    for given, name, extra in (
        (run, "b.safetensors", []),
        (tmp_path / "b.pth", "b.pkl", []),
        (tmp_path / "b.pth", "tv.pth", ["--format", "torchvision"]),
    ):
        assert call(monkeypatch, "export_backbone", given, "--out", tmp_path / name, *extra) == 0
        text = capsys.readouterr().out
        assert "tensors  120" in text and ("tv.pth.json: a plain state dict" in text) == (name == "tv.pth")
    meta = tmp_path / "tv.pth.json"
    words = ["--out", tmp_path / "again.pth", "--meta", meta]
    assert call(monkeypatch, "export_backbone", tmp_path / "tv.pth", *words) == 0
    assert load_backbone(tmp_path / "again.pth").meta["digest"] == load_backbone(tmp_path / "b.pth").meta["digest"]
    assert call(monkeypatch, "export_backbone", run, "--out", tmp_path / "c.pth", "--prefix", "x.") == 2
    assert "are for other code's checkpoints" in capsys.readouterr().err


def test_train_tool_help_and_errors(
    drawn: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train_net", "--help") == 0
    text = capsys.readouterr().out
    for word in ("folder:DIR", "coco:DIR:SPLIT", "--resume", "torchrun", "MODEL.INIT_FROM", "143", "OUTPUT_DIR"):
        assert word in text
    config = tmp_path / "a.yaml"
    config.write_text(tiny_cfg(drawn, tmp_path / "run").dump_yaml())
    for words, expected in (
        (["SOLVER.BASE_LRR", 1], "did you mean BASE_LR"),
        (["SOLVER.BASE_LR"], "odd number"),
        (["DATA.TRAIN", "folder:/nowhere"], "/nowhere"),
        (["DATA.TRAIN", "coco_2017_trian"], "coco_2017_train"),
        (["DEVICE", "gpu"], "DEVICE is 'gpu'"),
        (["SOLVER.IMS_PER_BATCH", 64], "16 images, fewer than one batch of 64"),
    ):
        assert call(monkeypatch, "train_net", "--config-file", config, *words) == 2, words
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and expected in error, error
    assert call(monkeypatch, "train_net", "--config-file", tmp_path / "b.yaml") == 2
    assert "a.yaml" in capsys.readouterr().err


def test_overrides_may_come_before_options(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--config-file", "f", "A.B", "-1", "--resume", "C", "[1, 2]", "--num-gpus", "2"]
    args = tool("train_net").parse_args(words)
    assert (args.overrides, args.resume, args.num_gpus) == (["A.B", "-1", "C", "[1, 2]"], True, 2)
