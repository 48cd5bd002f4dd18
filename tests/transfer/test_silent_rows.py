"""Settings that detectron2 takes without a word and that ruin a trunk: each is refused, and each does ruin it.

The refusals go through the entry point with an exported file. Where detectron2 is installed, the same settings are
given to its modules, so that a refusal never guards against nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import CONFIGS, tiny_recipe
from torch import Tensor, nn

from ssl_loc.checkpoint.backbone_file import BackboneFile
from ssl_loc.checkpoint.backbone_formats import write_backbone
from ssl_loc.checkpoint.files import tensor_digest, write_torch_file
from ssl_loc.modeling.backbone import build_backbone_from_description
from ssl_loc.transfer.build import TransferJob, Trunk
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import Recipe, architecture, edited, load_recipe
from ssl_loc.transfer.run import open_trunk, run_transfer
from ssl_loc.transfer.weights import detectron2_key
from ssl_loc.utils.errors import ConfigError, UserError, WeightsError

HERE, WHY = Detectron2Engine().available()
needs_detectron2 = pytest.mark.skipif(not HERE, reason=WHY)
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
R50 = {"depth": 50, "width": 16}

# Row -> (keys, words of the refusal: key, given, expected).
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "stride in 1x1": (
        {"MODEL.RESNETS.STRIDE_IN_1X1": True},
        r"MODEL.RESNETS.STRIDE_IN_1X1 is True but the trunk strides in its 3x3 convolutions; expected False",
    ),
    "BGR, mean in RGB order": (
        {"INPUT.FORMAT": "BGR"},
        r"INPUT.FORMAT is 'BGR' but the trunk was trained on RGB; expected 'RGB'",
    ),
    "BGR, mean swapped too": (
        {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": MEAN[::-1], "MODEL.PIXEL_STD": STD[::-1]},
        r"INPUT.FORMAT is 'BGR' .*; expected 'RGB'; MODEL.PIXEL_MEAN is \[103.53, 116.28, 123.675\]; expected",
    ),
    "RGB, detectron2's mean": (
        {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]},
        r"MODEL.PIXEL_MEAN is \[103.53, 116.28, 123.675\]; expected \[123.675, 116.28, 103.53\], .* other channel",
    ),
    "std 1": (
        {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]},
        r"MODEL.PIXEL_STD is \[1.0, 1.0, 1.0\]; expected \[58.395, 57.12, 57.375\], .*detectron2's default",
    ),
    "mean and std on the 0-1 scale": (
        {"MODEL.PIXEL_MEAN": [0.485, 0.456, 0.406], "MODEL.PIXEL_STD": [0.229, 0.224, 0.225]},
        r"PIXEL_MEAN is \[0.485, .*\], on the 0-1 scale; expected \[123.675, .*PIXEL_STD is \[0.229, .*expected \[58.3",
    ),
    "norm GN": ({"MODEL.RESNETS.NORM": "GN"}, r"MODEL.RESNETS.NORM is 'GN'; expected one of BN, SyncBN"),
    "norm LN": ({"MODEL.RESNETS.NORM": "LN"}, r"MODEL.RESNETS.NORM is 'LN'; expected one of BN, SyncBN"),
    "no norm": ({"MODEL.RESNETS.NORM": "''"}, r"MODEL.RESNETS.NORM is ''; expected one of BN, SyncBN"),
    "depth 101": (
        {"MODEL.RESNETS.DEPTH": 101},
        r"MODEL.RESNETS.DEPTH is 101 but the weights hold a ResNet-50 .*: add MODEL.RESNETS.DEPTH 50",
    ),
    "freeze at 2": ({"MODEL.BACKBONE.FREEZE_AT": 2}, r"MODEL.BACKBONE.FREEZE_AT is 2, .*; expected 0"),
}


def drawn_trunk(kwargs: dict[str, Any], prefix: str = "") -> tuple[nn.Module, BackboneFile]:
    """A trunk whose norm statistics are those of its activations on other photos, and what an export of it holds."""
    torch.manual_seed(0)
    module = build_backbone_from_description({"name": "ResNet", "kwargs": kwargs})
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(normalised(picture(seed=4)))
    for norm in norms:
        norm.momentum = 0.1
    state = {f"{prefix}{key}": value.clone() for key, value in module.state_dict().items()}
    meta = {"backbone": module.describe(), "pixel_mean": MEAN, "pixel_std": STD, "channel_order": "RGB"}
    meta |= {"stride_in_1x1": False, "method": "CAST", "digest": tensor_digest(state)}
    return module.eval(), BackboneFile(state, meta)


def picture(seed: int = 3) -> Tensor:
    """Two RGB photos of smooth colours, uint8 (2, 3, 64, 96)."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (2, 3, 9, 11), generator=generator).float()
    return nn.functional.interpolate(small, size=(64, 96), mode="bilinear").to(torch.uint8)


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def r50() -> tuple[nn.Module, BackboneFile]:
    return drawn_trunk(R50)


