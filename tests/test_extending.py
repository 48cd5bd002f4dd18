"""docs/extending.md: every example is extracted and does what its section says.

The parts register for good, so they are run in a process of their own: this file, as a program.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "extending.md"
SECTION = re.compile(r"^## (.+)$", re.M)
BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```$", re.M | re.S)


def sections() -> dict[str, dict[str, str]]:
    """Heading -> language -> text of its block."""
    _, *parts = SECTION.split(DOC.read_text())
    return {title: dict(BLOCK.findall(text)) for title, text in zip(parts[0::2], parts[1::2], strict=True)}


def train(folder: Path, photos: Path, data: str = "") -> None:
    """Two steps of the section's yaml over a tiny base."""
    from ssl_loc.components import setup_cfg
    from ssl_loc.engine import train as run

    (folder / "run.yaml").write_text(f'IMPORTS: ["./part.py"]\n{sections()[folder.name].get("yaml", "")}')
    tiny = ["MODEL.RESNET.DEPTH", 18, "MODEL.RESNET.WIDTH", 8, "MODEL.RESNET.STEM", "small", "MODEL.NORM_GROUPS", 2]
    tiny += ["MODEL.MOCO.K", 8, "MODEL.MOCO.DIM", 8, "AUGMENT.SIZE", 32, "SOLVER.IMS_PER_BATCH", 4]
    tiny += ["SOLVER.MAX_ITER", 2, "DATA.NUM_WORKERS", 0, "ENGINE.LOG_PERIOD", 1, "OUTPUT_DIR", str(folder / "run")]
    run(setup_cfg(str(folder / "run.yaml"), [*tiny, "DATA.TRAIN", data or f"folder:{photos}", "DEVICE", "cpu"]))
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines), lines


def check_augmenter(folder: Path, photos: Path) -> None:
    """Where a view changed it is grey, in a square of the said side; off, nothing changes."""
    import torch

    from ssl_loc.data.augmenters.base import Context
    from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY
    from ssl_loc.data.rng import Streams
    from ssl_loc.structures import Sample, View

    train(folder, photos)
    image = torch.randint(0, 100, (3, 30, 40), dtype=torch.uint8)
    sample = Sample(image)
    view = View.whole(sample)
    made = AUGMENTER_REGISTRY.get("GreySquare")(1.0, 0.5)(view, Streams(0, 0, 0), Context(sample))
    changed = (made.image != view.image).any(0)
    assert changed.any() and bool((made.image[:, changed] == 128).all())
    side = int(0.5 * min(view.image.shape[1:]))
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert rows.max() - rows.min() < side and columns.max() - columns.min() < side


def check_loss(folder: Path, photos: Path) -> None:
    """Two queries at a right angle: log exp(-2 * 2) = -4."""
    import torch

    from ssl_loc.losses import LOSS_REGISTRY
    from ssl_loc.structures import MethodOutput, Pair

    train(folder, photos)
    pair = Pair(0, 1, torch.eye(2), torch.eye(2), 1.0, torch.eye(2), {})
    value, _ = LOSS_REGISTRY.get("Uniformity")()(None, MethodOutput([pair]), None)
    assert abs(float(value) + 4) < 1e-5


def check_dataset(folder: Path, photos: Path) -> None:
    from ssl_loc.components import setup_cfg
    from ssl_loc.data import get_dataset

    names = sorted(path.name for path in photos.iterdir())
    listing = photos.parent / "photos.txt"
    listing.write_text("".join(f"{photos.name}/{name} {i % 3}\n" for i, name in enumerate(names)))
    train(folder, photos, f"list:{listing}")
    assert setup_cfg(str(folder / "run.yaml")).DATA.TRAIN == "list:photos.txt"
    data = get_dataset(f"list:{listing}")
    assert [r.label for r in data.records] == [i % 3 for i in range(len(names))]
    assert data.metadata["classes"] == ["0", "1", "2"]
    assert data.records[0].key == f"{photos.name}/{Path(names[0]).stem}"


