"""Our exported files in plain detectron2: how many tensors arrive, by which file, and that no stray one lands."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detection_recipe import CONFIGS
from torch import Tensor, nn

from ssl_loc.checkpoint.backbone_file import BackboneFile
from ssl_loc.checkpoint.backbone_formats import write_backbone
from ssl_loc.checkpoint.files import tensor_digest
from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.weights import detectron2_key

HERE, WHY = Detectron2Engine().available()
pytestmark = [pytest.mark.detectron2, pytest.mark.skipif(not HERE, reason=WHY)]
# Names, depths and shapes relative to each other are a full ResNet-50's; only the files are small.
NARROW = {"depth": 50, "width": 8}
STRAY = "conv.weight"


def drawn(kwargs: dict[str, Any]) -> BackboneFile:
    """Every tensor random, so that none equals another or an initial value."""
    torch.manual_seed(1)
    module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
    state = {k: torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in module.state_dict().items()}
    meta = {"backbone": module.describe(), "channel_order": "RGB", "digest": tensor_digest(state)}
    return BackboneFile(state, meta)


def plain_detector(arch: str, kwargs: dict[str, Any], **keys: Any) -> nn.Module:
    """What detectron2's own ``build_model`` makes of our recipe's keys: none of our checks, none of our loaders."""
    from detectron2.modeling import build_model

    import ssl_loc.transfer.detectron2_engine.heads  # noqa: F401  (registers the head with the extra norm)
    from ssl_loc.transfer.detectron2_engine.config import to_detectron2

    cfg = to_detectron2(load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml"))
    width = kwargs.get("width", 64)
    resnets = cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.STEM_OUT_CHANNELS, resnets.WIDTH_PER_GROUP = kwargs["depth"], width, width
    resnets.RES2_OUT_CHANNELS = width * (1 if kwargs["depth"] < 50 else 4)
    cfg.MODEL.DEVICE, resnets.NORM = "cpu", keys.get("norm", "BN")
    cfg.MODEL.FPN.NORM = "BN" if arch == "FPN" else ""
    cfg.MODEL.ROI_HEADS.NAME = keys.get("heads", cfg.MODEL.ROI_HEADS.NAME)
    torch.manual_seed(2)
    return build_model(cfg)


def load(model: nn.Module, path: Any) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    DetectionCheckpointer(model).load(str(path))


def arrived(model: nn.Module, file: BackboneFile, arch: str) -> int:
    """How many of the trunk's tensors sit in the model under their own name, bit-equal."""
    own = model.state_dict()
    places = {detectron2_key(key, arch): value for key, value in file.model.items()}
    return sum(k in own and own[k].shape == v.shape and torch.equal(own[k], v) for k, v in places.items())


@pytest.fixture(scope="module")
def r50() -> BackboneFile:
    return drawn(NARROW)


