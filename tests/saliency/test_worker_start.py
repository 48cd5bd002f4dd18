"""What happens before a process makes its first map: compilation in one place, one thread each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.saliency_estimators import ANSWER, draw_images

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.image_io import read_image, read_size
from ssl_loc.saliency.build import Estimator
from ssl_loc.saliency.runner import RunOptions, items_of, run_estimator


class Diary(Estimator):
    """Writes down which process calls it with a picture of which height."""

    name = "diary"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def estimate(self, image: np.ndarray) -> np.ndarray:
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {image.shape[0]}\n")
        return np.zeros(image.shape[:2], dtype=np.float32)


class Unfit(Estimator):
    """Cannot work at all."""

    name = "unfit"

    def estimate(self, image: np.ndarray) -> np.ndarray:
        raise OSError(f"no weights in process {os.getpid()}")


def run(estimator: Estimator, tmp_path: Path, processes: int) -> None:
    images = draw_images(tmp_path / "images", [ANSWER] * 3)
    items = items_of(get_dataset(f"folder:{images}").records)
    options = RunOptions(processes=processes, progress=False)
    run_estimator(estimator, items, str(tmp_path / "maps"), read=read_image, read_size=read_size, options=options)


def test_the_first_call_is_made_here_before_any_process_starts(tmp_path: Path) -> None:
    run(Diary(tmp_path / "diary"), tmp_path, processes=2)
    calls = [tuple(map(int, line.split())) for line in (tmp_path / "diary").read_text().splitlines()]
    here = os.getpid()
    assert calls[0] == (here, 48)
    assert all(pid != here for pid, _ in calls[1:])
    assert sorted(height for _, height in calls if height != 48) == [20, 21, 22]


def test_an_estimator_that_cannot_work_says_so_here(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"no weights in process {os.getpid()}$"):
        run(Unfit(), tmp_path, processes=2)


PROGRAM = """
import sys
import numpy as np
from ssl_loc.saliency.build import Estimator
from ssl_loc.saliency.runner import MapWorker

class Late(Estimator):
    def estimate(self, image):
        import torch
        torch.set_num_threads(3)  # as it does by itself on a machine of three
        return np.zeros(image.shape[:2])

assert "torch" not in sys.modules
worker = MapWorker(Late(), "", None)
worker.prepare()
print(sys.modules["torch"].get_num_threads())
"""


def test_libraries_that_the_estimator_imports_get_one_thread_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
