"""Everything of a fine-tuning but its steps: recipe, weights and data looked at, all problems in one list."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from ssl_loc.transfer.build import DetectionEngine, TransferJob, choose_engine
from ssl_loc.transfer.class_names import require_equal_classes
from ssl_loc.transfer.datasets import DetectionDataset, get_detection_dataset, join
from ssl_loc.transfer.dry_run_numbers import planned
from ssl_loc.transfer.layout import check_layout
from ssl_loc.transfer.layout_report import spread
from ssl_loc.transfer.output_folder import check_folder, check_output, held_by
from ssl_loc.transfer.recipe import Recipe, dataset_names, non_default_keys
from ssl_loc.transfer.resume import check_continues
from ssl_loc.transfer.run import RANDOM, check_classes, find_trunk, test_names
from ssl_loc.transfer.scaling import scale_to_processes, warn_of_schedule
from ssl_loc.transfer.seeds import SEEDS_OR_EVALUATION, plan_seeds
from ssl_loc.transfer.trunk_check import check_trunk
from ssl_loc.transfer.weights import describe
from ssl_loc.utils.errors import DataError, UserError, WeightsError
from ssl_loc.utils.seeds import parse_seeds

T = TypeVar("T")
OK, NOTE, PROBLEM = "ok", "note", "PROBLEM"
# Loggers whose ordinary lines say what this machine or this number of processes makes of the recipe.
# Images of each set that are read whole.
DECODED = 100
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
    recipe: Recipe,
    weights: str,
    engine: str | None = None,
    eval_only: bool = False,
    processes: int = 1,
    resume: bool = False,
    seeds: str = "",
) -> DryRun:
    """Check what :func:`ssl_loc.transfer.run.run_transfer` would need, without training and without writing.

    Args:
        recipe, weights, engine, eval_only: as for ``run_transfer``.
        processes: for how many the run is planned.
        resume, seeds: as the tool's options.
    """
    report = DryRun()
    processes = _check_processes(report, processes)
    chosen = report.tried("engine", lambda: choose_engine(engine or recipe.TRANSFER.ENGINE))
    if chosen:
        report.add(OK, "engine", f"{chosen.name} {chosen.version()}")
    scaled = report.tried("recipe", lambda: scale_to_processes(recipe, processes)) or recipe
    if not eval_only:
        with report.step("recipe"):
            warn_of_schedule(scaled)
    keys_fit = _check_keys(report, scaled, chosen, processes)
    job = _check_weights(report, scaled, weights, eval_only)
    # Looked at before the detector, whose classes must be the data's, and told after it.
    data = DryRun()
    found = {name: _check_data(data, recipe, name) for name in _names(recipe, eval_only)}
    tests = [dataset for name in dataset_names(recipe.DATASETS.TEST) if (dataset := found.get(name))]
    if chosen and job and keys_fit:
        job = replace(job, classes=tuple(tests[0].classes) if tests else ())
        loaded = report.tried("detector", lambda: chosen.rehearse(job))
        if loaded:
            report.add(OK, "detector", loaded)
    elif job:
        report.add(NOTE, "detector", "not built, because of the problems above")
    report.lines += data.lines
    # Training sets are compared with each other where they are joined.
    train = [dataset for name in dataset_names(recipe.DATASETS.TRAIN)[:1] if (dataset := found.get(name))]
    _check_classes(report, [*([] if eval_only else train), *tests])
    if seeds and eval_only:
        report.add(PROBLEM, "seeds", SEEDS_OR_EVALUATION)
    elif seeds:
        _check_seeds(report, recipe, weights, chosen, seeds, processes)
    else:
        _check_output(report, scaled, job, eval_only, processes, resume)
    _count(report, scaled, found, eval_only, processes)
    return report


def _check_processes(report: DryRun, processes: int) -> int:
    if processes < 1:
        report.add(PROBLEM, "processes", f"--num-gpus is {processes}; expected 1 or more (0: one process)")
    return max(processes, 1)


def print_dry_run(
    recipe: Recipe,
    weights: str,
    engine: str | None,
    eval_only: bool,
    processes: int,
    resume: bool = False,
    seeds: str = "",
) -> int:
    """Print a dry run; exit status 1 if it found a problem.

    Args:
        processes: 0 for as many as torchrun started, else one.
    """
    # Only the first of torchrun's processes has something to say.
    if int(os.environ.get("RANK", 0)):
        return 0
    world = processes or int(os.environ.get("WORLD_SIZE", 1))
    report = dry_run(recipe, weights, engine, eval_only, world, resume, seeds)
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
    if not dataset_names(recipe.DATASETS.TRAIN):
        report.add(PROBLEM, "recipe", "DATASETS.TRAIN is empty; expected at least one dataset")
    with report.step("recipe"):
        test_names(recipe)
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
    trunk = report.tried("weights", lambda: find_trunk(recipe, weights))
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
        _decode_some(dataset)
    if len(report.problems) == before:
        report.add(OK, part, f"{name}: {layout.summary()}")
    return dataset


def _decode_some(dataset: DetectionDataset) -> None:
    """Read images spread evenly over the set to their last pixel; a header does not tell that a file is cut off."""
    from ssl_loc.transfer.torchvision_engine.mapper import read_pil

    broken = []
    for i in spread(len(dataset), DECODED):
        try:
            read_pil(dataset.dicts[i])
        except DataError as error:
            broken.append(str(error))
    if broken:
        more = f" (and {len(broken) - 1} more of the {min(DECODED, len(dataset))} read)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}")


def _check_classes(report: DryRun, found: list[DetectionDataset]) -> None:
    for dataset in found[1:]:
        with report.step("data"):
            require_equal_classes(found[0].classes, found[0].name, dataset.classes, dataset.name)


def _check_output(
    report: DryRun,
    recipe: Recipe,
    job: TransferJob | None,
    eval_only: bool,
    processes: int,
    resume: bool,
) -> None:
    folder = Path(recipe.OUTPUT_DIR)
    before = len(report.problems)
    with report.step("output"):
        check_folder(folder)
        check_output(folder, eval_only, resume)
        if resume and job and job.trunk:
            check_continues(recipe, folder, job.trunk.digest, processes)
    if len(report.problems) == before:
        goes_on = " (the run there is continued)" if resume and not eval_only and held_by(folder) else ""
        report.add(OK, "output", f"{folder}{goes_on}")


def _check_seeds(
    report: DryRun, recipe: Recipe, weights: str, engine: DetectionEngine | None, text: str, processes: int
) -> None:
    """The option itself, and what the folders of the seeds hold."""
    with report.step("seeds"):
        check_folder(recipe.OUTPUT_DIR)
        wanted = parse_seeds(text)
        if engine is None:
            return
        runs = plan_seeds(recipe, weights, wanted, engine, processes)
        report.add(OK, "seeds", ", ".join(f"{run.seed} ({run.state})" for run in runs))


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
