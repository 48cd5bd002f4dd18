"""Linear SVMs against scikit-learn and by hand; labels of VOC from class files and from xml."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from ssl_loc.data.datasets.voc import VOC_CLASSES
from ssl_loc.data.datasets.voc_labels import load_voc_labels
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.multi_label import multi_label_splits
from ssl_loc.evaluation.svm import LinearSVM, class_priors
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import read_json

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def features(n: int, seed: int, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows and labels in which the first feature says something."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    y = np.where(x[:, 0] + rng.normal(size=n) > 0.6, 1, -1).astype(np.int8)
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def test_cost_and_ap_are_those_of_scikit_learn() -> None:
    x, y = features(90, 0)
    xt, yt = features(60, 1)
    svm = LinearSVM()
    run = svm.train_class(x, y, xt, yt)

    def model(cost: float) -> LinearSVC:
        return LinearSVC(
            C=cost, class_weight={1: 2, -1: 1}, max_iter=2000, dual=True, loss="squared_hinge", random_state=0
        )

    scores = {c: cross_val_score(model(c), x, y, cv=3, scoring="average_precision").mean() for c in svm.costs}
    best = max(scores, key=lambda c: scores[c])
    expected = average_precision_score(yt, model(best).fit(x, y).decision_function(xt))
    assert run.cost == best
    assert run.ap == pytest.approx(expected, abs=1e-12)
    assert (run.fits, run.folds, run.not_converged) == (13, 3, 0)


def test_difficult_photos_are_negatives_in_training_and_do_not_count_in_the_test() -> None:
    x, y = features(60, 0)
    xt, yt = features(40, 1)
    y[:10], yt[:15] = 0, 0
    negative = LinearSVM().train_class(x, y, xt, yt)
    assert negative == LinearSVM().train_class(x, np.where(y == 0, -1, y), xt[15:], yt[15:])
    ignored = LinearSVM(difficult="ignore").train_class(x, y, xt, yt)
    assert ignored == LinearSVM().train_class(x[10:], y[10:], xt[15:], yt[15:])
    assert ignored.ap != negative.ap


def test_few_positives_mean_fewer_folds_and_none_mean_no_number() -> None:
    x, y = features(40, 0)
    xt, yt = features(30, 1)
    for positives, folds, fits in ((2, 2, 9), (1, 1, 1)):
        some = np.full_like(y, -1)
        some[[3, 20][:positives]] = 1
        run = LinearSVM().train_class(x, some, xt, yt)
        assert (run.folds, run.fits) == (folds, fits) and run.ap is not None and run.cost in (0.01, 0.1, 1.0, 10.0)
    nothing = LinearSVM().train_class(x, np.full_like(y, -1), xt, yt)
    assert nothing.ap is None and "all positive or all negative" in nothing.skipped
    untested = LinearSVM().train_class(x, y, xt, np.minimum(yt, 0))
    assert untested.ap is None and untested.skipped == "no positive test photo"


def test_a_class_whose_every_cost_scores_zero_still_has_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # A choice that began at 0 and took only better ones would leave this class without a cost.
    monkeypatch.setattr("sklearn.metrics.average_precision_score", lambda *_: 0.0)
    x, y = features(30, 0)
    assert LinearSVM().choose_cost(x, y, 3)[0] == 0.01


def test_fits_that_stop_early_are_counted() -> None:
    x, y = features(60, 0)
    run = LinearSVM(max_iter=1).train_class(x, y, *features(40, 1))
    assert run.not_converged == run.fits == 13


def test_random_features_give_the_class_prior() -> None:
    rng = np.random.default_rng(0)
    x, xt = (rng.normal(size=(600, 8)).astype(np.float32) for _ in range(2))
    y, yt = (np.where(rng.random((600, 6)) < 0.3, 1, -1).astype(np.int8) for _ in range(2))
    runs = LinearSVM(jobs=1).train_classes(x, y, xt, yt)
    prior = class_priors(yt)
    assert prior == pytest.approx([(yt[:, c] == 1).mean() for c in range(6)])
    assert float(np.mean([run.ap for run in runs])) == pytest.approx(float(np.mean(prior)), abs=0.03)


def write_voc(root: Path) -> None:
    """Two splits of coloured photos: cats are red, dogs green; photo 2 of a split has a difficult dog only."""
    voc = root / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for s, split in enumerate(("trainval", "test")):
        ids = []
        for i in range(9):
            name = f"{s}{i:05d}"
            ids.append(name)
            objects = [("cat", 0)] * (i % 3 == 0) + [("dog", 0)] * (i % 3 == 1) + [("dog", 1)] * (i == 2)
            pixels = rng.integers(0, 60, (40, 50, 3), dtype=np.uint8)
            pixels[..., i % 3] += 150
            Image.fromarray(pixels).save(voc / "JPEGImages" / f"{name}.jpg")
            nodes = "".join(
                f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
                "<ymax>9</ymax></bndbox></object>"
                for n, d in objects
            )
            size = "<size><width>50</width><height>40</height><depth>3</depth></size>"
            (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{nodes}</annotation>")
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(reversed(ids)))


EXPECTED = {"cat": [1, -1, -1, 1, -1, -1, 1, -1, -1], "dog": [-1, 1, 0, -1, 1, -1, -1, 1, -1]}


def test_labels_from_xml_and_from_class_files_agree(tmp_path: Path) -> None:
    write_voc(tmp_path)
    voc = tmp_path / "VOC2007"
    from_xml = load_voc_labels(voc, "test")
    assert from_xml.shape == (9, 20) and (from_xml[:, VOC_CLASSES.index("bus")] == -1).all()
    assert {name: from_xml[:, VOC_CLASSES.index(name)].tolist() for name in EXPECTED} == EXPECTED
    main = voc / "ImageSets" / "Main"
    (main / "cat_test.txt").write_text("100000  1\n")
    with pytest.raises(DataError, match=r"lacks aeroplane_test.txt.*19 of 20 class files"):
        load_voc_labels(voc, "test")
    for name in VOC_CLASSES:
        labels = EXPECTED.get(name, [-1] * 9)
        (main / f"{name}_test.txt").write_text("\n".join(f"1{i:05d} {v:2d}" for i, v in enumerate(labels)))
    assert (load_voc_labels(voc, "test") == from_xml).all()
    (main / "dog_test.txt").write_text("100000 2\n")
    with pytest.raises(DataError, match="the line '100000 2'; expected"):
        load_voc_labels(voc, "test")
    (main / "dog_test.txt").write_text("100000 1\n")
    with pytest.raises(DataError, match=r"no label for 100001.*\(8 images"):
        load_voc_labels(voc, "test")


def test_from_the_command_line(tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    write_voc(tmp_path)
    monkeypatch.syspath_prepend(str(TOOLS))
    words = ["--protocol", "svm", "--weights", str(run_folder), "--data", f"voc:{tmp_path}:2007"]
    words += ["--out", str(tmp_path / "out"), "--set", "DEVICE", "cpu"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    import evaluate

    evaluate.main()
    result = read_json(next((tmp_path / "out" / "results").glob("svm_*.json")))
    details = result["details"]
    assert (details["classes"], details["classes_scored"], details["train_images"]) == (20, 2, 9)
    assert result["metrics"]["mAP"] == pytest.approx(np.mean([details["per_class"][n]["AP"] for n in EXPECTED]))
    # A difficult dog is neither a positive nor counted: 3 of 8.
    assert details["per_class"]["dog"]["prior"] == pytest.approx(100 * 3 / 8)
    assert details["chance"] == pytest.approx(100 * (3 / 9 + 3 / 8) / 2)
    assert "18 of 20 classes have no AP: aeroplane" in caplog.text


def test_data_and_options_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="voc:DEVKIT:2007"):
        multi_label_splits(EvalData("voc_2007_test"))
    with pytest.raises(ConfigError, match="SVM.COSTS"):
        LinearSVM(costs=[])
    with pytest.raises(ConfigError, match="SVM.DIFFICULT"):
        LinearSVM(difficult="drop")
    write_voc(tmp_path)
    for part in (multi_label_splits(EvalData(str(tmp_path))), multi_label_splits(EvalData(f"voc:{tmp_path}:2007"))):
        assert [split.name for split in part] == [f"voc:{tmp_path}:2007:trainval", f"voc:{tmp_path}:2007:test"]


def test_one_class_per_image_counts_as_present_and_absent(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / split / name / "0.png")
    train, _ = multi_label_splits(EvalData(str(tmp_path)))
    assert train.labels.tolist() == [[1, -1], [-1, 1]]
