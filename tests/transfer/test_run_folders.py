"""Nothing of another run is overwritten, no number stands beside another trunk's name, no class under another's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.detection_recipe import tiny_recipe
from helpers.detection_results import noisy_predictions

from ssl_loc.checkpoint.files import BACKBONE_FORMAT, BACKBONE_VERSION, write_torch_file
from ssl_loc.structures.result import Result
from ssl_loc.transfer.build import DETECTION_ENGINE_REGISTRY, TransferJob
from ssl_loc.transfer.class_names import check_detector_classes, require_equal_classes
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.detector_file import DetectorFile, read_detector
from ssl_loc.transfer.output_folder import check_folder
from ssl_loc.transfer.predictions import ImagePrediction
from ssl_loc.transfer.recipe import edited
from ssl_loc.transfer.run import random_trunk, run_transfer
from ssl_loc.transfer.torchvision_engine.checkpoint import save_detector
from ssl_loc.utils.errors import ConfigError, WeightsError


class Saving:
    """Writes a checkpoint and predicts something instead of training."""

    name = "saving"
    jobs: list[TransferJob] = []

    def available(self) -> tuple[bool, str]:
        return True, ""

    def version(self) -> str:
        return "1"

    def run(self, job: TransferJob) -> dict[str, list[ImagePrediction]]:
        self.jobs.append(job)
        if job.trunk:
            about = {"recipe": job.recipe.to_dict(), "trunk": {"digest": job.trunk.digest}}
            save_detector(job.output_dir, "model_final.pth", {"model": {}, **about})
        names = job.recipe.DATASETS.TEST
        return {name: noisy_predictions(get_detection_dataset(name), 0, 2.0, False) for name in names}


Go = Callable[..., Result | None]


@pytest.fixture
def go(names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Go]:
    monkeypatch.setattr(Saving, "jobs", [])

    def run(weights: str = "random", *overrides: object, **options: bool) -> Result | None:
        recipe = tiny_recipe("FPN", names, tmp_path / "out", *overrides)
        return run_transfer(recipe, weights, "saving", **options)

    with DETECTION_ENGINE_REGISTRY.temporarily("saving", Saving):
        yield run


@pytest.fixture
def backbone(names: dict[str, str], tmp_path: Path) -> str:
    """Another trunk of the same shape."""
    trunk = random_trunk(edited(tiny_recipe("FPN", names, tmp_path), {"SEED": 99}))
    meta = {**trunk.meta, "digest": trunk.digest}
    content = {"format": BACKBONE_FORMAT, "version": BACKBONE_VERSION, "model": trunk.state, "meta": meta}
    write_torch_file(tmp_path / "backbone.pth", content)
    return str(tmp_path / "backbone.pth")


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_not_begun_again(go: Go, tmp_path: Path) -> None:
    go()
    before = files(tmp_path / "out")
    with pytest.raises(ConfigError, match="already holds a run .a finished one, result.json.; continue it with --res"):
        go()
    assert files(tmp_path / "out") == before
    assert go(resume=True) is not None


@pytest.mark.parametrize("file", ["last_checkpoint", "metrics.jsonl"])
def test_a_begun_run_is_not_begun_again(go: Go, tmp_path: Path, file: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file).write_text("model_0000001.pth\n")
    with pytest.raises(
        ConfigError, match=f"already holds a run .begun, .*{'checkpoint model_0000001' if '_' in file else file}"
    ):
        go()
    assert not Saving.jobs


def test_resume_with_another_trunk_is_refused(go: Go, backbone: str, tmp_path: Path) -> None:
    first = go()
    assert first is not None
    before = files(tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"began with trunk {first.digest}, and --weights gives trunk \w+; give the"):
        go(backbone, resume=True)
    assert files(tmp_path / "out") == before and len(Saving.jobs) == 1


def test_resume_of_a_result_without_a_checkpoint(go: Go, tmp_path: Path) -> None:
    go()
    (tmp_path / "out" / "last_checkpoint").unlink()
    with pytest.raises(ConfigError, match="holds a result .* and no checkpoint to continue"):
        go(resume=True)


def test_an_evaluation_leaves_a_training_alone(go: Go, tmp_path: Path) -> None:
    go()
    detector, before = str(tmp_path / "out" / "model_final.pth"), files(tmp_path / "out")
    with pytest.raises(ConfigError, match="holds a fine-tuning .*; give the evaluation a folder of its own"):
        go(detector, eval_only=True)
    assert files(tmp_path / "out") == before
    elsewhere = ("OUTPUT_DIR", str(tmp_path / "evaluation"))
    for _ in range(2):  # an evaluation may replace an evaluation
        assert go(detector, *elsewhere, eval_only=True) is not None
    with pytest.raises(ConfigError, match="already holds a run .an evaluation"):
        go("random", *elsewhere)


@pytest.mark.parametrize("weights", ["", " "])
def test_empty_weights_are_not_random_ones(go: Go, weights: str) -> None:
    with pytest.raises(WeightsError, match="--weights is empty .*--weights random"):
        go(weights)


def test_none_is_a_file(go: Go) -> None:
    with pytest.raises(WeightsError, match="no weight file none"):
        go("none")


def test_a_test_set_twice(go: Go, names: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="DATASETS.TEST names voc:.* more than once"):
        go("random", "DATASETS.TEST", (names["voc_test"], names["voc_test"]))


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for folder, words in ((tmp_path / "file" / "x", "is a file"), ("/proc/x", "/proc cannot be written into")):
        with pytest.raises(ConfigError, match=words):
            check_folder(folder)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["a", "b", "c"], ["a", "c", "b"], "class 2 is 'b' there and 'c' here .3 and 3 classes"),
        (["a", "b"], ["a"], "class 2 is 'b' there and nothing here .2 and 1"),
        (["Dog"], ["dog"], "class 1 is 'Dog' there and 'dog' here"),
    ],
)
def test_the_first_class_that_differs_is_named(first: list[str], second: list[str], words: str) -> None:
    require_equal_classes(first, "A", list(first), "B")
    with pytest.raises(ConfigError, match=words):
        require_equal_classes(first, "A", second, "B")


def test_a_detector_without_names_is_taken_at_its_word_aloud(caplog: pytest.LogCaptureFixture) -> None:
    file = DetectorFile(Path("d2.pth"), "detectron2", {})
    check_detector_classes(file, ["box", "disc"])
    text = caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.WARNING and len(caplog.records) == 1
    assert "d2.pth does not name its classes" in text and "box, disc" in text


def swapped(names: dict[str, str], tmp_path: Path) -> str:
    """The VOC test set of ``names`` with its classes in the other order."""
    import shutil

    _, devkit, year, split = names["voc_test"].split(":")
    shutil.copytree(devkit, tmp_path / "VOCdevkit")
    path = tmp_path / "VOCdevkit" / f"VOC{year}" / "classes.txt"
    path.write_text("\n".join(reversed(get_detection_dataset(names["voc_test"]).classes)) + "\n")
    return f"voc:{tmp_path / 'VOCdevkit'}:{year}:{split}"


ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_in_another_order(names: dict[str, str], tmp_path: Path, engine: str) -> None:
    if engine == "detectron2":
        pytest.importorskip("detectron2")
    other = swapped(names, tmp_path)
    keys = ("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()")
    recipe = tiny_recipe("FPN", names, tmp_path / "out", *keys)
    with pytest.raises(
        ConfigError, match=r"and DATASETS.TEST do not have the same .* class 1 is 'box' there and 'disc'"
    ):
        run_transfer(edited(recipe, {"DATASETS.TEST": (other,), "OUTPUT_DIR": str(tmp_path / "a")}), "random", engine)
    run_transfer(recipe, "random", engine)
    detector = tmp_path / "out" / "model_final.pth"
    assert read_detector(detector).about["classes"] == ["box", "disc"]
    evaluation = edited(recipe, {"DATASETS.TEST": (other,), "OUTPUT_DIR": str(tmp_path / "b")})
    with pytest.raises(ConfigError, match=r"model_final.pth and DATASETS.TEST do not .* class 1 is 'box'"):
        run_transfer(evaluation, str(detector), engine, eval_only=True)
    both = edited(evaluation, {"DATASETS.TEST": (names["voc_test"], other)})
    with pytest.raises(ConfigError, match=r"voc:\S+ and voc:\S+ do not have the same"):
        run_transfer(both, str(detector), engine, eval_only=True)


def test_home_is_the_home(monkeypatch: pytest.MonkeyPatch, names: dict[str, str], tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tiny_recipe("FPN", names, "~/x").OUTPUT_DIR == f"{tmp_path}/x"
    assert tiny_recipe("FPN", names, "a~b").OUTPUT_DIR == "a~b"


def test_wrong_sizes_are_not_said_to_be_allowable(go: Go, backbone: str) -> None:
    """The torchvision engine has no detector with them, allowed or not."""
    with pytest.raises(ConfigError, match=r"RES2_OUT_CHANNELS is 16 .* Correct the key.s.$"):
        go(backbone, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16)
    with pytest.raises(ConfigError, match=r"RES2_OUT_CHANNELS is 16 .*ALLOW_NONSTANDARD"):
        go(backbone, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]")


def test_steps_that_are_never_reached(go: Go, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    go("random", "SOLVER.STEPS", "(1, 2)", "OUTPUT_DIR", str(tmp_path / "whole"))
    assert "SOLVER.STEPS" not in caplog.text
    go("random", "SOLVER.STEPS", "(2, 3)")
    assert "ends at SOLVER.MAX_ITER 3 before it comes to 3, so the learning rate drops 1 time(s) only" in caplog.text
