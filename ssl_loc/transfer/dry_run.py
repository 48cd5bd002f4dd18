"""Everything of a fine-tuning but its steps: recipe, weights and data looked at, all problems in one list."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ssl_loc.transfer.build import DetectionEngine, TransferJob, Trunk, choose_engine
from ssl_loc.transfer.datasets import DetectionDataset, get_detection_dataset, join
from ssl_loc.transfer.dry_run_numbers import planned
from ssl_loc.transfer.layout import check_layout
from ssl_loc.transfer.recipe import Recipe, dataset_names, non_default_keys
from ssl_loc.transfer.run import RANDOM, RESULT_FILE, check_classes, random_trunk, read_trunk
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.transfer.trunk_check import check_trunk
from ssl_loc.transfer.weights import describe
from ssl_loc.utils.errors import UserError, WeightsError

T = TypeVar("T")
OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
# Loggers whose ordinary lines say what this machine or this number of processes makes of the recipe.
_TELLING = ("ssl_loc.transfer.detectron2_engine.config", "ssl_loc.transfer.scaling")


@dataclass(frozen=True)
class Line:
    """One finding: "ok", "note" or "PROBLEM", the part of the run, a sentence."""

    state: str
    part: str
    text: str


@dataclass
class DryRun:
    """What a dry run found.

    Attributes:
        lines: findings in the order in which a run would meet them.
        numbers: name -> value of what the run would do; empty where the data could not be counted.
    """

    lines: list[Line] = field(default_factory=list)
    numbers: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[Line]:
        return [line for line in self.lines if line.state == PROBLEM]

    def add(self, state: str, part: str, text: str) -> None:
        self.lines.append(Line(state, part, text))

    def __str__(self) -> str:
        width = max((len(line.part) for line in self.lines), default=0)
        text = [f"{line.state:<8}{line.part:<{width}}  {line.text}" for line in self.lines]
        if self.numbers:
            name = max(map(len, self.numbers))
            text += ["", *(f"  {key:<{name}}  {value}" for key, value in self.numbers.items())]
        count = len(self.problems)
        verdict = "nothing stands in the way" if not count else f"{count} problem{'s' * (count > 1)} to solve first"
        return "\n".join([*text, "", f"dry run, nothing was trained or written: {verdict}"])

    @contextmanager
    def step(self, part: str) -> Iterator[None]:
        """Errors for the user inside of the block become problems of ``part``, warnings become notes."""
        with _listening() as heard:
            try:
                yield
            except UserError as error:
                self.add(PROBLEM, part, str(error))
        for text in dict.fromkeys(heard):
            self.add(NOTE, part, text)

    def tried(self, part: str, function: Callable[[], T]) -> T | None:
        """The function's value, or None after a problem."""
        with self.step(part):
            return function()
        return None


def dry_run(
    recipe: Recipe, weights: str, engine: str | None = None, eval_only: bool = False, processes: int = 1
) -> DryRun:
    """Check what :func:`ssl_loc.transfer.run.run_transfer` would need, without training and without writing.

    Args:
        recipe, weights, engine, eval_only: as for ``run_transfer``.
        processes: for how many the run is planned.
    """
    report = DryRun()
    chosen = report.tried("engine", lambda: choose_engine(engine or recipe.TRANSFER.ENGINE))
    if chosen:
        report.add(OK, "engine", f"{chosen.name} {chosen.version()}")
    scaled = report.tried("recipe", lambda: scale_to_processes(recipe, processes)) or recipe
    keys_fit = _check_keys(report, scaled, chosen, processes)
    job = _check_weights(report, scaled, weights, eval_only)
    if chosen and job and keys_fit:
        loaded = report.tried("detector", lambda: chosen.rehearse(job))
        if loaded:
            report.add(OK, "detector", loaded)
    elif job:
        report.add(NOTE, "detector", "not built, because of the problems above")
    found = {name: _check_data(report, recipe, name) for name in _names(recipe, eval_only)}
    _check_output(report, recipe)
    _count(report, scaled, found, eval_only, processes)
    return report


def print_dry_run(recipe: Recipe, weights: str, engine: str | None, eval_only: bool, processes: int) -> int:
    """Print a dry run; exit status 1 if it found a problem.

    Args:
        processes: 0 for as many as torchrun started, else one.
    """
    # Only the first of torchrun's processes has something to say.
    if int(os.environ.get("RANK", 0)):
        return 0
    report = dry_run(recipe, weights, engine, eval_only, processes or int(os.environ.get("WORLD_SIZE", 1)))
    print(report)
    return 1 if report.problems else 0


def _names(recipe: Recipe, eval_only: bool) -> list[str]:
    train = [] if eval_only else dataset_names(recipe.DATASETS.TRAIN)
    return list(dict.fromkeys([*train, *dataset_names(recipe.DATASETS.TEST)]))


