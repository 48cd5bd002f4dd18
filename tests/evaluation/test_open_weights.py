"""Which file serves which protocol, and that frozen trunks stay frozen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from ssl_loc.checkpoint import export_backbone, load_checkpoint, method_state
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.data import EvalData, split_specs
from ssl_loc.evaluation.features import FeatureOptions, eval_transform, extract_split, state_digest
from ssl_loc.evaluation.fingerprint import fingerprint
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.runner import run_protocols
from ssl_loc.evaluation.weights import open_weights, unique_labels
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """train/ and val/ of two class folders with small noisy pictures."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for c, name in enumerate(("ant", "bee")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 128, (60, 50, 3)) + 127 * c
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_run_folder_checkpoint_and_backbone_give_the_same_features(run_folder: Path, tmp_path: Path) -> None:
    export_backbone(run_folder, tmp_path / "backbone.pth")
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    opened = [
        open_weights(str(path), "cpu")
        for path in (run_folder, run_folder / "checkpoints" / "iter_0000003.pth", tmp_path / "backbone.pth")
    ]
    features = [w.trunk().features(images) for w in opened]
    assert torch.equal(features[0], features[1])
    torch.testing.assert_close(features[0], features[2])
    assert [w.kind for w in opened] == ["checkpoint", "checkpoint", "backbone"]
    assert [w.label for w in opened] == ["tiny", "tiny", "backbone"]
    assert opened[0].digest == opened[1].digest != opened[2].digest
    assert {w.input_size() for w in opened} == {48}


def test_the_method_is_the_trained_one(run_folder: Path) -> None:
    stored = method_state(load_checkpoint(run_folder))
    loaded = open_weights(str(run_folder), "cpu").method().state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)


def test_a_backbone_cannot_be_grounded(run_folder: Path, tmp_path: Path) -> None:
    export_backbone(run_folder, tmp_path / "backbone.pth")
    with pytest.raises(WeightsError, match="no head and no momentum encoder.*checkpoints/iter_"):
        open_weights(str(tmp_path / "backbone.pth"), "cpu").method()


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no file .*run folder"):
        open_weights(str(tmp_path / "none.pth"))
    torch.save({"state_dict": {"module.encoder_q.conv1.weight": torch.zeros(1)}}, tmp_path / "moco.pth")
    with pytest.raises(WeightsError, match="MoCo.*no ResNet is in it"):
        open_weights(str(tmp_path / "moco.pth"))
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        open_weights(str(tmp_path / "moco.pth"), "gpu")


@pytest.mark.parametrize("format", ["torchvision", "timm", "safetensors", "detectron2"])
def test_exports_to_other_programs_give_the_same_features(format: str, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / ("b.safetensors" if format in ("timm", "safetensors") else "b.pth")
    export_backbone(run_folder, out, format)
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    own, other = open_weights(str(run_folder), "cpu"), open_weights(str(out), "cpu")
    torch.testing.assert_close(other.trunk().features(images), own.trunk().features(images))
    assert other.kind == "backbone" and other.cfg is not None and other.meta["method"] == own.meta["method"]


def test_a_checkpoint_of_other_code_serves_what_needs_its_trunk(classes: Path, tmp_path: Path) -> None:
    net = resnet18(num_classes=4).eval()
    state = {f"module.encoder_q.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": {**state, "module.queue": torch.zeros(4, 8)}}, tmp_path / "moco.pth.tar")
    weights = open_weights(f"MoCo={tmp_path / 'moco.pth.tar'}", "cpu")
    assert weights.label == "MoCo" and weights.kind == "backbone" and weights.input_size() == 224
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    net.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = net((images / 255 - mean) / std)
    torch.testing.assert_close(weights.trunk().features(images), expected, rtol=1e-4, atol=1e-4)
    options = load_options(None, ["SIZE", 32, "KNN.K", 1])
    results = run_protocols(["knn"], [weights], EvalData(str(classes)), options, str(tmp_path / "out"))
    assert results[0].details["source"]["family"].startswith("MoCo")
    with pytest.raises(
        WeightsError, match="other code .MoCo v1/v2.*no head and no momentum encoder.*serves knn, linear"
    ):
        run_protocols(["grounding"], [weights], EvalData(str(classes)), options, str(tmp_path / "out"))


