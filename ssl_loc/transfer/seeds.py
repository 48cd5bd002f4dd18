"""The same fine-tuning with several seeds: one folder each, then mean and standard deviation of every number."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_loc.checkpoint.resume import flatten
from ssl_loc.structures.result import Result
from ssl_loc.transfer.build import DetectionEngine, choose_engine
from ssl_loc.transfer.detector_file import read_detector
from ssl_loc.transfer.output_folder import check_seeds_output
from ssl_loc.transfer.published import PUBLISHED
from ssl_loc.transfer.recipe import ALL_DEFAULTS, Recipe, edited, load_recipe
from ssl_loc.transfer.resume import last_checkpoint
from ssl_loc.transfer.run import PROTOCOL, PROTOCOL_VERSION, RECIPE_FILE, RESULT_FILE, open_trunk
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.utils.comm import all_gather_object, get_world_size, is_main_process
from ssl_loc.utils.errors import ConfigError, UserError
from ssl_loc.utils.file_io import read_json, write_json, write_text
from ssl_loc.utils.seeds import mean_std

logger = logging.getLogger(__name__)

# Keys that change where a run writes, how it is fed and watched and where it computes, but not what it finds.
HARMLESS = frozenset(
    {
        "OUTPUT_DIR",
        "MODEL.DEVICE",
        "DATALOADER.NUM_WORKERS",
        "SOLVER.CHECKPOINT_PERIOD",
        "TRANSFER.ENGINE",
        "TRANSFER.LOG_PERIOD",
        "VIS_PERIOD",
    }
)
SEEDS_OR_EVALUATION = "--seeds fine-tunes and --eval-only does not: leave one of them out"
DONE, BEGUN, NEW = "done", "begun", "new"
# Differences listed in an error before it says "and N more".
_LISTED = 6


@dataclass(frozen=True)
class SeedRun:
    """One seed's fine-tuning: its recipe (SEED and OUTPUT_DIR set) and whether it is done, begun or new."""

    seed: int
    recipe: Recipe
    state: str = NEW

    @property
    def folder(self) -> Path:
        return Path(self.recipe.OUTPUT_DIR)


# Fine-tunes with one recipe, continuing what is there if asked to; the result on the main process.
RunOne = Callable[[Recipe, bool], Result | None]


def seed_folder(output_dir: str | Path, seed: int) -> Path:
    """Where the fine-tuning with this seed lies."""
    return Path(output_dir) / f"seed_{seed}"


def run_seeds(
    recipe: Recipe, weights: str, seeds: Sequence[int], run_one: RunOne, engine: str | None = None
) -> Result | None:
    """Fine-tune with every seed into OUTPUT_DIR/seed_<s> and write mean and deviation to OUTPUT_DIR/result.json.

    Finished seeds are not repeated and begun ones are continued, so the same command goes on after a stop.

    Returns:
        The combined result on the main process, None on the others.

    Raises:
        ConfigError: a seed's folder holds another run (recipe, weights or engine differ); before anything is trained.
    """
    chosen = choose_engine(engine or recipe.TRANSFER.ENGINE)
    runs = plan_seeds(recipe, weights, seeds, chosen)
    for state, words in ((DONE, "finished before, not repeated"), (BEGUN, "begun before, continued")):
        named = [str(run.seed) for run in runs if run.state == state]
        if named:
            logger.info("seeds %s: %s", words, ", ".join(named))
    results = []
    for run in runs:
        if run.state == DONE:
            results.append(read_result(run.folder))
        else:
            found = run_one(run.recipe, run.state == BEGUN)
            results += [found] if found else []
    if not is_main_process():
        return None
    result = combine(results, weights, [run.folder.name for run in runs])
    write_text(Path(recipe.OUTPUT_DIR) / RECIPE_FILE, recipe.dump_yaml())
    write_json(Path(recipe.OUTPUT_DIR) / RESULT_FILE, result.to_dict())
    return result


def plan_seeds(
    recipe: Recipe, weights: str, seeds: Sequence[int], engine: DetectionEngine, processes: int | None = None
) -> list[SeedRun]:
    """What is to be done per seed, looked up by the main process and equal on all. Collective.

    Args:
        processes: of the runs to be; None takes those that are here.
    """
    world = get_world_size() if processes is None else processes
    runs = [
        SeedRun(seed, edited(recipe, {"SEED": seed, "OUTPUT_DIR": str(seed_folder(recipe.OUTPUT_DIR, seed))}))
        for seed in seeds
    ]
    states, problem = [], ""
    if is_main_process():
        try:
            check_seeds_output(Path(recipe.OUTPUT_DIR))
            states = [_state(run, weights, engine, world) for run in runs]
        except UserError as error:
            problem = str(error)
    states, problem = all_gather_object((states, problem))[0]
    if problem:
        raise ConfigError(problem)
    return [SeedRun(run.seed, run.recipe, state) for run, state in zip(runs, states, strict=True)]


