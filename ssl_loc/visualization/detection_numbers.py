"""Tables of fine-tunings: headline and per-class AP, settings, where the weights come from, where the time went."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssl_loc.transfer.metrics import HEADLINE
from ssl_loc.transfer.published import PUBLISHED
from ssl_loc.utils.seeds import mean_std
from ssl_loc.visualization.detection_runs import TASKS, DetectionGroup, DetectionRun, by_protocol, short_names, tasks_of
from ssl_loc.visualization.report import Section, Spread, Table

# COCO's numbers by object size, beside the headline where a metric gives them.
BY_SIZE = ("APs", "APm", "APl")
CLASS = "AP-"
# Rows of a table that a screen still shows at once.
SHORT = 24
# Keys named in a caption before "and N more".
NAMED_KEYS = 8
KEY_SETTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "trained on": lambda r: " + ".join(r["DATASETS"]["TRAIN"]),
    "tested on": lambda r: ", ".join(r["DATASETS"]["TEST"]),
    "detector": lambda r: _architecture(r["MODEL"]),
    "norm of the trunk": lambda r: r["MODEL"]["RESNETS"]["NORM"] or "none",
    "frozen stages": lambda r: r["MODEL"]["BACKBONE"]["FREEZE_AT"],
    "classes": lambda r: r["MODEL"]["ROI_HEADS"]["NUM_CLASSES"],
    "iterations": lambda r: r["SOLVER"]["MAX_ITER"],
    "batch, images": lambda r: r["SOLVER"]["IMS_PER_BATCH"],
    "learning rate": lambda r: f"{r['SOLVER']['BASE_LR']:g}",
    "times gamma at": lambda r: ", ".join(str(step) for step in r["SOLVER"]["STEPS"]),
    "warm-up, iterations": lambda r: r["SOLVER"]["WARMUP_ITERS"],
    "short side, training": lambda r: _sizes(r["INPUT"]["MIN_SIZE_TRAIN"]),
    "short side, test": lambda r: r["INPUT"]["MIN_SIZE_TEST"],
    "PreciseBN": lambda r: r["TEST"]["PRECISE_BN"]["NUM_ITER"] if r["TEST"]["PRECISE_BN"]["ENABLED"] else "off",
}
PROVENANCE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "method": lambda t: t.get("method"),
    "losses": lambda t: ", ".join(t.get("losses") or []),
    "pretrained on": lambda t: t.get("dataset"),
    "images": lambda t: t.get("dataset_size"),
    "masks": lambda t: t.get("mask_source"),
    "labels used in pretraining": lambda t: t.get("uses_labels"),
    "pretraining iterations": lambda t: t.get("iteration"),
    "trunk": lambda t: _trunk(t.get("backbone") or {}),
    "made by": lambda t: _versions(t.get("versions") or {}),
}


def headline_section(groups: Sequence[DetectionGroup]) -> Section:
    """AP, AP50, AP75 (and COCO's AP by size), one table per engine, test set and task; with seeds mean ± deviation."""
    tables = []
    short = short_names(groups)
    for protocol, dataset, part in by_protocol(groups):
        for task in tasks_of(part, dataset):
            tables.append(_headline(part, dataset, task, f"{TASKS[task]} AP on {short[dataset]} ({protocol})"))
    tables += _published(groups)
    seeds = [_seeds_table(group, short) for group in groups if len(group.runs) > 1]
    return Section("Numbers", _advice(groups), tables=[*tables, *seeds])


def _advice(groups: Sequence[DetectionGroup]) -> str:
    text = "In percent."
    if any(len(group.runs) > 1 for group in groups):
        text += " Mean ± sample standard deviation (n - 1) over seeds."
    if any(len(group.runs) == 1 for group in groups):
        text += (
            " A single run does not show its own spread, and differences below it mean nothing (on VOC about .2 in AP "
            "from seed to seed): repeat with --seeds."
        )
    if len({group.protocol for group in groups}) > 1:
        text += " Numbers of different engines stand in different tables."
    return text


def _headline(part: Sequence[DetectionGroup], dataset: str, task: str, caption: str) -> Table:
    found = [group.spread(dataset, task) for group in part]
    names = [name for name in (*HEADLINE, *BY_SIZE) if any(name in each for each in found)]
    several = any(len(group.runs) > 1 for group in part)
    columns = ["run", *(["seeds"] if several else []), *names]
    rows = [
        [group.label, *([len(group.runs)] if several else []), *(each.get(name) for name in names)]
        for group, each in zip(part, found, strict=True)
    ]
    return Table(columns, rows, caption[0].upper() + caption[1:], dict.fromkeys(names, "max"), decimals=2)


def _published(groups: Sequence[DetectionGroup]) -> list[Table]:
    """Published numbers of the recipes, in tables of their own: another engine, and more data and time, made them."""
    tables = {}
    for group in groups:
        known = group.first.result["details"].get(PUBLISHED) or {}
        for task, word in TASKS.items():
            rows = [
                [row["label"], *(row[f"{task}/{name}"] for name in HEADLINE)]
                for row in known.get("rows", [])
                if f"{task}/AP" in row
            ]
            if rows:
                caption = f"Published {word} AP with {_whose_recipe(known)} ({known['what']})"
                tables[caption] = Table(["published", *HEADLINE], rows, caption, decimals=1)
    return list(tables.values())


def _whose_recipe(known: dict[str, Any]) -> str:
    """ "this recipe", or which keys of the published one the run changed."""
    keys = [text.split(" ", 1)[0] for text in known.get("differs", [])]
    if not keys:
        return "this recipe"
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return f"the recipe {Path(known['file']).name}, from which the run differs in {', '.join(keys[:NAMED_KEYS])}{more}"


def _seeds_table(group: DetectionGroup, short: dict[str, str]) -> Table:
    """The headline numbers of each seed."""
    columns, cells = ["seed"], [[run.result["seed"]] for run in group.runs]
    several = len(group.first.datasets) > 1
    for dataset in group.first.datasets:
        for task in tasks_of([group], dataset):
            for name in HEADLINE:
                columns.append(f"{short[dataset]} {TASKS[task]} {name}" if several else f"{TASKS[task]} {name}")
                for row, run in zip(cells, group.runs, strict=True):
                    row.append(run.metrics(dataset, task).get(name))
    return Table(columns, cells, f"{group.label}: each seed ({group.engine})", decimals=2)


def classes_section(groups: Sequence[DetectionGroup]) -> Section:
    """Per-class AP: all numbers of one fine-tuning, or the AP of several side by side; the first one's best on top."""
    short = short_names(groups)
    tables = [
        _class_table(part, dataset, f"{short[dataset]} ({protocol})") for protocol, dataset, part in by_protocol(groups)
    ]
    return Section("AP per class", "In percent. Classes without objects in the test set are left out.", tables=tables)


def _class_table(part: Sequence[DetectionGroup], dataset: str, caption: str) -> Table:
    tasks = tasks_of(part, dataset)
    columns: dict[str, Callable[[str], Any]] = {}
    if any(dataset in run.scores for run in part[0].runs):
        counted = _from_scores(part[0], dataset, tasks[0], "objects")
        columns["objects"] = lambda name: _whole(counted(name))
    for task in tasks:
        for group in part:
            if len(part) > 1:
                columns[f"{TASKS[task]} AP, {group.label}"] = _class_number(group, dataset, task)
                continue
            columns[f"{TASKS[task]} AP"] = _class_number(group, dataset, task)
            for name in HEADLINE[1:]:
                columns[f"{TASKS[task]} {name}"] = _from_scores(group, dataset, task, name)
    order = _class_number(part[0], dataset, tasks[0])
    names = sorted(_class_names(part, dataset, tasks), key=lambda name: (-_mean(order(name)), name))
    rows = [[name, *(read(name) for read in columns.values())] for name in names]
    empty = [i for i in range(1, len(columns) + 1) if all(row[i] is None for row in rows)]
    heads = [head for i, head in enumerate(["class", *columns]) if i not in empty]
    kept = [[cell for i, cell in enumerate(row) if i not in empty] for row in rows]
    return Table(heads, kept, caption, decimals=1, tall=len(rows) > SHORT)


def _class_names(part: Sequence[DetectionGroup], dataset: str, tasks: Sequence[str]) -> list[str]:
    """Classes with objects to find; where no scores say so, all."""
    scores = [group.first.scores.get(dataset) for group in part]
    known = dict.fromkeys(name for s in scores if s for task in tasks for name in s.per_class.get(task, {}))
    metrics = part[0].first.metrics(dataset, tasks[0])
    return list(known) or [name.removeprefix(CLASS) for name in metrics if name.startswith(CLASS)]


def _class_number(group: DetectionGroup, dataset: str, task: str) -> Callable[[str], Any]:
    found = group.spread(dataset, task)
    return lambda name: found.get(CLASS + name)


def _from_scores(group: DetectionGroup, dataset: str, task: str, number: str) -> Callable[[str], Any]:
    """Class -> a number of its row in the scores, mean over seeds; None where it has none."""
    tables = [run.scores[dataset].per_class.get(task, {}) for run in group.runs if dataset in run.scores]

    def read(name: str) -> Spread | None:
        values = [table[name][number] for table in tables if name in table]
        return Spread(*mean_std(values)) if values else None

    return read


def _whole(value: Spread | None) -> int | None:
    return None if value is None else round(value.mean)


def _mean(value: Any) -> float:
    return value.mean if isinstance(value, Spread) else -1.0


def settings_section(groups: Sequence[DetectionGroup]) -> Section:
    """The main recipe keys side by side, rows that differ marked; the whole recipes behind folds."""
    rows: list[list[Any]] = [
        ["engine", *(f"{g.engine} {g.first.result['details'].get('engine_version', '')}".strip() for g in groups)],
        *([title, *(read(g.first.recipe) for g in groups)] for title, read in KEY_SETTINGS.items()),
        ["processes", *(g.first.result["details"].get("processes") for g in groups)],
        ["seeds" if any(len(g.runs) > 1 for g in groups) else "seed", *(_seeds(g) for g in groups)],
    ]
    rows = [[_word(cell) for cell in row] for row in rows if any(cell not in (None, "") for cell in row[1:])]
    differing = [i for i, row in enumerate(rows) if len(set(row[1:])) > 1]
    caption = "Highlighted: where the fine-tunings differ" if differing else ""
    table = Table(["setting", *(g.label for g in groups)], rows, caption, marked=differing)
    return Section("Settings", tables=[table], folded=_files(groups))


def _files(groups: Sequence[DetectionGroup]) -> dict[str, str]:
    folded = {}
    for group in groups:
        file = group.first.path / "recipe.yaml"
        if file.is_file():
            folded[f"{group.label}: whole recipe"] = file.read_text(encoding="utf-8")
        environment = group.first.result["details"].get("environment") or {}
        if environment:
            folded[f"{group.label}: environment"] = "\n".join(f"{key}: {value}" for key, value in environment.items())
    return folded


def weights_section(groups: Sequence[DetectionGroup]) -> Section:
    """Where the weights come from, as the weight files say."""
    trunks = [group.first.result["details"].get("trunk") or {} for group in groups]
    rows: list[list[Any]] = [
        ["file", *(group.first.result["weights"] for group in groups)],
        ["digest", *(_digest(group) for group in groups)],
        *([title, *(read(trunk) for trunk in trunks)] for title, read in PROVENANCE.items()),
    ]
    rows = [[_word(cell) for cell in row] for row in rows if any(cell not in (None, "") for cell in row[1:])]
    return Section("Where the weights come from", tables=[Table(["", *(group.label for group in groups)], rows)])


def time_section(groups: Sequence[DetectionGroup]) -> Section:
    """Wall time by part, mean over seeds."""
    parts = dict.fromkeys(part for group in groups for run in group.runs for part in _seconds(run))
    rows = []
    for part in parts:
        found = [[s for run in g.runs if (s := _seconds(run).get(part)) is not None] for g in groups]
        rows.append([part, *(duration(sum(values) / len(values)) if values else None for values in found)])
    if not rows:
        return Section("Where the time went")
    text = "Wall time of the process that finished the run (per seed); training includes building and PreciseBN."
    return Section("Where the time went", text, tables=[Table(["part", *(group.label for group in groups)], rows)])


def duration(seconds: float) -> str:
    """ "12.3 s", "4 min 05 s", "3 h 20 min"."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest:02d} min"


def _seconds(run: DetectionRun) -> dict[str, float]:
    return run.result["details"].get("seconds") or {}


def _seeds(group: DetectionGroup) -> str:
    return ", ".join(str(run.result["seed"]) for run in group.runs)


def _digest(group: DetectionGroup) -> str:
    return ", ".join(dict.fromkeys(run.result["digest"] for run in group.runs))


def _architecture(model: dict[str, Any]) -> str:
    name = "Mask R-CNN" if model["MASK_ON"] else "Faster R-CNN"
    return f"{name} {'FPN' if 'fpn' in model['BACKBONE']['NAME'] else 'C4'}, ResNet-{model['RESNETS']['DEPTH']}"


def _sizes(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def _trunk(backbone: dict[str, Any]) -> str:
    words = [f"{k} {v}" for k, v in (backbone.get("kwargs") or {}).items() if v not in ([], "")]
    return f"{backbone.get('name', '')} ({', '.join(words)})" if words else str(backbone.get("name", ""))


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("ssl_loc", "torch") if name in versions)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