def test_stated_pixels_are_used_and_change_the_fingerprint(classes: Path, tmp_path: Path) -> None:
    torch.save(resnet18(num_classes=4).state_dict(), tmp_path / "x.pth")
    assumed = open_weights(str(tmp_path / "x.pth"), "cpu")
    rgb = {"pixel_mean": [1.0, 2.0, 3.0], "pixel_std": [1.0, 2.0, 4.0], "stride_in_1x1": False, "channel_order": "RGB"}
    stated = {}
    for order in ("RGB", "BGR"):
        (tmp_path / "x.pth.json").write_text(json.dumps({**rgb, "channel_order": order}))
        stated[order] = open_weights(str(tmp_path / "x.pth"), "cpu")
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    features = {order: w.trunk().features(image) for order, w in stated.items()}
    # What the network sees is the same: the picture in BGR order, prepared by the numbers in BGR order.
    turned = stated["RGB"].trunk().features(image.flip(1))
    torch.testing.assert_close(features["BGR"], turned, rtol=1e-4, atol=1e-4)
    options = load_options(None, [])
    opened = [assumed, *stated.values()]
    assert len({fingerprint("knn", "1", w, EvalData(str(classes)), options) for w in opened}) == 3


def test_random_weights_follow_the_seed_and_leave_the_global_generator(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(tiny_cfg.dump_yaml())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    a, b = (open_weights(f"base=random:{file}", "cpu") for _ in range(2))
    assert a.label == "base" and a.digest == b.digest
    drawn = {}
    for name, changes in {"seed": ["SEED", 1], "width": ["MODEL.RESNET.WIDTH", 12]}.items():
        cfg = tiny_cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(changes)
        (tmp_path / f"{name}.yaml").write_text(cfg.dump_yaml())
        drawn[name] = open_weights(f"random:{tmp_path / name}.yaml", "cpu").digest
    # Another seed and another network with the same seed are other weights: no head of one serves the other.
    assert len({a.digest, *drawn.values()}) == 3
    assert state_digest(a.method()) == state_digest(b.method())
    assert torch.equal(torch.rand(1), expected)


def test_labels_are_made_unique(run_folder: Path) -> None:
    opened = unique_labels([open_weights(str(run_folder), "cpu") for _ in range(3)])
    assert [w.label for w in opened] == ["tiny", "tiny (2)", "tiny (3)"]


def test_transform_is_the_proportion_of_256_to_224() -> None:
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, 28:36, 60:68] = 255  # the centre
    out = eval_transform(image, 56)
    assert out.shape == (3, 56, 56)
    # Shorter side 64 -> 64: nothing is resized, the central 56 x 56 are cut out.
    assert torch.equal(out, image[:, 4:60, 36:92])
    assert eval_transform(torch.zeros(3, 10, 300, dtype=torch.uint8), 224).shape == (3, 224, 224)


def test_features_are_cached_and_do_not_touch_the_trunk(run_folder: Path, classes: Path) -> None:
    weights = open_weights(str(run_folder), "cpu")
    train, _ = EvalData(str(classes)).labelled_splits()
    x, y = extract_split(weights, train, FeatureOptions(batch_size=4))
    assert x.shape == (6, 32) and y.tolist() == [0, 0, 0, 1, 1, 1]
    again, _ = extract_split(weights, train, FeatureOptions(batch_size=1))
    assert again is x
    weights.cache.clear()
    alone, _ = extract_split(weights, train, FeatureOptions(batch_size=1))
    torch.testing.assert_close(alone, x, rtol=1e-4, atol=1e-5)


def test_a_trunk_that_changes_is_caught(run_folder: Path, classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = open_weights(str(run_folder), "cpu")
    trunk = weights.trunk()
    trunk.backbone.train()  # moves the running statistics, as a probe in train mode would
    monkeypatch.setattr(weights, "trunk", lambda: trunk)
    train, _ = EvalData(str(classes)).labelled_splits()
    with pytest.raises(AssertionError, match="frozen trunk changed"):
        extract_split(weights, train, FeatureOptions())


def test_val_takes_the_class_numbers_of_train(classes: Path) -> None:
    for path in (classes / "val" / "ant").iterdir():
        path.unlink()
    (classes / "val" / "ant").rmdir()
    _, val = EvalData(str(classes)).labelled_splits()
    assert val.labels().tolist() == [1, 1, 1]  # "bee" is 1 in train, though it is val's only class
    (classes / "val" / "bee").rename(classes / "val" / "wasp")
    with pytest.raises(DataError, match="wasp"):
        EvalData(str(classes)).labelled_splits()


def test_limit_keeps_every_class(classes: Path) -> None:
    train, _ = EvalData(str(classes), limit=2).labelled_splits()
    assert train.labels().tolist() == [0, 1]


def test_data_words(classes: Path, tmp_path: Path) -> None:
    assert split_specs("scenes:a:train,scenes:a:val") == ("scenes:a:train", "scenes:a:val")
    assert split_specs(f"folder:{classes}") == (f"class_folder:{classes}/train", f"class_folder:{classes}/val")
    with pytest.raises(DataError, match="train/ and val/"):
        split_specs(str(tmp_path))
    with pytest.raises(DataError, match="no class labels"):
        EvalData(f"folder:{classes}/train,folder:{classes}/val").labelled_splits()
