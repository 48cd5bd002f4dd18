"""Name maps and the check that every trunk tensor arrived."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18, resnet50

from ssl_loc.checkpoint.trunk_names import trunk_from_detectron2, trunk_to_detectron2
from ssl_loc.transfer.detector_names import detector_from_detectron2, detector_to_detectron2
from ssl_loc.transfer.weights import (
    check_finite,
    detectron2_key,
    torchvision_key,
    trunk_only,
    verify_loaded,
)
from ssl_loc.utils.errors import WeightsError


@pytest.fixture(scope="module")
def r50() -> dict[str, Tensor]:
    with torch.device("meta"):
        return resnet50().state_dict()


@pytest.fixture()
def r18() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return trunk_only(resnet18().state_dict())


@pytest.mark.parametrize(
    ("ours", "trunk", "c4", "fpn"),
    [
        ("conv1.weight", "stem.conv1.weight", "backbone.", "backbone.bottom_up."),
        ("bn1.running_var", "stem.conv1.norm.running_var", "backbone.", "backbone.bottom_up."),
        ("layer1.0.conv2.weight", "res2.0.conv2.weight", "backbone.", "backbone.bottom_up."),
        ("layer3.5.bn3.bias", "res4.5.conv3.norm.bias", "backbone.", "backbone.bottom_up."),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight", "backbone.", "backbone.bottom_up."),
        ("layer4.0.downsample.1.weight", "res5.0.shortcut.norm.weight", "roi_heads.", "backbone.bottom_up."),
        ("layer4.2.bn1.running_mean", "res5.2.conv1.norm.running_mean", "roi_heads.", "backbone.bottom_up."),
    ],
)
def test_names_written_out(ours: str, trunk: str, c4: str, fpn: str) -> None:
    assert trunk_to_detectron2(ours) == trunk
    assert trunk_from_detectron2(trunk) == ours
    assert detectron2_key(ours, "C4") == c4 + trunk
    assert detectron2_key(ours, "FPN") == fpn + trunk
    head = "roi_heads.box_head." if ours.startswith("layer4") else "trunk."
    assert torchvision_key(ours, "C4") == head + ours
    assert torchvision_key(ours, "FPN") == "trunk." + ours


def test_counts_of_standard_networks(r50: dict[str, Tensor], r18: dict[str, Tensor]) -> None:
    trunk = trunk_only(r50)
    assert (len(r50), len(trunk), len(r18)) == (320, 318, 120)
    names = [detectron2_key(key, "C4") for key in trunk]
    assert len(set(names)) == 318
    assert sum(name.startswith("backbone.") for name in names) == 258
    assert sum(name.startswith("roi_heads.res5.") for name in names) == 60
    assert [trunk_from_detectron2(trunk_to_detectron2(key)) for key in trunk] == list(trunk)


@pytest.mark.parametrize(
    "key",
    [
        "fc.0.weight",
        "fc.2.bias",
        "fc.weight.g",
        "projector.0.weight",
        "layer5.0.conv1.weight",
        "module.conv1.weight",
        "encoder_q.conv1.weight",
        "conv.weight",
    ],
)
def test_what_is_no_trunk_tensor_is_refused(key: str) -> None:
    """A projector's 3x3 convolution has the shape of the RPN's: by suffix matching it would land there."""
    with pytest.raises(WeightsError, match=f"'{re.escape(key)}' is not a tensor of a ResNet trunk"):
        trunk_only({"conv1.weight": torch.zeros(1), key: torch.zeros(1024, 1024, 3, 3)})
    with pytest.raises(WeightsError, match="no trunk tensor"):
        trunk_only({"fc.weight": torch.zeros(1)})


def test_a_dropped_classifier_is_logged_in_one_line(r18: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ssl_loc.transfer.weights")
    assert trunk_only(r18).keys() == r18.keys() and not caplog.records
    assert trunk_only({**r18, "fc.bias": torch.zeros(2), "fc.weight": torch.zeros(2, 512)}).keys() == r18.keys()
    (record,) = caplog.records
    assert "dropped fc.weight, fc.bias" in record.getMessage()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(r18: dict[str, Tensor], value: float) -> None:
    r18["conv1.weight"].view(-1)[3:5] = value
    r18["layer4.1.bn2.running_var"][0] = value
    words = r"NaN or infinite values in 2 tensor.s.: conv1.weight \(2 of 9408\), layer4.1.bn2.running_var \(1 of 512\)"
    with pytest.raises(WeightsError, match=f"b.pth holds {words}; the pretraining diverged"):
        check_finite(r18, "b.pth")
    with pytest.raises(WeightsError, match=words) as error:
        verify_loaded(model_state(r18, "C4"), r18, "C4")
    assert "differs in value" not in str(error.value)


def model_state(trunk: dict[str, Tensor], arch: str) -> dict[str, Tensor]:
    """A detectron2-style model that holds the trunk, plus what may be random."""
    heads = {
        "proposal_generator.rpn_head.conv.weight": torch.randn(2),
        "roi_heads.box_predictor.cls_score.weight": torch.randn(2),
    }
    heads |= (
        {"roi_heads.res5.norm.weight": torch.ones(2)} if arch == "C4" else {"backbone.fpn_output2.bias": torch.ones(2)}
    )
    return {**{detectron2_key(k, arch): v.clone() for k, v in trunk.items()}, **heads}


@pytest.mark.parametrize("arch", ["C4", "FPN"])
def test_a_complete_load_is_reported(r18: dict[str, Tensor], arch: str) -> None:
    report = verify_loaded(model_state(r18, arch), r18, arch)
    assert (report.loaded, report.dropped, len(report.fresh)) == (120, [], 3)
    assert "120 trunk tensors loaded bit-equal" in str(report)


def test_counters_have_no_place_in_frozen_norms(r18: dict[str, Tensor]) -> None:
    state = {k: v for k, v in model_state(r18, "FPN").items() if not k.endswith("num_batches_tracked")}
    report = verify_loaded(state, r18, "FPN")
    assert (report.loaded, len(report.dropped)) == (100, 20)


@pytest.mark.parametrize("arch", ["C4", "FPN"])
def test_every_way_to_lose_a_tensor_is_found(r18: dict[str, Tensor], arch: str) -> None:
    def refused(state: dict[str, Tensor], words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            verify_loaded(state, r18, arch)

    good = model_state(r18, arch)
    name = detectron2_key("layer4.1.conv2.weight", arch)
    refused({k: v for k, v in good.items() if k != name}, "layer4.1.conv2.weight has no place")
    refused({**good, name: good[name][:, :-1]}, "layer4.1.conv2.weight is .* but")
    changed = good[name].clone()
    changed.view(-1)[7] += 1e-6
    refused({**good, name: changed}, "differs in value")
    extra = detectron2_key("layer4.2.conv1.weight", arch)
    refused({**good, extra: torch.zeros(1)}, f"{extra} of the model got no weights")
    refused({**good, "backbone.stem.extra.weight": torch.zeros(1)}, "backbone.stem.extra.weight of the model")
    # All names prefixed as for the other architecture: res5 would stay random.
    other = "FPN" if arch == "C4" else "C4"
    refused(model_state(r18, other), r"\d+ problem\(s\)")


def test_a_long_list_is_cut(r18: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="and 113 more"):
        verify_loaded({"proposal_generator.x": torch.zeros(1)}, {**r18, "layer1.9.bn1.bias": torch.zeros(1)}, "C4")


def test_background_moves_between_the_layouts() -> None:
    """K = 2: torchvision rows (bg, a, b) for classes, 4 rows each for boxes, one each for masks."""
    ours = {
        "roi_heads.box_predictor.cls_score.bias": torch.tensor([0.0, 1.0, 2.0]),
        "roi_heads.box_predictor.bbox_pred.bias": torch.tensor([0.0] * 4 + [1.0] * 4 + [2.0] * 4),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.tensor([0.0, 1.0, 2.0]),
        "fpn.body.layer_blocks.1.0.weight": torch.tensor([3.0]),
        "fpn.body.inner_blocks.0.1.bias": torch.tensor([4.0]),
        "roi_heads.box_head.fcs.1.weight": torch.tensor([5.0]),
        "roi_heads.mask_head.2.0.weight": torch.tensor([6.0]),
        "rpn.head.conv.0.0.weight": torch.tensor([7.0]),
        "trunk.layer4.0.conv1.weight": torch.tensor([8.0]),
    }
    theirs = detector_to_detectron2(ours, "FPN")
    assert theirs["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 2, 0]
    assert theirs["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [1] * 4 + [2] * 4
    assert theirs["roi_heads.mask_head.predictor.bias"].tolist() == [1, 2]
    single = {k: v.item() for k, v in theirs.items() if v.numel() == 1}
    assert single == {
        "backbone.fpn_output3.weight": 3,
        "backbone.fpn_lateral2.norm.bias": 4,
        "roi_heads.box_head.fc2.weight": 5,
        "roi_heads.mask_head.mask_fcn3.weight": 6,
        "proposal_generator.rpn_head.conv.weight": 7,
        "backbone.bottom_up.res5.0.conv1.weight": 8,
    }
    back = detector_from_detectron2(theirs, "FPN")
    assert {k: v.tolist() for k, v in back.items()} == {k: v.tolist() for k, v in ours.items()}
    with pytest.raises(WeightsError, match="keypoint_head"):
        detector_from_detectron2({"keypoint_head.weight": torch.zeros(1)}, "FPN")
