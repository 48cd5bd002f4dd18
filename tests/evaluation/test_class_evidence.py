"""Class grounding and input gradients: closed forms, photos with masks, whole protocols from any kind of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_loc.checkpoint import export_backbone
from ssl_loc.config import CfgNode, construct
from ssl_loc.evaluation import open_weights
from ssl_loc.evaluation.class_grounding import ClassGrounding, answers, class_maps
from ssl_loc.evaluation.class_probe import ClassProbe, ProbeOptions
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.features import state_digest
from ssl_loc.evaluation.input_gradients import InputGradients, gradient_maps, measure, summarize
from ssl_loc.evaluation.masked_photos import MaskedPhotos, PhotoBatch
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.weights import Trunk
from ssl_loc.utils.errors import ConfigError, DataError

RED_OR_BLUE = ClassProbe(torch.tensor([[1.0, 0, 0], [0, 0, 1]]), torch.zeros(2), ["red", "blue"], "drawn", 2)


def half_red(red: float, size: int = 224) -> PhotoBatch:
    """The left ``red`` share of a photo is red and the mask, the rest blue; its class is red."""
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    edge = round(red * size)
    image[:, 0, :, :edge], image[:, 2, :, edge:] = 255, 255
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[..., :edge] = True
    return PhotoBatch(image, mask, torch.tensor([0]), ["x"], ["x.png"])


def trunk_of(net: nn.Module) -> Trunk:
    return Trunk(net, torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 255.0))  # type: ignore[arg-type]


def test_class_map_in_closed_form(color_method) -> None:
    """Channels of the map are mean colours per cell and the logit of red is the mean red, so G is the red per cell."""
    batch = half_red(3 / 7)
    cam, predicted = class_maps(trunk_of(color_method.trunk()), RED_OR_BLUE, batch, ProbeOptions())
    expected = torch.zeros(1, 7, 7)
    expected[..., :3] = 1
    torch.testing.assert_close(cam, expected)
    assert predicted.tolist() == [1]  # 4/7 of the photo is blue, and still the true class is asked for
    scores = ClassGrounding().scores.measure(cam, batch.masks)
    assert scores["iou"].tolist() == [1.0] and scores["pointing"].tolist() == [True]
    cam, _ = class_maps(trunk_of(color_method.trunk()), RED_OR_BLUE, batch, ProbeOptions(target="predicted"))
    assert ClassGrounding().scores.measure(cam, batch.masks)["iou"].tolist() == [0.0]


def test_no_evidence_for_a_class_is_a_zero_map(color_method) -> None:
    against = ClassProbe(torch.tensor([[-1.0, -1, -1], [0, 0, 1]]), torch.zeros(2), ["none", "blue"], "drawn", 2)
    cam, _ = class_maps(trunk_of(color_method.trunk()), against, half_red(0.5), ProbeOptions())
    assert not cam.any()
    numbers = ClassGrounding().scores.measure(cam, half_red(0.5).masks)
    assert numbers["zero"].tolist() == [True] and numbers["iou"].tolist() == [0.0]


class Weighted(nn.Module):
    """pooled = sum over pixels of pattern x image: the gradient of a logit is pattern x max_ch |W_c,ch| / 255."""

    def __init__(self, pattern: Tensor) -> None:
        super().__init__()
        self.pattern = nn.Parameter(pattern, requires_grad=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"res5": x * self.pattern}

    def pooled(self, maps: dict[str, Tensor]) -> Tensor:
        return maps["res5"].sum((2, 3))


def test_gradient_map_in_closed_form() -> None:
    pattern = torch.linspace(0, 1, 224).expand(224, 224)  # grows from left to right
    net = Weighted(pattern)
    before = state_digest(net)
    maps, predicted = gradient_maps(trunk_of(net), RED_OR_BLUE, half_red(3 / 7), ProbeOptions())
    np.testing.assert_allclose(maps[0], np.minimum(pattern / np.percentile(pattern, 99), 1), atol=1e-6)
    assert predicted.tolist() == [1] and state_digest(net) == before and net.pattern.grad is None
    # Unclipped, the left 96 of 224 columns carry (0 + 1 + ... + 95) / (0 + ... + 223) of the sum.
    whole = gradient_maps(trunk_of(net), RED_OR_BLUE, half_red(3 / 7), ProbeOptions(), 100)[0]
    numbers = measure(whole, half_red(3 / 7).masks)
    assert numbers["energy"][0] == pytest.approx((95 * 96 / 2) / (223 * 224 / 2), rel=1e-5)
    assert numbers["mask_share"][0] == pytest.approx(3 / 7)


def test_gradient_numbers_by_hand() -> None:
    rows = {
        "energy": np.array([0.5, 0.1, 0.3, 0.2]),
        "mask_share": np.array([0.25, 0.2, 0.2, 0.35]),
        "right": np.array([1.0, 0.0, 0.0, np.nan]),
    }
    assert summarize(rows) == pytest.approx(
        {
            "energy_in_mask": 1.1 / 4,
            "mask_share": 0.25,
            "energy_over_area": 1.1,
            "probe_top1": 100 / 3,
            "energy_in_mask_right": 0.5,
            "on_background_right": 0.0,
            "energy_in_mask_wrong": 0.2,
            "on_background_wrong": 50.0,
        }
    )
    assert "probe_top1" not in summarize({**rows, "right": np.full(4, np.nan)})
    given = answers(torch.tensor([1, 0, 2]), torch.tensor([1, 1, -1]))
    assert given[:2].tolist() == [1.0, 0.0] and np.isnan(given[2])


def write_photo(folder: Path, name: str, mask: np.ndarray) -> None:
    for sub, pixels in (("images", np.stack([mask, mask, 255 - mask], 2)), ("masks", mask)):
        (folder / sub / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / sub / f"{name}.png")


def test_masks_follow_the_photo_through_the_central_crop(tmp_path: Path) -> None:
    """A photo of 128 x 256 at size 112: no scaling, rows 8..119 and columns 72..183 are kept."""
    inside, border, empty = (np.zeros((128, 256), np.uint8) for _ in range(3))
    inside[20:40, 100:180] = 255
    border[:, :72] = 255
    for name, mask in (("a", inside), ("b", border), ("c", empty)):
        write_photo(tmp_path, name, mask)
    data = EvalData(f"folder:{tmp_path / 'images'}", f"folder:{tmp_path / 'masks'}")
    photos = MaskedPhotos(data, 112, ["x"])
    (batch,) = list(photos.batches(8))
    assert batch.names == ["a"] and (photos.skipped, photos.outside) == (1, 1)
    expected = torch.zeros(112, 112, dtype=torch.bool)
    expected[12:32, 28:108] = True
    assert torch.equal(batch.masks[0], expected) and torch.equal(batch.images[0, 0] > 127, expected)
    assert batch.labels.tolist() == [-1]
    assert MaskedPhotos(data, 112).sample(5).names == ["a"]
    whole = MaskedPhotos(EvalData(data.spec, "none"), 112).sample(5)
    assert sorted(whole.names) == ["a", "b", "c"] and not whole.masks.any()
    (tmp_path / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match="not empty inside of the central crop"):
        list(MaskedPhotos(data, 112).batches(8))


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Class folders train and val of red and green pictures, and masks of val: DIR/{train,val}/CLASS, DIR/masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for channel, name in enumerate(("red", "green")):
            for i in range(count):
                pixels = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
                pixels[16:48, 16:48, channel] = 255
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
                mask = np.zeros((64, 64), np.uint8)
                mask[16:48, 16:48] = 255
                if split == "val":
                    (tmp_path / "masks" / name).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(tmp_path / "masks" / name / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("protocol", [ClassGrounding, InputGradients])
def test_protocols_run_from_a_trunk_alone(protocol, labelled: Path, run_folder: Path, tmp_path: Path) -> None:
    export_backbone(next((run_folder / "checkpoints").glob("*.pth")), tmp_path / "trunk.pth")
    data = EvalData(str(labelled), f"folder:{labelled / 'masks'}")
    evaluator = construct(protocol, load_options(None, ["BATCH_SIZE", "4"]))
    results = []
    for file in (str(run_folder), str(tmp_path / "trunk.pth")):
        weights = open_weights(file, "cpu")
        evaluator.check_weights(weights)
        evaluator.check_data(data)
        results.append(evaluator(weights, data))
    assert results[0].metrics == results[1].metrics  # the head plays no part
    one = results[0]
    assert one.details["images"] == 6 and one.details["images_of_known_class"] == 6
    assert one.details["probe"] == {
        "data": f"class_folder:{labelled / 'train'}",
        "images": 12,
        "classes": 2,
        "C": 1.0,
    }
    assert one.metrics["probe_top1"] == 100.0  # colours are told apart even by an untrained network
    assert 0 < one.metrics["energy_in_mask"] < 1


def test_another_labelled_set_asks_for_the_predicted_class(labelled: Path, tiny_cfg: CfgNode, run_folder: Path) -> None:
    data = EvalData(f"folder:{labelled / 'val'}", f"folder:{labelled / 'masks'}")
    options = load_options(None, ["CLASS_GROUNDING.PROBE", f"class_folder:{labelled / 'train'}"])
    evaluator = construct(ClassGrounding, options)
    result = evaluator(open_weights(f"random:{run_folder / 'config.yaml'}", "cpu"), data)
    assert result.details["images_of_known_class"] == 0 and result.details["images"] == 6
    assert "probe_top1" not in result.metrics and "iou_mean_right" not in result.metrics
    with pytest.raises(DataError, match="PROBE"):
        ClassGrounding().check_data(data)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"INPUT_GRADIENT\.PERCENTILE is 0"):
        InputGradients(percentile=0)
    with pytest.raises(ConfigError, match=r"CLASS_GROUNDING\.THRESHOLD is 1"):
        ClassGrounding(threshold=1)
    with pytest.raises(ConfigError, match=r"CLASS_GROUNDING\.NORM is 'sum'"):
        ClassGrounding(norm="sum")