def recipe_with(arch: str, keys: dict[str, Any]) -> Recipe:
    values = {"MODEL.RESNETS.NORM": "BN", "MODEL.DEVICE": "cpu"} | ({"MODEL.FPN.NORM": "BN"} if arch == "FPN" else {})
    words = [str(word) for pair in {**values, **keys}.items() for word in pair]
    return load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml", words)


@pytest.mark.parametrize("arch", ["C4", "FPN"])
@pytest.mark.parametrize("row", ROWS)
def test_each_silent_setting_is_refused(
    row: str, arch: str, r50: tuple[nn.Module, BackboneFile], tmp_path: Path
) -> None:
    keys, words = ROWS[row]
    write_backbone(r50[1], tmp_path / "cast.pth")
    weights = str(tmp_path / "cast.pth")
    assert open_trunk(recipe_with(arch, {}), weights).digest == r50[1].meta["digest"]
    with pytest.raises(ConfigError, match=words) as error:
        run_transfer(recipe_with(arch, keys), weights, "torchvision")
    assert "\n" not in str(error.value) and "TRANSFER.ALLOW_NONSTANDARD" in str(error.value)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.pth", "torchvision"), ("a.pth", "detectron2"), ("a.pth", "timm"), ("a.safetensors", "")],
)
def test_the_refusal_is_the_same_from_every_format(
    name: str, format: str, r50: tuple[nn.Module, BackboneFile], tmp_path: Path
) -> None:
    """What the file says of itself travels with it, so that each of them is as safe as our own."""
    write_backbone(r50[1], tmp_path / name, format)
    trunk = open_trunk(recipe_with("C4", {}), str(tmp_path / name))
    assert trunk.digest == r50[1].meta["digest"] and trunk.meta == r50[1].meta
    keys, words = ROWS["BGR, mean in RGB order"]
    with pytest.raises(ConfigError, match=words):
        open_trunk(recipe_with("C4", keys), str(tmp_path / name))


