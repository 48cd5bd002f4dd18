"""The tools from their command lines, on drawn data."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation import draw_photos, save_run, tiny_config
from PIL import Image

from ssl_loc.evaluation.maps import density
from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.utils.errors import ConfigError, DataError, WeightsError
from ssl_loc.utils.file_io import write_json
from ssl_loc.visualization import model_pictures
from ssl_loc.visualization.labels import labelled_results

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PNG = b"\x89PNG"


@pytest.fixture
def visualize(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("visualize")

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, words)])
        tool.main()

    return run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run on drawn photos, with its config, curves and environment."""
    images, masks = draw_photos(tmp_path)
    write_manifest(masks, estimator="drawn", uses_labels=True)
    cfg = tiny_config()
    cfg.merge_from_dict(
        {
            "DATA": {"TRAIN": f"folder:{images}", "MASKS": {"SOURCE": "folder", "ROOT": str(masks)}},
            "AUGMENT": {"VIEWS": [["SaliencyConstrainedCrop", "RandomFlip"]] * 2},
            "LOSS": {"NAMES": ["InfoNCE", "GradCAMAttention"], "GRAD_CAM_ATTENTION": {"WEIGHT": 3.0}},
        }
    )
    folder = save_run(tmp_path / "runs" / "cast", cfg)
    rows = [{"iteration": i, "loss/InfoNCE": 3.0, "chance_loss": 2.8, "lr": 0.1} for i in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "env.txt").write_text("torch 9.9.9\n")
    return folder


def grounding_json(folder: Path, label: str) -> Path:
    iou = np.array([0.1, 0.3, 0.5])
    x, y = density(iou)
    details = {
        "label": label,
        "data": "folder:photos",
        "images": 3,
        "density": {"x": x, "y": y},
        "published": {"iou_mean": {"value": 0.41, "source": "a paper"}},
    }
    metrics = {"iou_mean": 0.3, "zero_cam_rate": 0.0}
    value = {"protocol": "grounding", "version": "1", "metrics": metrics, "digest": "d", "weights": "w"}
    write_json(folder / "results" / f"{label}.json", {**value, "details": details})
    return folder


def test_views_cams_curves_density(visualize, run_folder: Path, tmp_path: Path) -> None:
    out, photos, masks = tmp_path / "out", f"folder:{tmp_path / 'images'}", f"folder:{tmp_path / 'masks'}"
    visualize("views", "--config-file", run_folder / "config.yaml", "--out", out, "--count", 2, "SEED", "1")
    visualize("cams", "--weights", f"A={run_folder}", f"random:{run_folder / 'config.yaml'}", "--data", photos,
              "--masks", masks, "--out", out, "--count", 2, "--set", "DEVICE", "cpu")  # fmt: skip
    visualize("curves", "--run", run_folder, "--out", out)
    visualize("density", "--results", grounding_json(tmp_path / "eval", "CAST"), "--out", out)
    assert sorted(p.name for p in out.iterdir()) == ["cams.png", "curves.png", "density.png", "views.png"]
    for path in out.iterdir():
        assert path.read_bytes()[:4] == PNG
        with Image.open(path) as image:
            assert image.width > 300 and len(image.convert("L").getcolors(256) or []) > 20  # something is drawn


