"""A trunk in other programs' files: each is opened by its consumer, and comes back bit by bit."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from ssl_loc.checkpoint.backbone_file import BackboneFile, load_backbone
from ssl_loc.checkpoint.backbone_formats import FORMATS, choose_format, meta_beside, write_backbone
from ssl_loc.checkpoint.backbone_source import read_backbone
from ssl_loc.checkpoint.files import tensor_digest
from ssl_loc.checkpoint.inferred_backbone import infer_backbone
from ssl_loc.checkpoint.trunk_names import trunk_from_detectron2
from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.utils.errors import ConfigError, WeightsError

STATED = {
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "channel_order": "RGB",
    "stride_in_1x1": False,
}


def drawn_file(**kwargs: Any) -> BackboneFile:
    """A trunk of random numbers, norm statistics included, with the meta of an export."""
    torch.manual_seed(0)
    module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
    state = {k: torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in module.state_dict().items()}
    meta = {**STATED, "backbone": module.describe(), "method": "CAST", "losses": ["InfoNCE"], "iteration": 5}
    return BackboneFile(state, {**meta, "config": {"SEED": 1}, "digest": tensor_digest(state)})


@pytest.fixture(scope="module")
def r18() -> BackboneFile:
    return drawn_file(depth=18)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_opens_it_with_only_the_classifier_missing(depth: int, tmp_path: Path) -> None:
    file = drawn_file(depth=depth)
    assert write_backbone(file, tmp_path / "tv.pth", "torchvision") == "torchvision"
    net = getattr(torchvision.models, f"resnet{depth}")()
    found = net.load_state_dict(torch.load(tmp_path / "tv.pth", weights_only=True), strict=False)
    assert found.missing_keys == ["fc.weight", "fc.bias"] and found.unexpected_keys == []
    own = net.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in file.model.items())
    assert json.loads((tmp_path / "tv.pth.json").read_text()) == file.meta


def test_safetensors_opens_it_and_the_header_holds_the_meta(r18: BackboneFile, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    assert write_backbone(r18, tmp_path / "b.safetensors") == "safetensors"
    assert equal(load_file(tmp_path / "b.safetensors"), r18.model)
    with safe_open(tmp_path / "b.safetensors", framework="pt") as stream:
        header = stream.metadata()
    assert header["format"] == "pt" and json.loads(header["ssl_loc.meta"]) == r18.meta


@pytest.mark.parametrize("name", ["timm.safetensors", "timm.pth"])
def test_timm_opens_it(name: str, r18: BackboneFile, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed; the names it expects are torchvision's")
    write_backbone(r18, tmp_path / name, "timm")
    net = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / name))
    assert equal(net.state_dict(), r18.model)


def test_names_of_timm_are_torchvisions(r18: BackboneFile, tmp_path: Path) -> None:
    """What timm's ResNets are called, written down: its resnet18 without classifier has exactly these 120 tensors."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    for layer in range(1, 5):
        for block in range(2):
            for i in (1, 2):
                names += [f"layer{layer}.{block}.conv{i}.weight"]
                names += [f"layer{layer}.{block}.bn{i}.{n}" for n in norm]
        if layer > 1:
            names += [f"layer{layer}.0.downsample.0.weight"]
            names += [f"layer{layer}.0.downsample.1.{n}" for n in norm]
    write_backbone(r18, tmp_path / "t.pth", "timm")
    assert sorted(torch.load(tmp_path / "t.pth", weights_only=True)) == sorted(names) and len(names) == 120


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_detectron2_files_have_what_its_reader_asks_for(suffix: str, r18: BackboneFile, tmp_path: Path) -> None:
    """Without the two extra keys detectron2 loads nothing, or takes the file for a Caffe2 one."""
    path = tmp_path / f"d2{suffix}"
    write_backbone(r18, path, "detectron2")
    content = torch.load(path, weights_only=True) if suffix == ".pth" else pickle.loads(path.read_bytes())
    assert content["matching_heuristics"] is True and isinstance(content["__author__"], str)
    assert content["meta"] == r18.meta and len(content["model"]) == 120
    tensors = {trunk_from_detectron2(key): torch.as_tensor(value) for key, value in content["model"].items()}
    assert equal(tensors, r18.model)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.pth", "ssl_loc"),
        ("a.pth", "torchvision"),
        ("a.pth", "detectron2"),
        ("a.pth", "timm"),
        ("a.safetensors", "timm"),
        ("a.safetensors", "safetensors"),
    ],
)
def test_every_readable_format_comes_back_whole(name: str, format: str, r18: BackboneFile, tmp_path: Path) -> None:
    path = tmp_path / name
    write_backbone(r18, path, format)
    found = read_backbone(path)
    assert equal(found.model, r18.model) and found.meta == r18.meta


def test_the_suffix_chooses_and_a_wrong_one_is_refused(r18: BackboneFile, tmp_path: Path) -> None:
    chosen = {name: choose_format(name) for name in ("a.pth", "a.pt", "a", "a.safetensors", "a.PKL")}
    assert list(chosen.values()) == ["ssl_loc", "ssl_loc", "ssl_loc", "safetensors", "detectron2"]
    for out, name in (("a.pkl", "torchvision"), ("a.safetensors", "ssl_loc"), ("a.pt", "detectron2"), ("a", "timm")):
        with pytest.raises(WeightsError, match=f"--out {out} ends in .* --format {name} is read from .*e.g. a"):
            write_backbone(r18, out, name)
    with pytest.raises(ConfigError, match="--format is 'onnx'.*choices: ssl_loc, torchvision, detectron2, timm"):
        choose_format("a.pth", "onnx")
    assert set(FORMATS) == {"ssl_loc", "torchvision", "detectron2", "timm", "safetensors"}