def check_estimator(folder: Path, photos: Path) -> None:
    """Through the tool, by file and by module name; values of two flat colours by hand."""
    for options in (["--imports", "part.py", "--workers", "0"], ["--imports", "part", "--workers", "1"]):
        maps = folder / options[-1]
        command = [sys.executable, str(ROOT / "tools" / "make_saliency.py"), str(photos), "--method", "border_contrast"]
        done = subprocess.run([*command, *options, "--out", str(maps)], cwd=folder, env={**ENV, "PYTHONPATH": "."})
        assert done.returncode == 0
        picture = np.full((9, 9, 3), 20, np.uint8)
        grey = cv2.imread(str(maps / "0.png"), cv2.IMREAD_GRAYSCALE)
        assert grey is not None and grey[12, 12] == 255 and grey[0, 0] == 0
    from ssl_loc.saliency.build import build_estimator

    picture[4, 4] = 50
    assert build_estimator("border_contrast")(picture)[4, 4] == 1.0
    assert not build_estimator("border_contrast")(np.full((9, 9, 3), 7, np.uint8)).any()


def check_evaluator(folder: Path, photos: Path) -> None:
    """Through the tool on random weights; between 0 and 100."""
    for part in ("train", "val"):
        for i, path in enumerate(sorted(photos.iterdir())):
            target = folder / "classes" / part / f"c{i % 2}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (folder / "tiny.yaml").write_text("MODEL: {RESNET: {DEPTH: 18, WIDTH: 8, STEM: small}}\nAUGMENT: {SIZE: 32}\n")
    command = [
        sys.executable,
        str(ROOT / "tools" / "evaluate.py"),
        "--protocol",
        "class_spread",
        "--imports",
        "part.py",
    ]
    options = ["--weights", "random:tiny.yaml", "--data", "classes", "--out", "eval", "--set", "DEVICE", "cpu"]
    assert subprocess.run([*command, *options], cwd=folder).returncode == 0
    (result,) = (json.loads(p.read_text()) for p in (folder / "eval" / "results").glob("*.json"))
    assert 0 < result["metrics"]["between"] < 100


CHECKS: dict[str, Callable[[Path, Path], None]] = {
    "A backbone": train,
    "A head": train,
    "An augmenter": check_augmenter,
    "A loss": check_loss,
    "A method": train,
    "A dataset": check_dataset,
    "A saliency estimator": check_estimator,
    "An evaluator": check_evaluator,
}
ENV: dict[str, str] = {}


def run_all(work: Path) -> None:
    """Run every section below ``work`` and write what went wrong, by title."""
    import os

    import torch

    from ssl_loc.config.node import import_part

    torch.set_num_threads(1)
    ENV.update(os.environ)
    photos = work / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = np.full((24, 28, 3), 20, np.uint8)
        picture[8:16, 8:18] = rng.integers(60, 255, 3)
        cv2.imwrite(str(photos / f"{i}.png"), picture)
    problems = {}
    for title, check in CHECKS.items():
        folder = work / title
        folder.mkdir()
        (folder / "part.py").write_text(sections()[title]["python"])
        try:
            import_part("part.py", folder, "the test")
            check(folder, photos)
        except Exception:  # noqa: BLE001  (every section is to be told)
            problems[title] = traceback.format_exc()
    (work / "problems.json").write_text(json.dumps(problems))


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    work = tmp_path_factory.mktemp("extending")
    done = subprocess.run([sys.executable, __file__, str(work)], cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "problems.json").read_text())


def test_every_section_has_a_check() -> None:
    assert list(sections()) == list(CHECKS)
    assert all(8 <= text["python"].count("\n") <= 60 for text in sections().values())


@pytest.mark.parametrize("title", CHECKS)
def test_example_runs(title: str, problems: dict[str, str]) -> None:
    assert problems.get(title, "") == ""


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
