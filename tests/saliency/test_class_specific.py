"""CAM in closed form, gradients of a linear network, GrabCut on a drawn object, and files that are no classifiers."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ssl_loc.saliency.build import build_estimator
from ssl_loc.saliency.classifier import MEAN, STD, Classifier, load_classifier, prepare_image
from ssl_loc.saliency.gradient import grabcut_mask, smooth
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError

CELL = 32
# Class 0 likes red, class 1 likes green and dislikes red, class 2 dislikes everything.
LIKES = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -1.0, -1.0]])


def colour_classifier() -> Classifier:
    """A = mean normalised colour of each 32 x 32 cell; logits = LIKES times their average."""
    fc = nn.Linear(3, 3)
    with torch.no_grad():
        fc.weight.copy_(LIKES)
        fc.bias.zero_()
    return Classifier(nn.AvgPool2d(CELL), fc).eval().requires_grad_(False)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "classifier.pth"
    path.write_bytes(b"stands for weights")
    return str(path)


def estimator(name: str, file: str, preset: str = "", **options: object):
    made = build_estimator(name, preset, weights=file, side=64, **options)
    made._network = colour_classifier()
    return made


def red_and_green() -> np.ndarray:
    """64 x 128: cells of 32 px; red, dark red, green, blue; every picture row of cells the same."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, :32, 0], image[:, 32:64, 0], image[:, 64:96, 1], image[:, 96:, 2] = 255, 200, 255, 255
    return image


def test_cam_is_the_rectified_evidence_over_its_maximum(file: str) -> None:
    image = red_and_green()
    # At the centre of a cell bilinear interpolation gives the cell's own value only between its two middle pixels.
    colours = (image[0, 16::32] / 255 - np.array(MEAN)) / np.array(STD)  # (4, 3)
    for target in (0, 1):
        evidence = np.maximum(colours @ LIKES[target].numpy(), 0)
        cells = np.repeat(evidence[None] / evidence.max(), 2, 0).astype(np.float32)
        want = nn.functional.interpolate(torch.tensor(cells)[None, None], (64, 128), mode="bilinear")[0, 0].numpy()
        got = estimator("cam", file, target=target)(image)
        np.testing.assert_allclose(got, want, atol=1e-5)
        assert got.dtype == np.float32 and 0.95 < got.max() <= 1.0


def test_cam_of_the_predicted_class_of_a_label_and_of_none(file: str) -> None:
    image = red_and_green()
    logits = colour_classifier()(prepare_image(image, 64))[0]
    best = int(logits.argmax())
    assert np.array_equal(estimator("cam", file)(image), estimator("cam", file, target=best)(image))
    by_label = estimator("cam", file, target="label")
    assert np.array_equal(by_label.for_label(1)(image), estimator("cam", file, target=1)(image))
    assert np.array_equal(by_label.for_label(0)(image), estimator("cam", file, target=0)(image))
    with pytest.raises(DataError, match="the images have none"):
        by_label.for_label(-1)
    with pytest.raises(DataError, match="class 7 was asked for; the classifier has classes 0 to 2"):
        by_label.for_label(7)(image)
    white = np.full((64, 64, 3), 255, np.uint8)
    white[0, 0] = 254
    assert not estimator("cam", file, target=2)(white).any()  # nothing speaks for the class
    assert not estimator("cam", file)(np.full((50, 70, 3), 9, np.uint8)).any()  # constant


def test_cam_has_the_images_size_whatever_it_is(file: str) -> None:
    rng = np.random.default_rng(0)
    for size in ((40, 90), (300, 33), (64, 64), (1, 5)):
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        assert estimator("cam", file)(image).shape == size
        assert estimator("gradient", file, "soft")(image).shape == size


@pytest.mark.parametrize(
    ("size", "want"), [((300, 400), (64, 85)), ((1, 3000), (64, 512)), ((3000, 1), (512, 64)), ((10, 80), (64, 512))]
)
def test_strips_are_squeezed_to_eight_to_one(size: tuple[int, int], want: tuple[int, int]) -> None:
    assert prepare_image(np.zeros((*size, 3), np.uint8), 64).shape == (1, 3, *want)