def _check_keys(report: DryRun, recipe: Recipe, engine: DetectionEngine | None, processes: int) -> bool:
    before = len(report.problems)
    for text in engine.problems(recipe) if engine else []:
        report.add(PROBLEM, "recipe", text)
    if recipe.SOLVER.IMS_PER_BATCH % processes:
        report.add(
            PROBLEM,
            "recipe",
            f"SOLVER.IMS_PER_BATCH is {recipe.SOLVER.IMS_PER_BATCH}, which {processes} processes cannot share equally",
        )
    for key in ("TRAIN", "TEST"):
        if not dataset_names(recipe.DATASETS[key]):
            report.add(PROBLEM, "recipe", f"DATASETS.{key} is empty; expected at least one dataset")
    fits = len(report.problems) == before
    if fits and engine:
        changed = len(non_default_keys(recipe))
        report.add(OK, "recipe", f"{changed} keys differ from the defaults, {engine.name} honours all of them")
    return fits


def _check_weights(report: DryRun, recipe: Recipe, weights: str, eval_only: bool) -> TransferJob | None:
    """The job that the weights make, or None if they cannot be read."""
    output_dir = Path(recipe.OUTPUT_DIR)
    if eval_only:
        if not Path(weights).is_file():
            error = WeightsError(
                f"no detector checkpoint {weights}; --eval-only expects the model_final.pth that a fine-tuning wrote "
                "to its OUTPUT_DIR"
            )
            report.add(PROBLEM, "weights", str(error))
            return None
        return TransferJob(recipe, output_dir, detector=Path(weights))
    trunk = report.tried("weights", lambda: _trunk(recipe, weights))
    if trunk is None:
        return None
    before = len(report.problems)
    with report.step("weights"):
        check_trunk(recipe, trunk.meta, random=trunk.source == RANDOM)
    if len(report.problems) == before:
        about = (
            "random" if trunk.source == RANDOM else f"{trunk.source} (digest {trunk.digest}): {describe(trunk.meta)}"
        )
        report.add(OK, "weights", about)
    return TransferJob(recipe, output_dir, trunk=trunk)


def _trunk(recipe: Recipe, weights: str) -> Trunk:
    return random_trunk(recipe) if weights in (RANDOM, "none", "") else read_trunk(weights)


def _check_data(report: DryRun, recipe: Recipe, name: str) -> DetectionDataset | None:
    """The dataset, if it loads."""
    part = "data"
    layout = report.tried(part, lambda: check_layout(name, recipe.MODEL.MASK_ON))
    if layout is None:
        return None
    for text in layout.problems:
        report.add(PROBLEM, part, f"{name}: {text}")
    for text in layout.notes:
        report.add(NOTE, part, f"{name}: {text}")
    dataset = report.tried(part, lambda: get_detection_dataset(name)) if layout.ok else None
    if dataset is None:
        return None
    before = len(report.problems)
    with report.step(part):
        check_classes(recipe, dataset)
    if name in dataset_names(recipe.DATASETS.TEST):
        from ssl_loc.transfer.metrics import check_evaluator  # pulls in pycocotools

        with report.step(part):
            check_evaluator(recipe.TRANSFER.EVALUATOR, dataset)
    with report.step(part):
        _decode_first(dataset)
    if len(report.problems) == before:
        report.add(OK, part, f"{name}: {layout.summary()}")
    return dataset


def _decode_first(dataset: DetectionDataset) -> None:
    from ssl_loc.transfer.torchvision_engine.mapper import read_pil

    read_pil(dataset.dicts[0])


def _check_output(report: DryRun, recipe: Recipe) -> None:
    folder = Path(recipe.OUTPUT_DIR)
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if existing and not existing.is_dir():
        report.add(
            PROBLEM, "output", f"OUTPUT_DIR is {folder}, but {existing} is a file; expected a folder or a new name"
        )
    elif (folder / RESULT_FILE).is_file():
        report.add(NOTE, "output", f"{folder} holds a finished run, which this one would replace; see OUTPUT_DIR")
    elif (folder / "last_checkpoint").is_file():
        report.add(NOTE, "output", f"{folder} holds a run that was begun; --resume continues it, else it starts again")
    else:
        report.add(OK, "output", str(folder))


def _count(
    report: DryRun,
    recipe: Recipe,
    found: dict[str, DetectionDataset | None],
    eval_only: bool,
    processes: int,
) -> None:
    """The numbers, as far as the data could be read; training sets that do not fit together are a problem."""
    train = [] if eval_only else [found.get(name) for name in dataset_names(recipe.DATASETS.TRAIN)]
    test = [found.get(name) for name in dataset_names(recipe.DATASETS.TEST)]
    known = [dataset for dataset in train if dataset is not None]
    joined = None
    if known and len(known) == len(train):
        joined = report.tried("data", lambda: join(known))  # refuses sets whose classes differ
        if joined is not None:
            with report.step("data"):
                report.numbers |= planned(recipe, joined, processes)
    if all(dataset is not None for dataset in test):
        report.numbers["test images"] = str(sum(len(dataset) for dataset in test if dataset is not None))


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what the project's code logs as warnings, and what some parts log at all."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING or record.name in _TELLING:
                heard.append(record.getMessage())

    ear, root = Ear(), logging.getLogger("ssl_loc")
    level, propagate = root.level, root.propagate
    root.addHandler(ear)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        yield heard
    finally:
        root.removeHandler(ear)
        root.setLevel(level)
        root.propagate = propagate
