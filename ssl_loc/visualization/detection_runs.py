"""Fine-tuning folders read back for tables and pictures; runs that differ only in their seed form one group."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ssl_loc.checkpoint.resume import flatten
from ssl_loc.transfer.detection_scores import DetectionScores, load_scores
from ssl_loc.transfer.run import PROTOCOL, RECIPE_FILE, RESULT_FILE, inference_file
from ssl_loc.transfer.seeds import HARMLESS
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json
from ssl_loc.utils.seeds import mean_std
from ssl_loc.visualization.labels import number_repeats, short_data_names, split_label
from ssl_loc.visualization.report import Spread

TASKS = {"bbox": "box", "segm": "mask"}
# "bbox/AP50", or with several test sets "voc_2007_test/bbox/AP50"; names of sets may hold slashes.
_METRIC = re.compile(r"(?:(?P<data>.*)/)?(?P<task>bbox|segm)/(?P<name>[^/]+(?:/.*)?)")


@dataclass
class DetectionRun:
    """One fine-tuning (or evaluation): its folder and its result.json."""

    path: Path
    result: dict[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        return self.result["details"]["recipe"]

    @property
    def datasets(self) -> list[str]:
        """Names of the test sets."""
        return list(self.recipe["DATASETS"]["TEST"])

    @cached_property
    def scores(self) -> dict[str, DetectionScores]:
        """Per test set; runs of versions that did not write them have none."""
        files = {name: inference_file(self.path, name, "_scores.json") for name in self.datasets}
        return {name: load_scores(file) for name, file in files.items() if file.is_file()}

    def predictions(self, dataset: str) -> Path | None:
        """The file with every detection on one test set, if it is there."""
        file = inference_file(self.path, dataset, ".json")
        return file if file.is_file() else None

    def metrics(self, dataset: str, task: str) -> dict[str, float]:
        """Metrics of one test set and task by their short names: "AP", "AP50", "AP-dog"."""
        found = {}
        for key, value in self.result["metrics"].items():
            match = _METRIC.fullmatch(key)
            if match and match["task"] == task and match["data"] in (None, dataset):
                found[match["name"]] = value
        return found


@dataclass
class DetectionGroup:
    """Runs of one recipe from one pretraining: several seeds, or a single run.

    Attributes:
        label: name in tables and pictures.
        runs: at least one.
        folder: what was given: the run's own folder or the one above its seeds.
    """

    label: str
    runs: list[DetectionRun] = field(default_factory=list)
    folder: Path = Path()

    @property
    def first(self) -> DetectionRun:
        return self.runs[0]

    @property
    def engine(self) -> str:
        return self.first.result["details"].get("engine", "?")

    @property
    def protocol(self) -> str:
        """What must be equal for numbers to stand in one column."""
        return f"{self.engine}, protocol v{self.first.result['version']}"

    def spread(self, dataset: str, task: str) -> dict[str, Spread]:
        """Mean and deviation over seeds of every metric that all runs have."""
        found = [run.metrics(dataset, task) for run in self.runs]
        names = [name for name in found[0] if all(name in each for each in found)]
        return {name: Spread(*mean_std([each[name] for each in found])) for name in names}


def is_detection_folder(path: str | Path) -> bool:
    """Whether a folder (or a ``result.json``) is of a fine-tuning."""
    file = _result_file(Path(path))
    if file.is_file():
        value = read_json(file)
        return isinstance(value, dict) and value.get("protocol") == PROTOCOL
    return (Path(path) / RECIPE_FILE).is_file()


def read_groups(given: Sequence[str | Path]) -> list[DetectionGroup]:
    """``[LABEL=]FOLDER`` words -> groups with distinct names, in their order.

    A folder of ``--seeds`` is a group. Single runs join one if they have the same label, or without labels the same
    weights, and the same engine, protocol and recipe up to the seed.

    Raises:
        DataError: a folder without a result of a fine-tuning.
    """
    groups: dict[str, DetectionGroup] = {}
    labels = {split_label(word)[0] for word in given}
    for word in given:
        label, path = split_label(word)
        folder = _result_file(Path(path)).parent.resolve()
        for run in _read(folder):
            key = _identity(run, label)
            group = groups.setdefault(key, DetectionGroup(label or folder.name, [], folder))
            if all(run.path != known.path for known in group.runs):
                group.runs.append(run)
    found = list(groups.values())
    names = [_name(group, labelled=group.label in labels) for group in found]
    for group, name in zip(found, names, strict=True):
        twice = names.count(name) > 1 and group.label not in labels
        group.label = f"{group.folder.parent.name}/{name}" if twice else name
    for group, name in zip(found, number_repeats([group.label for group in found]), strict=True):
        group.label = name
    return found


def short_names(groups: Sequence[DetectionGroup]) -> dict[str, str]:
    """Test sets of all runs -> names for people."""
    return short_data_names([name for group in groups for name in group.first.datasets])


def by_protocol(groups: Sequence[DetectionGroup]) -> Iterator[tuple[str, str, list[DetectionGroup]]]:
    """(protocol, test set, the groups measured so): what may share a table."""
    keys = dict.fromkeys((group.protocol, name) for group in groups for name in group.first.datasets)
    for protocol, dataset in keys:
        yield protocol, dataset, [g for g in groups if g.protocol == protocol and dataset in g.first.datasets]


def tasks_of(groups: Sequence[DetectionGroup], dataset: str) -> list[str]:
    """The measured ones of "bbox" and "segm"."""
    return [task for task in TASKS if any(group.first.metrics(dataset, task) for group in groups)]


def _result_file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / RESULT_FILE


def _read(folder: Path) -> list[DetectionRun]:
    file = folder / RESULT_FILE
    if not file.is_file():
        raise DataError(
            f"no {RESULT_FILE} in {folder}; expected the OUTPUT_DIR of a finished run of tools/finetune_det.py "
            "(--resume finishes it)"
        )
    value = read_json(file)
    if not isinstance(value, dict) or value.get("protocol") != PROTOCOL or "recipe" not in value.get("details", {}):
        raise DataError(f"{file} is not a result of tools/finetune_det.py")
    seeds = value["details"].get("seeds")
    if not seeds:
        return [DetectionRun(folder, value)]
    return [run for seed in seeds.values() for run in _read(folder / seed["folder"])]


def _identity(run: DetectionRun, label: str) -> str:
    recipe = {k: v for k, v in flatten(run.recipe).items() if k != "SEED" and k not in HARMLESS}
    details = run.result["details"]
    # Random trunks differ from seed to seed; they are one kind of weights all the same.
    weights = "random" if run.result["weights"] == "random" else run.result["digest"]
    known = [label or weights, details.get("engine"), run.result["version"], recipe]
    return json.dumps(known, sort_keys=True)


def _name(group: DetectionGroup, labelled: bool) -> str:
    """Its label; of unlabelled single runs in one folder ("det/seed_0", "det/seed_1") that folder's name."""
    parents = {run.path.parent for run in group.runs}
    if labelled or len(group.runs) == 1 or len(parents) > 1:
        return group.label
    return parents.pop().name