def _state(run: SeedRun, weights: str, engine: DetectionEngine, processes: int) -> str:
    if (run.folder / RESULT_FILE).is_file():
        stored = read_result(run.folder)
        now = {"weights": open_trunk(run.recipe, weights).digest, "engine": engine.name, "version": PROTOCOL_VERSION}
        then = {"weights": stored.digest, "engine": stored.details["engine"], "version": stored.version}
        differing = _unequal(then, now)
        differing += changes(stored.details["recipe"], scale_to_processes(run.recipe, processes))
        _require_same(run, "finished", differing)
        return DONE
    if (run.folder / RECIPE_FILE).is_file():
        differing = changes(load_recipe(run.folder / RECIPE_FILE).to_dict(), run.recipe)
        checkpoint = last_checkpoint(run.folder)
        if checkpoint is not None:
            begun = read_detector(checkpoint)
            now = {"weights": open_trunk(run.recipe, weights).digest, "engine": engine.name}
            then = {"weights": begun.about.get("trunk", {}).get("digest"), "engine": begun.engine}
            differing += _unequal(then, now)
        _require_same(run, "begun", differing)
        return BEGUN
    return NEW


def _unequal(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{key} {then[key]} there, {now[key]} now" for key in now if then[key] != now[key]]


def changes(stored: dict[str, Any], recipe: Recipe) -> list[str]:
    """Keys that decide numbers and differ between a stored recipe and this one: "KEY 1 there, 2 now"."""
    before, now = flatten(stored), flatten(recipe.to_dict())
    found = []
    for key, value in now.items():
        # A key that the stored recipe lacks was not known then and had what is its default today.
        old = before.get(key, ALL_DEFAULTS.get(key, value))
        if key not in HARMLESS and _plain(old) != _plain(value):
            found.append(f"{key} {old} there, {value} now")
    return found


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _require_same(run: SeedRun, what: str, differing: Sequence[str]) -> None:
    if differing:
        more = f"; and {len(differing) - _LISTED} more" if len(differing) > _LISTED else ""
        raise ConfigError(
            f"--seeds: {run.folder} holds a {what} fine-tuning that differs from this one: "
            f"{'; '.join(differing[:_LISTED])}{more}. Seeds of different settings have no common mean: give another "
            f"OUTPUT_DIR, or remove {run.folder}"
        )


def read_result(folder: str | Path) -> Result:
    """The result.json of a fine-tuning."""
    value = read_json(Path(folder) / RESULT_FILE)
    return Result(**{key: value[key] for key in Result.__dataclass_fields__})


def combine(results: Sequence[Result], weights: str, folders: Sequence[str]) -> Result:
    """One result of several seeds: ``metrics`` are means; details hold "std" (sample deviation) and "seeds".

    With one seed every deviation is None: a single run has no spread.
    """
    first = results[0]
    metrics, deviations = {}, {}
    for name in first.metrics:
        mean, std = mean_std([result.metrics[name] for result in results])
        metrics[name], deviations[name] = mean, None if math.isnan(std) else std
    kept = ("engine", "engine_version", "recipe", "trunk", "processes", PUBLISHED)
    digests = {result.digest for result in results}
    return Result(
        protocol=PROTOCOL,
        version=PROTOCOL_VERSION,
        metrics=metrics,
        seed=first.seed,
        weights=weights,
        # Random trunks differ from seed to seed.
        digest=first.digest if len(digests) == 1 else "",
        details={
            **{key: first.details[key] for key in kept if key in first.details},
            "std": deviations,
            "seeds": {
                str(result.seed): {"folder": folder, "digest": result.digest, "metrics": result.metrics}
                for result, folder in zip(results, folders, strict=True)
            },
        },
    )


def spread_table(result: Result) -> str:
    """The headline numbers of a combined result: one row per seed, then mean and deviation."""
    from tabulate import tabulate

    from ssl_loc.transfer.metrics import HEADLINE  # pulls in pycocotools

    names = [name for name in result.metrics if name.rsplit("/", 1)[-1] in HEADLINE]
    rows = [
        [f"seed {seed}", *(f"{row['metrics'][name]:.2f}" for name in names)]
        for seed, row in result.details["seeds"].items()
    ]
    rows.append(["mean", *(f"{result.metrics[name]:.2f}" for name in names)])
    if len(result.details["seeds"]) > 1:
        rows.append(["std (n - 1)", *(f"{result.details['std'][name]:.2f}" for name in names)])
    align = ("left", *["right"] * len(names))
    return tabulate(rows, headers=["", *names], colalign=align, disable_numparse=True)