def test_report_has_every_part(visualize, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    visualize("report", "--run", run_folder, "--results", grounding_json(tmp_path / "eval", "CAST"),
              "--data", f"folder:{tmp_path / 'images'}", "--masks", f"folder:{tmp_path / 'masks'}", "--count", 2,
              "--out", out, "--set", "DEVICE", "cpu")  # fmt: skip
    text = out.read_text()
    assert "grounding v1 on photos" in text
    for part in ("Numbers", "Settings", "Training curves", "What the network sees", "Where the models look", "density"):
        assert part in text
    assert "mean IoU, published" in text and "0.410" in text and "a paper" in text
    assert "1 x InfoNCE, 3 x GradCAMAttention" in text
    assert "torch 9.9.9" in text
    assert text.count("<img") == 7  # curves, views, density, the cams and the neighbours of two photos
    # These photos have no classes.
    gone = text.split("Not in this report</h2>")[1]
    assert "Class Grad-CAM: " in gone and "Input gradients: " in gone and "Numbers of the protocols" in gone


def test_report_of_an_evaluation_alone(visualize, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    visualize("report", "--results", grounding_json(tmp_path / "eval", "CAST"), "--out", out)
    text = out.read_text()
    assert "<h1>Evaluation: CAST</h1>" in text and "0.300" in text and text.count("<img") == 1
    assert "add --run" in text.split("Not in this report</h2>")[1]
    with pytest.raises(ConfigError, match="nothing to report on"):
        visualize("report", "--out", out)


def test_report_of_a_run_without_checkpoint(visualize, run_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_folder / "checkpoints")
    out, photos = tmp_path / "report.html", f"folder:{tmp_path / 'images'}"
    visualize("report", run_folder, "--data", photos, "--count", 1, "--out", out)
    assert "Pictures of the models: folder" in out.read_text() and "Training curves</h2>" in out.read_text()
    with pytest.raises(WeightsError, match="holds no run"):
        visualize("report", run_folder, "--weights", run_folder, "--data", photos, "--out", out)


def test_one_name_for_one_model(visualize, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The label of a run is its name in the settings, the curves, the caption of the views and over the Grad-CAMs."""
    drawn: list[list[str]] = []
    compute = model_pictures.cams_section
    monkeypatch.setattr(
        model_pictures, "cams_section", lambda w, *rest: (drawn.append([x.label for x in w]), compute(w, *rest))[1]
    )
    out = tmp_path / "report.html"
    visualize("report", "--run", f"My CAST={run_folder}", "--data", f"folder:{tmp_path / 'images'}", "--masks",
              f"folder:{tmp_path / 'masks'}", "--count", 1, "--out", out, "--set", "DEVICE", "cpu")  # fmt: skip
    text = out.read_text()
    for part in ("<th>My CAST</th>", "My CAST: whole config", "My CAST, first epoch", "<h1>Pretraining: My CAST</h1>"):
        assert part.replace("<th>", ">").replace("</th>", "<") in text
    assert drawn == [["My CAST"]]
    (one, two) = (grounding_json(tmp_path / name, name) for name in ("one", "two"))
    grounding_json(one, "other")
    assert [r["details"]["label"] for r in labelled_results([f"B={two}", str(one)])] == ["B", "one", "other"]
    with pytest.raises(ConfigError, match="one, other"):
        labelled_results([f"B={one}"])


def test_report_of_a_run_whose_data_is_gone(visualize, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    visualize("report", "--run", run_folder, "--out", tmp_path / "report.html")
    assert "training data is not here" in (tmp_path / "report.html").read_text()


def test_what_cannot_be_drawn_is_said(visualize, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.html"):
        visualize("report", "--run", run_folder, "--out", tmp_path / "folder")
    with pytest.raises(ConfigError, match="--results"):
        visualize("density", "--out", tmp_path)
    with pytest.raises(DataError, match="no predictions"):
        visualize("detections", "--results", grounding_json(tmp_path / "eval", "CAST"), "--out", tmp_path)
    with pytest.raises(DataError, match="no metrics.jsonl"):
        visualize("curves", "--run", tmp_path, "--out", tmp_path)
    with pytest.raises(ConfigError, match="--panels 'nothing' stands in no title.*Contrastive loss; "):
        visualize("curves", "--run", run_folder, "--out", tmp_path, "--panels", "rate", "nothing")


def test_list_components_names_everything(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("list_components")
    monkeypatch.setattr(sys, "argv", ["list_components.py"])
    tool.main()
    text = capsys.readouterr().out
    for name in ("MoCo", "InfoNCE", "GradCAMAttention", "SaliencyConstrainedCrop", "ResNet", "SGD", "grounding", "knn"):
        assert f"\n{name} " in text
    assert "ssl_loc/modeling/method/moco.py" in text and "coco:" in text and "torchvision" in text
    monkeypatch.setattr(sys, "argv", ["list_components.py", "METHODS"])
    with pytest.raises(ConfigError, match="did you mean METHOD"):
        tool.main()