@pytest.mark.parametrize(
    ("depth", "norm", "count"), [(50, "BN", 318), (18, "BN", 120), (50, "FrozenBN", 265), (18, "FrozenBN", 100)]
)
@pytest.mark.parametrize("arch", ["C4", "FPN"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_one_file_fills_c4_and_fpn(
    suffix: str, arch: str, depth: int, norm: str, count: int, r50: BackboneFile, tmp_path: Path
) -> None:
    """All of it; under FrozenBN all but the batch counters, 53 of ResNet-50 and 20 of ResNet-18."""
    # detectron2 itself builds basic blocks at full width only.
    file = r50 if depth == 50 else drawn({"depth": 18})
    write_backbone(file, tmp_path / f"d2{suffix}", "detectron2")
    model = plain_detector(arch, {"depth": depth, **({"width": 8} if depth == 50 else {})}, norm=norm)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load(model, tmp_path / f"d2{suffix}")
    assert arrived(model, file, arch) == count
    # Nothing else of the model was touched (a FrozenBN without statistics in the file goes from 1 - eps to 1).
    places = {detectron2_key(key, arch) for key in file.model}
    rest = {key: value for key, value in model.state_dict().items() if key not in places}
    assert rest and all(torch.allclose(value, before[key], rtol=0, atol=1.1e-5) for key, value in rest.items())


def test_a_full_resnet_50_arrives_whole(tmp_path: Path) -> None:
    file = drawn({"depth": 50})
    write_backbone(file, tmp_path / "d2.pth", "detectron2")
    for arch in ("C4", "FPN"):
        model = plain_detector(arch, {"depth": 50})
        load(model, tmp_path / "d2.pth")
        assert arrived(model, file, arch) == 318


def exact(file: BackboneFile, arch: str) -> dict[str, Tensor]:
    return {detectron2_key(key, arch): value for key, value in file.model.items()}


def prefixed(model: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"backbone.{key}": value for key, value in model.items()}


# Kind of file -> (how it is made of our export's content, of it in C4, in FPN).
OTHER_FILES: dict[str, tuple[Callable[[dict[str, Any], BackboneFile], Any], int, int]] = {
    "no matching_heuristics": (lambda ours, file: {"model": ours["model"], "__author__": "x"}, 0, 0),
    "trunk names only": (lambda ours, file: {"model": ours["model"]}, 0, 0),
    "raw torchvision": (lambda ours, file: file.model, 0, 0),
    "raw torchvision, heuristics": (lambda ours, file: {"model": file.model, "matching_heuristics": True}, 1, 1),
    "exact names of C4": (lambda ours, file: {"model": exact(file, "C4")}, 318, 0),
    "exact names of FPN": (lambda ours, file: {"model": exact(file, "FPN")}, 0, 318),
    "all under backbone.": (lambda ours, file: {"model": prefixed(ours["model"])}, 258, 0),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_files_without_what_ours_has_load_little_and_say_nothing(kind: str, r50: BackboneFile, tmp_path: Path) -> None:
    """Why the export writes the keys that it writes: these raise nothing."""
    write_backbone(r50, tmp_path / "d2.pth", "detectron2")
    make, in_c4, in_fpn = OTHER_FILES[kind]
    torch.save(make(torch.load(tmp_path / "d2.pth", weights_only=True), r50), tmp_path / "other.pth")
    for arch, count in (("C4", in_c4), ("FPN", in_fpn)):
        model = plain_detector(arch, NARROW)
        load(model, tmp_path / "other.pth")
        assert arrived(model, r50, arch) == count


def test_the_other_rows_of_the_table(r50: BackboneFile, tmp_path: Path) -> None:
    write_backbone(r50, tmp_path / "d2.pkl")
    content = pickle.loads((tmp_path / "d2.pkl").read_bytes())
    for key, count in (("matching_heuristics", 0), ("__author__", None)):
        (tmp_path / "less.pkl").write_bytes(pickle.dumps({k: v for k, v in content.items() if k != key}))
        model = plain_detector("C4", NARROW)
        if count is None:
            with pytest.raises(ValueError, match="Unsupported type found in checkpoint"):
                load(model, tmp_path / "less.pkl")
        else:
            load(model, tmp_path / "less.pkl")
            assert arrived(model, r50, "C4") == count
    # The flag may also come with the path.
    write_backbone(r50, tmp_path / "d2.pth", "detectron2")
    torch.save({"model": torch.load(tmp_path / "d2.pth", weights_only=True)["model"]}, tmp_path / "bare.pth")
    model = plain_detector("FPN", NARROW)
    load(model, f"{tmp_path}/bare.pth?matching_heuristics=True")
    assert arrived(model, r50, "FPN") == 318
    torch.save({"state_dict": r50.model}, tmp_path / "script.pth")
    with pytest.raises(ValueError, match="Unsupported type found in checkpoint"):
        load(plain_detector("C4", NARROW), tmp_path / "script.pth")


def test_basic_blocks_need_our_head(tmp_path: Path) -> None:
    """detectron2's own C4 head is three bottlenecks whatever the depth: most tensors fit, into another stage."""
    file = drawn({"depth": 18})
    write_backbone(file, tmp_path / "d2.pth", "detectron2")
    stock = plain_detector("C4", {"depth": 18}, heads="Res5ROIHeads")
    load(stock, tmp_path / "d2.pth")
    assert "roi_heads.res5.0.conv3.weight" in stock.state_dict() and arrived(stock, file, "C4") < 120
    ours = plain_detector("C4", {"depth": 18})
    load(ours, tmp_path / "d2.pth")
    assert arrived(ours, file, "C4") == 120


def test_no_projector_tensor_lands_in_the_rpn(tmp_path: Path) -> None:
    """detectron2 matches by suffix: a stray 3x3 convolution of the right shape is taken. Our export holds none."""
    file = drawn({"depth": 50, "width": 8})
    name = "proposal_generator.rpn_head.conv.weight"
    model = plain_detector("C4", NARROW)
    untouched = model.state_dict()[name].clone()
    write_backbone(file, tmp_path / "d2.pth", "detectron2")
    load(model, tmp_path / "d2.pth")
    assert torch.equal(model.state_dict()[name], untouched)
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    content["model"][STRAY] = torch.full_like(untouched, 3.0)
    torch.save(content, tmp_path / "stray.pth")
    load(model, tmp_path / "stray.pth")
    assert torch.equal(model.state_dict()[name], content["model"][STRAY]), "detectron2 no longer takes it: good news"