def test_a_trunk_of_other_conventions_wants_other_keys(tmp_path: Path) -> None:
    """Original Caffe2 weights: BGR, std 1, stride in the 1x1 convolution, as their JSON states."""
    _, file = drawn_trunk(R50)
    torch.save(file.model, tmp_path / "msra.pth")
    stated = {"pixel_mean": MEAN[::-1], "pixel_std": [1.0, 1.0, 1.0], "channel_order": "BGR", "stride_in_1x1": True}
    (tmp_path / "msra.pth.json").write_text(json.dumps(stated))
    right = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": MEAN[::-1], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    right["MODEL.RESNETS.STRIDE_IN_1X1"] = True
    assert open_trunk(recipe_with("C4", right), str(tmp_path / "msra.pth")).meta["channel_order"] == "BGR"
    with pytest.raises(ConfigError, match="INPUT.FORMAT is 'RGB' .*expected 'BGR'; .*in its 1x1 .*expected True"):
        open_trunk(recipe_with("C4", {}), str(tmp_path / "msra.pth"))


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=needs_detectron2)])
def test_weights_that_would_not_be_matched_are_refused(engine: str, tmp_path: Path) -> None:
    names = draw_detection_data(tmp_path)
    narrow = {"depth": 18, "width": 8, "layers": [1, 1, 1, 1]}
    recipe = tiny_recipe("C4", names, tmp_path / "out")

    def refused(file: BackboneFile, words: str, format: str = "ssl_loc") -> None:
        path = tmp_path / "given.pth"
        if format == "bare":
            write_torch_file(path, file.model)
        else:
            content = {"format": "ssl_loc.backbone", "version": 1, "model": file.model}
            write_torch_file(path, {**content, "meta": {**file.meta, "digest": tensor_digest(file.model)}})
        with pytest.raises(WeightsError, match=words):
            run_transfer(recipe, str(path), engine)

    refused(drawn_trunk(narrow, prefix="backbone.")[1], "'backbone.conv1.weight' is not a tensor of a ResNet trunk")
    refused(drawn_trunk(narrow)[1], "no whole basic ResNet .*blocks may be missing; .*in a json beside it", "bare")
    file = drawn_trunk(narrow)[1]
    half = {key: value for key, value in file.model.items() if not key.startswith("layer4")}
    name = "res5.0.conv1.weight" if engine == "detectron2" else "layer4.0.conv1.weight"
    refused(BackboneFile(half, file.meta), f"{name} of the model got no weights")
    more = {**file.model, "layer4.1.conv1.weight": torch.zeros(64, 64, 3, 3)}
    refused(BackboneFile(more, file.meta), "layer4.1.conv1.weight has no place in the model")


def detectron2_features(recipe: Recipe, file: BackboneFile, out: Path, train: bool = False) -> dict[str, Tensor]:
    """res4 and res5 of the detector that detectron2 builds, with every trunk tensor in it that finds a place."""
    from ssl_loc.transfer.detectron2_engine.engine import make_config
    from ssl_loc.transfer.detectron2_engine.model import build_detector

    description = file.meta["backbone"]
    if recipe.MODEL.RESNETS.DEPTH == 101:
        description = {"name": "ResNet", "kwargs": {"depth": 101, "width": description["kwargs"]["width"]}}
    job = TransferJob(recipe, out, trunk=Trunk(file.model, file.meta))
    model = build_detector(make_config(job, recipe, description), 0)
    own = model.state_dict()
    placed = {detectron2_key(key, architecture(recipe)): value for key, value in file.model.items()}
    model.load_state_dict({k: v for k, v in placed.items() if k in own and own[k].shape == v.shape}, strict=False)
    model.train(train)
    images = picture() if recipe.INPUT.FORMAT == "RGB" else picture().flip(1)
    with torch.no_grad():
        batch = model.preprocess_image([{"image": image} for image in images]).tensor
        if architecture(recipe) == "FPN":
            return dict(model.backbone.bottom_up(batch))
        found = dict(model.backbone(batch))
        found["res5"] = found["res4"]
        for name, layer in model.roi_heads.res5.named_children():
            found["res5"] = found["res5"] if name == "norm" else layer(found["res5"])
    return found


def distance(found: dict[str, Tensor], module: nn.Module) -> float:
    """Largest relative error over the levels."""
    with torch.no_grad():
        expected = module(normalised(picture()))
    return max(float((value - expected[name]).norm() / expected[name].norm()) for name, value in found.items())


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("arch", ["C4", "FPN"])
@pytest.mark.parametrize("row", ROWS)
def test_each_silent_setting_does_ruin_the_features(
    row: str, arch: str, r50: tuple[nn.Module, BackboneFile], tmp_path: Path
) -> None:
    module, file = r50
    recipe = recipe_with(arch, {**ROWS[row][0], "TRANSFER.ALLOW_NONSTANDARD": True})
    if row == "norm GN":
        # 32 groups need widths that are multiples of 32.
        module, file = drawn_trunk({"depth": 50, "width": 32})
    if row == "freeze at 2":
        # In evaluation a frozen layer is an ordinary one; in training it keeps its statistics and is not trained.
        frozen = detectron2_features(recipe, file, tmp_path, train=True)
        free = detectron2_features(recipe_with(arch, {}), file, tmp_path, train=True)
        errors = [float((frozen[k] - free[k]).norm() / free[k].norm()) for k in free]
        assert max(errors) > 0.1
        return
    assert distance(detectron2_features(recipe, file, tmp_path), module) > 0.2


