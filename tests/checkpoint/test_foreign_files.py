"""Foreign files that are wrong, partial or ambiguous end in a sentence with the names; what is assumed is said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_loc.checkpoint.backbone_source import in_rgb, read_backbone
from ssl_loc.checkpoint.files import read_torch_file
from ssl_loc.checkpoint.trunk_names import trunk_to_detectron2
from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.utils.errors import WeightsError

IMAGENET = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
CAFFE = {"pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [1.0, 1.0, 1.0]}


def drawn(**kwargs: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
    return {k: torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in module.state_dict().items()}


@pytest.fixture(scope="module")
def narrow() -> dict[str, Tensor]:
    """A ResNet-18 with 8 channels in its first stage."""
    return drawn(depth=18, width=8)


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def refused(tmp_path: Path, content: Any, words: str, stated: Any = None) -> None:
    path = tmp_path / "given.pth"
    torch.save(content, path)
    beside = tmp_path / "given.pth.json"
    beside.unlink(missing_ok=True)
    if stated is not None:
        beside.write_text(json.dumps(stated))
    with pytest.raises(WeightsError, match=words):
        read_backbone(path)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("layer2.0.conv2.weight", "no whole ResNet-18 of width 8: 1 missing .layer2.0.conv2.weight."),
        ("conv1.weight", "is not whole: the trunk is no ResNet .* its conv1.weight is nothing"),
        ("bn1.running_mean", "1 missing .bn1.running_mean."),
        ("layer3.0.downsample.0.weight", "1 missing .layer3.0.downsample.0.weight."),
    ],
)
def test_one_missing_tensor_is_named(key: str, words: str, narrow: dict[str, Tensor], tmp_path: Path) -> None:
    state = {k: v for k, v in narrow.items() if k != key}
    refused(tmp_path, {"state_dict": under("module.encoder_q.", state)}, f"'module.encoder_q.' of .*{words}")


def test_wrong_shapes_and_strange_names_are_listed_and_bounded(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {**narrow, "layer4.1.conv2.weight": torch.zeros(64, 64, 1, 1)}
    refused(tmp_path, wrong, r"1 of another shape .layer4.1.conv2.weight \(64, 64, 1, 1\) instead of \(64, 64, 3, 3\)")
    refused(tmp_path, {**narrow, "layer1.0.extra": torch.zeros(1)}, r"1 that it does not have \(layer1.0.extra\)")
    few = {k: v for k, v in narrow.items() if ".bn2." not in k}
    refused(tmp_path, few, "40 missing .layer1.0.bn2.weight, .* and 34 more")
    grey = {**narrow, "conv1.weight": torch.zeros(8, 1, 7, 7)}
    refused(tmp_path, grey, r"conv1.weight \(8, 1, 7, 7\) instead of \(8, 3, 7, 7\)")
    bad = {**narrow, "bn1.bias": torch.full((8,), float("nan"))}
    refused(tmp_path, bad, "infinite or undefined numbers in bn1.bias; its training diverged")


def test_a_shorter_or_longer_network_is_not_taken_for_another(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    r18 = {"name": "ResNet", "kwargs": {"depth": 18, "width": 8}}
    r34 = drawn(depth=34, width=8)
    refused(tmp_path, r34, "holds ResNet-34 of width 8, but its meta says .*18.*96 that it does not", {"backbone": r18})
    # The last block of a stage is gone: no number of blocks that anybody published.
    short = {k: v for k, v in r34.items() if not k.startswith("layer3.5.")}
    refused(tmp_path, short, r"stages have \[3, 4, 5, 3\] blocks, .*\[3, 4, 6, 3\] .ResNet-34., so blocks may be miss")
    hole = {k: v for k, v in r34.items() if not k.startswith("layer3.2.")}
    refused(tmp_path, hole, "no whole ResNet-34 of width 8: 12 missing .layer3.2.conv1.weight")
    kwargs = {"depth": 18, "width": 8, "layers": [1, 1, 2, 2]}
    torch.save(drawn(**kwargs), tmp_path / "own.pth")
    (tmp_path / "own.pth.json").write_text(json.dumps({"backbone": {"name": "ResNet", "kwargs": kwargs}}))
    assert read_backbone(tmp_path / "own.pth").meta["backbone"]["kwargs"]["layers"] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"conv1.0.weight": (8, 3, 3, 3), "conv1.3.weight": (8, 8, 3, 3)}, "deep stem"),
        ({"layer1.0.se.fc1.weight": (2, 8, 1, 1)}, "squeeze-and-excitation"),
        ({"layer2.0.downsample.1.weight": (16, 8, 1, 1)}, "average pooling in its shortcuts"),
        ({"layer1.0.conv2.weight": (8, 2, 3, 3)}, "ResNeXt"),
        ({"conv1.weight": (8, 3, 3, 3)}, "3x3 first convolution, as networks for CIFAR have.*stride 1 are not built"),
    ],
)
def test_variants_are_refused_by_name(
    changed: dict[str, tuple[int, ...]], words: str, narrow: dict[str, Tensor], tmp_path: Path
) -> None:
    refused(tmp_path, {**narrow, **{k: torch.rand(v) for k, v in changed.items()}}, words)


def test_wide_and_norm_free_networks_are_refused_by_name(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    import torchvision

    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.wide_resnet50_2().state_dict().items()}
    wide = {k: torch.zeros(()).expand(shape) for k, shape in shapes.items()}
    refused(tmp_path, wide, "2 times as wide inside .torchvision's wide_resnet., which is not built here")
    bare = {k: v for k, v in narrow.items() if "running" not in k and "num_batches" not in k}
    refused(tmp_path, bare, "without batch statistics .group norm")


def test_two_trunks_need_a_choice(narrow: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = {k: v + 1 for k, v in narrow.items()}
    two = {"left": under("cnn.", narrow), "right": under("cnn.", other)}
    refused(
        tmp_path, two, "holds 2 trunks .*'cnn.' of its part 'left', 'cnn.' of its part 'right'; choose one by --pref"
    )
    refused(tmp_path, two, "under the prefix 'cnn.' in several parts", {"prefix": "cnn."})
    (tmp_path / "given.pth.json").write_text(json.dumps({"prefix": "right.cnn."}))
    assert torch.equal(read_backbone(tmp_path / "given.pth").model["bn1.bias"], other["bn1.bias"])
    # Twice the same is one.
    torch.save({"left": under("cnn.", narrow), "right": dict(narrow)}, tmp_path / "same.pth")
    assert torch.equal(read_backbone(tmp_path / "same.pth").model["bn1.bias"], narrow["bn1.bias"])
    # The query of a known family is taken, and the log says so.
    caplog.clear()
    both = {**under("module.encoder_k.", other), **under("module.encoder_q.", narrow)}
    torch.save({"state_dict": both}, tmp_path / "moco.pth")
    assert torch.equal(read_backbone(tmp_path / "moco.pth").model["bn1.bias"], narrow["bn1.bias"])
    assert "took 'module.encoder_q.' of its part 'state_dict' and left 'module.encoder_k.'" in caplog.text
    strange = {**both, **under("another.", {k: v + 2 for k, v in narrow.items()})}
    refused(tmp_path, {"state_dict": strange}, "holds 2 trunks .*encoder_q.*'another.'")


def test_what_is_assumed_is_said_and_can_be_stated(
    narrow: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spijkervet = {**under("encoder.", narrow), "projector.0.weight": torch.zeros(4, 64)}
    torch.save(spijkervet, tmp_path / "s.tar")
    file = read_backbone(tmp_path / "s.tar")
    assert file.meta["pixel_mean"] == [0.0] * 3 and file.meta["pixel_std"] == [255.0] * 3
    assert "recognised as SimCLR (Spijkervet/SimCLR) by names under 'encoder.' and 'projector.0.weight'" in caplog.text
    assert "left out 1 tensors: projector (1)" in caplog.text and "state it in " in caplog.text
    assert file.meta["source"]["family"] == "SimCLR (Spijkervet/SimCLR)"
    stated = {**IMAGENET, "channel_order": "RGB", "stride_in_1x1": False, "method": "SimCLR"}
    (tmp_path / "s.tar.json").write_text(json.dumps(stated))
    caplog.clear()
    meta = read_backbone(tmp_path / "s.tar").meta
    assert (
        meta["pixel_std"] == IMAGENET["pixel_std"]
        and meta["method"] == "SimCLR"
        and "does not say how" not in caplog.text
    )
    refused(
        tmp_path,
        spijkervet,
        r"given.pth.json has prefx, which nothing reads; expected .*prefix, .*; did you mean prefix\?",
        {**stated, "prefx": "encoder."},
    )
    refused(tmp_path, spijkervet, "has pixel_means, which .*did you mean pixel_mean", {"pixel_means": [1, 2, 3]})
    refused(tmp_path, spijkervet, "does not state pixel_std, channel_order", {"pixel_mean": [1, 2, 3]})


def test_counters_may_be_absent_and_half_precision_is_widened(
    narrow: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = {k: v.half() for k, v in narrow.items() if not k.endswith("num_batches_tracked")}
    torch.save(half, tmp_path / "h.pth")
    file = read_backbone(tmp_path / "h.pth")
    assert file.model.keys() == narrow.keys() and file.model["bn1.num_batches_tracked"] == 0
    assert torch.equal(file.model["conv1.weight"], narrow["conv1.weight"].half().float())
    assert "20 counters num_batches_tracked are not there" in caplog.text and "float16 became float32" in caplog.text


def test_detectron2_names_need_a_statement(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    d2 = {trunk_to_detectron2(k): v for k, v in narrow.items()}
    detector = {"model": {**under("backbone.bottom_up.", d2), "proposal_generator.x": torch.zeros(1)}}
    refused(tmp_path, detector, "has detectron2's names; .*write given.pth.json beside it")
    stated = {**CAFFE, "channel_order": "BGR", "stride_in_1x1": False}
    (tmp_path / "given.pth.json").write_text(json.dumps(stated))
    file = read_backbone(tmp_path / "given.pth")
    assert file.model.keys() == narrow.keys() and all(torch.equal(file.model[k], v) for k, v in narrow.items())


def test_a_bgr_network_gives_the_same_features_for_rgb(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(narrow, tmp_path / "b.pth")
    stated = {**CAFFE, "channel_order": "BGR", "stride_in_1x1": False}
    (tmp_path / "b.pth.json").write_text(json.dumps(stated))
    file = read_backbone(tmp_path / "b.pth")
    rgb = in_rgb(file, "b.pth")
    image = torch.rand(1, 3, 32, 32) * 255

    def features(model: dict[str, Tensor], meta: dict[str, Any], pixels: Tensor) -> Tensor:
        net = build_backbone_from_description(meta["backbone"]).eval()
        net.load_state_dict(model)
        mean, std = (torch.tensor(meta[k]).view(1, 3, 1, 1) for k in ("pixel_mean", "pixel_std"))
        with torch.no_grad():
            return net.pooled(net((pixels - mean) / std))

    torch.testing.assert_close(
        features(rgb.model, rgb.meta, image), features(file.model, file.meta, image.flip(1)), rtol=1e-4, atol=0
    )
    (tmp_path / "b.pth.json").write_text(json.dumps({**stated, "stride_in_1x1": True}))
    with pytest.raises(WeightsError, match="strides in its 1x1 convolutions .*only tools/finetune_det.py"):
        in_rgb(read_backbone(tmp_path / "b.pth"), "b.pth")


class Thing:
    """An object that only the code that made it knows."""


def test_objects_are_not_opened_but_a_command_line_is(narrow: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"opt": argparse.Namespace(lr=1), "model": under("module.encoder.", narrow)}, tmp_path / "a.pth")
    assert read_backbone(tmp_path / "a.pth").model.keys() == narrow.keys()
    torch.save({"opt": argparse.Namespace(lr=Thing()), "model": narrow}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"Python objects .*Thing.*if you trust .*python -c .*b.tensors.pth"):
        read_backbone(tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="Thing"):
        read_torch_file(tmp_path / "b.pth")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"w": torch.zeros(3)}, torch.zeros(2)])
def test_files_without_a_trunk_are_described(content: Any, tmp_path: Path) -> None:
    refused(tmp_path, content, "given.pth is (a|an) .*no ResNet is in it")