class Corner(nn.Module):
    """Looks at the red of a square only: its gradient is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 16:32, 32:64]


def test_gradient_lies_where_the_network_looks(file: str) -> None:
    made = estimator("gradient", file, "soft", target=0)
    made._network = Classifier(Corner(), colour_classifier().fc)
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    got = made(image)
    square = np.zeros((64, 128), np.float32)
    square[16:32, 32:64] = 1  # d logit / d pixel is 1 / (16 x 32) for red in here, 0 elsewhere
    np.testing.assert_allclose(got, smooth(square), atol=1e-6)
    assert got[24, 48] == pytest.approx(1.0, abs=1e-3) and got[50, 100] == 0


def test_smoothing_clips_and_keeps_zero() -> None:
    gradient = np.zeros((100, 100))
    gradient[0, 0] = 1e9
    gradient[40:60, 40:60] = 3.0
    assert smooth(gradient)[50, 50] == pytest.approx(1.0, abs=1e-3)  # the speck of 1e9 counts like any other
    assert not smooth(np.zeros((10, 10))).any()


def test_grabcut_grows_seeds_to_the_object() -> None:
    rng = np.random.default_rng(0)
    image = np.full((60, 80, 3), 60) + rng.integers(-8, 9, (60, 80, 3))
    inside = np.zeros((60, 80), bool)
    inside[15:45, 20:60] = True
    image[inside] += np.array([120, 60, -40])
    image = image.clip(0, 255).astype(np.uint8)
    saliency = np.zeros((60, 80), np.float32)
    saliency[24:36, 33:47] = 1.0  # the middle of the object only
    distance = np.hypot(*np.mgrid[-30:30, -40:40])
    saliency += (0.3 * (1 - distance / distance.max())).astype(np.float32)  # fades with the distance, never equal
    before = cv_iou(saliency / saliency.max() >= 0.5, inside)
    mask = grabcut_mask(image, saliency / saliency.max())
    assert before < 0.2 and cv_iou(mask, inside) > 0.95
    assert np.array_equal(mask, grabcut_mask(image, saliency / saliency.max()))


def test_grabcut_does_not_depend_on_what_ran_before() -> None:
    # Cloudy colours, for some of which GrabCut's random start does change some pixels.
    distance = np.hypot(*np.mgrid[-30:30, -40:40])
    saliency = (1 - distance / distance.max()).astype(np.float32)
    for i in (2, 4, 5):
        noise = np.random.default_rng(i).integers(0, 256, (60, 80, 3)).astype(np.uint8)
        clouds = cv2.GaussianBlur(noise, (0, 0), 4).astype(float)
        image = ((clouds - clouds.min()) / (clouds.max() - clouds.min()) * 255).astype(np.uint8)
        masks = []
        for seed in range(4):
            cv2.setRNGSeed(seed)
            masks.append(grabcut_mask(image, saliency))
        assert all(np.array_equal(masks[0], mask) for mask in masks)


def cv_iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_without_seeds_the_map_is_cut_at_its_adaptive_threshold() -> None:
    saliency = np.zeros((20, 20), np.float32)
    saliency[5:8, 5:8] = 1.0  # 9 of 400 px: both percentiles are 0
    assert np.array_equal(grabcut_mask(np.zeros((20, 20, 3), np.uint8), saliency), saliency > 0)


@pytest.mark.parametrize(
    ("block", "options"), [(BasicBlock, {}), (Bottleneck, {}), (Bottleneck, {"groups": 4, "width_per_group": 8})]
)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_checkpoints_of_any_resnet_give_the_same_logits(block, options, wrap, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ResNet(block, [1, 2, 1, 1], num_classes=5, **options).eval()
    torch.save(wrap(net.state_dict()), tmp_path / "c.pth")
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(load_classifier(tmp_path / "c.pth")(x), net(x), rtol=1e-5, atol=1e-5)


def test_files_that_are_no_classifiers_are_one_sentence(tmp_path: Path) -> None:
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    trunk = {k: v for k, v in net.state_dict().items() if not k.startswith("fc")}
    torch.save(trunk, tmp_path / "trunk.pth")
    with pytest.raises(WeightsError, match="trunk without a classifier"):
        load_classifier(tmp_path / "trunk.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="has no tensor conv1.weight"):
        load_classifier(tmp_path / "other.pth")
    torch.save({**net.state_dict(), "layer5.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match="does not fit a torchvision ResNet"):
        load_classifier(tmp_path / "more.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="no checkpoint of tensors") as caught:
        load_classifier(tmp_path / "junk.pth")
    assert "weights_only" not in str(caught.value)


def test_options_and_what_they_say(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weights of cam is missing"):
        build_estimator("cam")
    with pytest.raises(ConfigError, match="which is no file"):
        build_estimator("cam", weights=str(tmp_path / "no.pth"))
    with pytest.raises(ConfigError, match="target of gradient is 'best'"):
        build_estimator("gradient", weights=file, target="best")
    with pytest.raises(ConfigError, match="preset of gradient is 'hard'"):
        build_estimator("gradient", "hard", weights=file)
    made = estimator("cam", file)
    assert made.uses_labels
    assert pickle.loads(pickle.dumps(made))._network is None  # weights travel as a path
    Path(file).write_bytes(b"others")
    assert estimator("cam", file).version != made.version
