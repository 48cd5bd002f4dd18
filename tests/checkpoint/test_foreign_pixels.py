"""What is assumed about the pixels of a foreign file, what its own tensors say, and where nothing is assumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from test_foreign_families import IMAGENET, UNIT, Net, byol_sthalles, drawn_net, group, headless, mlp, robust
from torch import nn

from ssl_loc.checkpoint.backbone_source import read_backbone
from ssl_loc.checkpoint.foreign_families import FAMILIES, family_of
from ssl_loc.checkpoint.foreign_trunk import take_trunk
from ssl_loc.utils.errors import WeightsError


@pytest.fixture(scope="module")
def r18() -> tuple[Net, Net]:
    """Online and target network."""
    return drawn_net(18, 1), drawn_net(18, 2)


def deeplab(net: Net) -> nn.Module:
    # torchvision's DeepLabHead is Sequential(ASPP, conv, norm, ReLU, conv), its auxiliary FCNHead one of five as well
    aspp = group(convs=nn.ModuleList([mlp()]), project=mlp())
    head = nn.Sequential(aspp, nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 1))
    return group(backbone=headless(net), classifier=head, aux_classifier=mlp())


# Network for another task -> (piece of its family's name, where its trunk is).
ASKED: dict[Callable[[Net], nn.Module], tuple[str, str]] = {
    deeplab: ("torchvision segmentation", "backbone."),
    lambda net: group(backbone=group(body=headless(net), fpn=mlp()), rpn=mlp(), roi_heads=mlp()): (
        "torchvision detection",
        "backbone.body.",
    ),
    lambda net: group(transformer=mlp(), backbone=nn.Sequential(group(body=headless(net)))): (
        "DETR",
        "backbone.0.body.",
    ),
    lambda net: group(backbone=headless(net), neck=mlp(), rpn_head=mlp(), roi_head=mlp()): ("mmdet", "backbone."),
    lambda net: group(backbone=headless(net), decode_head=mlp(), auxiliary_head=mlp()): ("mmsegm", "backbone."),
}


@pytest.mark.parametrize("make", ASKED, ids=[name.replace(" ", "_") for name, _ in ASKED.values()])
def test_networks_for_other_tasks_are_taken_with_a_statement_only(
    make: Callable[[Net], nn.Module], r18: tuple[Net, Net], tmp_path: Path
) -> None:
    name, prefix = ASKED[make]
    path = tmp_path / "given.pth"
    torch.save({"state_dict": make(r18[0]).state_dict()}, path)
    for given in (None, prefix):
        with pytest.raises(WeightsError, match=f"is of .*{name}.*trained further .*write given.pth.json beside it"):
            read_backbone(path, given)
    stated = {"pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [4.0] * 3, "channel_order": "BGR", "stride_in_1x1": False}
    (tmp_path / "given.pth.json").write_text(json.dumps(stated))
    file = read_backbone(path)
    assert file.meta["pixel_mean"] == [1.0, 2.0, 3.0] and torch.equal(file.model["conv1.weight"], r18[0].conv1.weight)


def test_torchvisions_deeplab_is_the_one_of_these_names() -> None:
    with torch.device("meta"):
        model = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)
        detector = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    found = family_of({"backbone."}, model.state_dict().keys())
    assert found is not None and found[0].name.startswith("torchvision segmentation")
    found = family_of({"backbone.body."}, detector.state_dict().keys())
    assert found is not None and found[0].name.startswith("torchvision detection")


def test_another_trunk_of_a_known_file_keeps_its_pixels(
    r18: tuple[Net, Net], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = take_trunk(byol_sthalles(*r18), "given.pth", "target_network_state_dict.encoder.")
    assert torch.equal(target.model["conv1.weight"], r18[1].conv1.weight)
    assert (target.pixels.mean, target.pixels.std) == UNIT and "sthalles" in target.family
    # A trunk that the family of the file does not know is nobody's.
    content = {**byol_sthalles(*r18), "third": group(cnn=headless(r18[0])).state_dict()}
    third = take_trunk(content, "given.pth", "third.cnn.")
    assert third.family == "no known family" and (third.pixels.mean, third.pixels.std) == IMAGENET
    torch.save(content, tmp_path / "given.pth")
    read_backbone(tmp_path / "given.pth", "third.cnn.")
    assert "assumed, as in most published code: RGB" in caplog.text
    caplog.clear()
    read_backbone(tmp_path / "given.pth", "target_network_state_dict.encoder.")
    assert "assumed, as in the published code of this family: RGB, mean [0.0, 0.0, 0.0]" in caplog.text


def test_a_normalisation_inside_the_file_is_used_and_said(
    r18: tuple[Net, Net], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(robust(*r18), tmp_path / "r.pt")
    meta = read_backbone(tmp_path / "r.pt").meta
    assert meta["pixel_mean"] == [127.5, 63.75, 31.875] and meta["pixel_std"] == [51.0, 102.0, 255.0]
    assert "prepares its pixels by its own 'module.normalizer.new_mean' and std, times 255" in caplog.text
    assert "does not say how" not in caplog.text
    # Numbers that cannot be of 0..1 pixels are refused, not used.
    content = robust(*r18)
    content["model"]["module.normalizer.new_std"] = torch.zeros(3, 1, 1)
    torch.save(content, tmp_path / "r.pt")
    with pytest.raises(WeightsError, match=r"pixel_std in .*r.pt is \[0.0, 0.0, 0.0\]"):
        read_backbone(tmp_path / "r.pt")


def test_every_family_of_other_tasks_is_tried() -> None:
    asked = [name for name, _ in ASKED.values()]
    assert all(any(piece in family.name for piece in asked) for family in FAMILIES if family.ask)