@pytest.mark.parametrize("arch", ["C4", "FPN"])
@pytest.mark.parametrize("allowed", [False, True])
def test_a_dilated_res5_is_refused_whatever_is_allowed(arch: str, allowed: bool) -> None:
    """No engine has it, so there is nothing that TRANSFER.ALLOW_NONSTANDARD could allow."""
    with pytest.raises(ConfigError, match=r"MODEL.RESNETS.RES5_DILATION is 2; expected 1: with 2 detectron2") as error:
        recipe_with(arch, {"MODEL.RESNETS.RES5_DILATION": 2, "TRANSFER.ALLOW_NONSTANDARD": allowed})
    assert "ALLOW_NONSTANDARD" not in str(error.value)


@needs_detectron2
@pytest.mark.detectron2
def test_a_dilated_res5_is_in_no_detector(r50: tuple[nn.Module, BackboneFile], tmp_path: Path) -> None:
    """With a pyramid an assertion without a key; a C4 detector gets the features it gets without."""
    module, file = r50
    dilated = {"MODEL.RESNETS.RES5_DILATION": 2}
    with pytest.raises(AssertionError):
        detectron2_features(edited(recipe_with("FPN", {}), dilated), file, tmp_path)
    assert distance(detectron2_features(edited(recipe_with("C4", {}), dilated), file, tmp_path), module) < 1e-4


# scaled/ holds other numbers of iterations for the same detectors.
YAMLS = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml") if p.parent.name != "scaled")


@needs_detectron2
@pytest.mark.detectron2
@pytest.mark.parametrize("name", YAMLS)
def test_every_shipped_recipe_computes_the_trunks_features(name: str, tmp_path: Path) -> None:
    """To 1e-4, on every level, with the shipped keys: pixels, stride, norm, frozen stages."""
    recipe = load_recipe(CONFIGS / name, ["MODEL.DEVICE", "cpu"])
    kwargs = dict(recipe.TRANSFER.BACKBONE.KWARGS) or {"depth": recipe.MODEL.RESNETS.DEPTH, "width": 16}
    module, file = drawn_trunk(kwargs)
    write_backbone(file, tmp_path / "cast.pth")
    wide = {"MODEL.RESNETS.RES2_OUT_CHANNELS": module.channels["res2"]}  # type: ignore[union-attr, index]
    words = [str(word) for pair in wide.items() for word in pair]
    open_trunk(load_recipe(CONFIGS / name, words), str(tmp_path / "cast.pth"))
    assert distance(detectron2_features(recipe, file, tmp_path), module) < 1e-4


@pytest.mark.parametrize("stray", ["conv.weight", "fc.0.weight", "head.weight", "rpn_head.conv.weight"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "tv.pth"])
def test_a_stray_tensor_is_refused_by_name(stray: str, name: str, tmp_path: Path) -> None:
    """A projector's 3x3 convolution of 1024 channels has the shape of the RPN's."""
    _, file = drawn_trunk({"depth": 18, "width": 8})
    model = {**file.model, stray: torch.zeros(1024, 1024, 3, 3)}
    strayed = BackboneFile(model, {**file.meta, "digest": tensor_digest(model)})
    write_backbone(strayed, tmp_path / name, "torchvision" if name == "tv.pth" else "")
    recipe = load_recipe(CONFIGS / "Base-RCNN-C4.yaml", ["MODEL.RESNETS.DEPTH", "18"])
    words = rf"'{stray}' is not a tensor of a ResNet trunk|1 that it does not have \({re.escape(stray)}\)"
    with pytest.raises(UserError, match=words):
        open_trunk(recipe, str(tmp_path / name))
    # Nor does it leave the house in a file that detectron2 matches by suffix.
    with pytest.raises(WeightsError, match=f"'{stray}' is not a tensor"):
        write_backbone(strayed, tmp_path / "d2.pth", "detectron2")
    assert not (tmp_path / "d2.pth").exists()