def test_without_the_package_one_sentence_says_how_to_get_it(
    r18: BackboneFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(WeightsError, match="pip install safetensors"):
        write_backbone(r18, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "format"), [("a.pth", "torchvision"), ("a.pth", "detectron2"), ("a.safetensors", "")])
def test_a_changed_tensor_is_noticed_in_every_format(name: str, format: str, r18: BackboneFile, tmp_path: Path) -> None:
    changed = BackboneFile({**r18.model, "bn1.bias": r18.model["bn1.bias"] + 1}, r18.meta)
    write_backbone(changed, tmp_path / name, format)
    with pytest.raises(WeightsError, match="digest .* was changed after the export"):
        read_backbone(tmp_path / name)


def test_what_cannot_be_verified_is_refused_with_the_way_out(r18: BackboneFile, tmp_path: Path) -> None:
    def refused(content: Any, words: str, stated: Any = None, name: str = "x.pth") -> None:
        path = tmp_path / name
        torch.save(content, path)
        meta_beside(path).unlink(missing_ok=True)
        if stated is not None:
            meta_beside(path).write_text(json.dumps(stated))
        with pytest.raises(WeightsError, match=words):
            read_backbone(path)

    bare = dict(r18.model)
    refused(bare, "is a pickle, which can run any code .*give the trunk as .pth or .safetensors", name="x.pkl")
    refused(
        bare, "does not state pixel_std, stride_in_1x1; expected for example", {"pixel_mean": 1, "channel_order": ""}
    )
    refused(
        bare, "pixel_mean in .* is .0.485.*three numbers on the 0..255", {**STATED, "pixel_mean": [0.485, 0.4, 0.4]}
    )
    refused(bare, "channel_order in .* is 'rgb'; expected 'RGB' or 'BGR'", {**STATED, "channel_order": "rgb"})
    refused(bare, "stride_in_1x1 in .* is 0; expected true or false", {**STATED, "stride_in_1x1": 0})
    refused(bare, "x.pth.json has pixelmean, which nothing reads; .*did you mean pixel_mean", {"pixelmean": [1, 1, 1]})
    refused(bare, "prefix in .*x.pth.json is 3; expected text", {"prefix": 3})
    wrong = {"name": "ResNet", "kwargs": {"depth": 50}}
    words = "holds ResNet-18, but its meta says .*50.*missing .layer1.0.conv3.weight.*of another shape"
    refused(bare, words, {**STATED, "backbone": wrong})
    (tmp_path / "j.safetensors").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="cannot be read as a safetensors file .* damaged"):
        read_backbone(tmp_path / "j.safetensors")
    with pytest.raises(WeightsError, match="no file"):
        read_backbone(tmp_path / "absent.safetensors")


def test_a_stated_state_dict_is_taken(r18: BackboneFile, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fc = {"fc.weight": torch.zeros(2, 512), "fc.bias": torch.zeros(2)}
    torch.save({**r18.model, **fc}, tmp_path / "x.pth")
    (tmp_path / "x.pth.json").write_text(json.dumps(STATED))
    found = read_backbone(tmp_path / "x.pth")
    assert equal(found.model, r18.model) and found.meta["digest"] == r18.meta["digest"]
    assert found.meta["backbone"]["kwargs"]["depth"] == 18 and "left out 2 tensors: fc (2)" in caplog.text


def test_a_checkpoint_of_other_code_is_converted_by_prefix(r18: BackboneFile, tmp_path: Path) -> None:
    head = {"fc.0.weight": torch.zeros(4, 512), "fc.2.bias": torch.zeros(4)}
    other = {f"module.encoder_k.{key}": value + 1 for key, value in r18.model.items()}
    query = {f"module.encoder_q.{key}": value for key, value in {**r18.model, **head}.items()}
    torch.save(
        {"epoch": 3, "state_dict": {**query, **other, "module.queue": torch.zeros(9)}}, tmp_path / "moco.pth.tar"
    )
    (tmp_path / "m.json").write_text(json.dumps({**STATED, "method": "MoCo"}))
    file = read_backbone(tmp_path / "moco.pth.tar", "module.encoder_q.", tmp_path / "m.json")
    assert equal(file.model, r18.model) and file.meta["method"] == "MoCo"
    write_backbone(file, tmp_path / "moco.pth")
    assert load_backbone(tmp_path / "moco.pth").meta == file.meta
    words = "no trunk tensor under the prefix 'encoder_q.'; .*'module.encoder_q.' .*, 'module.encoder_k.'"
    with pytest.raises(WeightsError, match=words):
        read_backbone(tmp_path / "moco.pth.tar", "encoder_q.", tmp_path / "m.json")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"depth": 18},
        {"depth": 34},
        {"depth": 50},
        {"depth": 18, "width": 8, "layers": [1, 1, 2, 2], "stem": "small"},
        {"depth": 50, "width": 16, "layers": [1, 2, 1, 1]},
    ],
)
def test_the_shapes_tell_the_network(kwargs: dict[str, Any]) -> None:
    with torch.device("meta"):
        module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
        state = module.state_dict()
        again = build_backbone_from_description(infer_backbone(state))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert again.strides == module.strides
    with pytest.raises(WeightsError, match="no ResNet that this project builds"):
        infer_backbone({key: value for key, value in state.items() if not key.startswith("layer3")})
