"""One fine-tuning from end to end: check, choose the engine, run it, evaluate, write the result."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_loc.checkpoint.files import tensor_digest
from ssl_loc.engine.signals import StopRequest
from ssl_loc.structures.result import Result
from ssl_loc.transfer.build import DetectionEngine, TransferJob, Trunk, choose_engine
from ssl_loc.transfer.class_names import require_equal_classes
from ssl_loc.transfer.detection_scores import DetectionScores, class_table, save_scores
from ssl_loc.transfer.output_folder import RESULT_FILE, check_output
from ssl_loc.transfer.recipe import Recipe, dataset_names, edited, load_recipe
from ssl_loc.transfer.resume import check_continues
from ssl_loc.transfer.scaling import scale_to_processes, warn_of_schedule
from ssl_loc.transfer.stop import RunStopped, Stop
from ssl_loc.transfer.trunk_check import check_trunk
from ssl_loc.transfer.weights import check_finite, describe, trunk_only
from ssl_loc.utils.comm import all_gather_object, get_world_size, is_main_process
from ssl_loc.utils.env import collect_env_dict
from ssl_loc.utils.errors import ConfigError, UserError, WeightsError
from ssl_loc.utils.file_io import file_digest, write_json, write_text

logger = logging.getLogger(__name__)

PROTOCOL = "detection"
# Raised whenever the same recipe would give other numbers; numbers of two versions are not compared.
PROTOCOL_VERSION = "1"
RANDOM = "random"
RECIPE_FILE = "recipe.yaml"


def run_transfer(
    recipe: Recipe, weights: str, engine: str | None = None, eval_only: bool = False, resume: bool = False
) -> Result | None:
    """Fine-tune a detector from ``weights`` and evaluate it; everything goes to ``recipe.OUTPUT_DIR``.

    Args:
        weights: an exported backbone file, "random", or, with ``eval_only``, a detector checkpoint.
        engine: overrides TRANSFER.ENGINE.

    Returns:
        The result (also written to result.json) on the main process, None on the others.

    Raises:
        RunStopped: SIGTERM or Ctrl-C; a training is on disk as it is, and ``resume`` goes on with it bit by bit.
    """
    # Before loaders start their processes, which inherit the handlers.
    with StopRequest() as request:
        try:
            result = _run(recipe, weights, engine, eval_only, resume, Stop(request))
            # Too late to stop this run, but whoever would go on with another one must know.
            Stop(request).check()
            return result
        except RunStopped as stopped:
            logger.info("%s; %s", stopped, "run it again" if eval_only else "the same command with --resume goes on")
            raise


def _run(recipe: Recipe, weights: str, engine: str | None, eval_only: bool, resume: bool, stop: Stop) -> Result | None:
    chosen = choose_engine(engine or recipe.TRANSFER.ENGINE)
    recipe = with_seed(recipe, resume)
    output_dir = Path(recipe.OUTPUT_DIR)
    check_output(output_dir, eval_only, resume)
    # Here, so that the result tells the schedule that ran; recipe.yaml keeps what was asked for.
    scaled = scale_to_processes(recipe, get_world_size())
    if eval_only:
        job = TransferJob(scaled, output_dir, detector=_detector_file(weights), stop=stop)
    else:
        warn_of_schedule(scaled)
        job = TransferJob(scaled, output_dir, trunk=open_trunk(recipe, weights), resume=resume, stop=stop)
    if job.trunk and job.resume:
        check_continues(scaled, output_dir, job.trunk.digest)
    datasets = _load_test_sets(recipe)
    job = replace(job, classes=tuple(next(iter(datasets.values())).classes))
    if is_main_process():
        # An older result would call this run finished while it is not.
        (output_dir / RESULT_FILE).unlink(missing_ok=True)
        write_text(output_dir / RECIPE_FILE, recipe.dump_yaml())
    predictions = chosen.run(job)
    if not is_main_process():
        return None
    metrics: dict[str, float] = {}
    for name, dataset in datasets.items():
        with job.clock("evaluation"):
            values = _scored(recipe, dataset, predictions[name]).metrics
        prefix = f"{name}/" if len(datasets) > 1 else ""
        metrics.update({f"{prefix}{key}": value for key, value in values.items()})
    result = _result(chosen, job, weights, metrics)
    write_json(output_dir / RESULT_FILE, result.to_dict())
    logger.info("%s", summary(result))
    return result


def with_seed(recipe: Recipe, resume: bool = False) -> Recipe:
    """The recipe itself, or, where SEED is negative (detectron2's default), a copy with a random seed on record.

    A resumed run goes on with the seed that it drew when it began.
    """
    if recipe.SEED >= 0:
        return recipe
    begun = Path(recipe.OUTPUT_DIR) / RECIPE_FILE
    if resume and begun.is_file():
        seed, verb = load_recipe(begun).SEED, "goes on with"
    else:
        seed, verb = secrets.randbelow(2**31), "draws"
    seed = all_gather_object(seed)[0]
    logger.info("SEED is %d: this run %s seed %d", recipe.SEED, verb, seed)
    return edited(recipe, {"SEED": seed})


def open_trunk(recipe: Recipe, weights: str) -> Trunk:
    """Read (or randomly initialise) the trunk, and refuse a recipe that contradicts it."""
    trunk = find_trunk(recipe, weights)
    if trunk.source != RANDOM:
        logger.info("trunk %s (digest %s): %s", weights, trunk.digest, describe(trunk.meta))
    check_trunk(recipe, trunk.meta, random=trunk.source == RANDOM)
    return trunk


def find_trunk(recipe: Recipe, weights: str) -> Trunk:
    """The trunk that --weights asks for, not yet compared with the recipe.

    Raises:
        WeightsError: ``weights`` is empty, or no file of a trunk.
    """
    if not weights.strip():
        raise WeightsError(
            "--weights is empty (a shell variable that is not set?); expected a backbone exported by "
            f"tools/export_backbone.py, or --weights {RANDOM} to train from scratch"
        )
    return random_trunk(recipe) if weights == RANDOM else read_trunk(weights)


def read_trunk(path: str) -> Trunk:
    """Read a run's trunk, an exported backbone, or any other file with a trunk."""
    from ssl_loc.checkpoint.backbone_source import read_backbone

    if not Path(path).exists():
        raise WeightsError(
            f"no weight file {path}; expected a backbone exported by tools/export_backbone.py, or --weights random"
        )
    file = read_backbone(path)
    state = trunk_only(file.model)
    check_finite(state, path)
    return Trunk(state, dict(file.meta), str(path), tensor_digest(state))


def random_trunk(recipe: Recipe) -> Trunk:
    """A trunk from its own initialiser, in the form of an exported file, so that both take the same way."""
    import torch

    from ssl_loc.modeling.backbone import build_backbone_from_description

    description = described_backbone(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.SEED)
        try:
            state = trunk_only(build_backbone_from_description(description).state_dict())
        except UserError as error:
            raise ConfigError(
                f"TRANSFER.BACKBONE.NAME {description['name']!r} with TRANSFER.BACKBONE.KWARGS {description['kwargs']} "
                f"describes no trunk: {error}"
            ) from None
    rgb = recipe.INPUT.FORMAT == "RGB"
    meta = {
        "backbone": description,
        "pixel_mean": list(recipe.MODEL.PIXEL_MEAN)[:: 1 if rgb else -1],
        "pixel_std": list(recipe.MODEL.PIXEL_STD)[:: 1 if rgb else -1],
        "channel_order": "RGB",
        "stride_in_1x1": False,
        "method": RANDOM,
    }
    return Trunk(state, meta, RANDOM, tensor_digest(state))


def described_backbone(recipe: Recipe) -> dict[str, Any]:
    """TRANSFER.BACKBONE as a description; without KWARGS, the ResNet of MODEL.RESNETS.DEPTH."""
    node = recipe.TRANSFER.BACKBONE
    return {"name": node.NAME, "kwargs": dict(node.KWARGS) or {"depth": recipe.MODEL.RESNETS.DEPTH}}


def summary(result: Result) -> str:
    """The headline numbers in one line."""
    wanted = ("AP", "AP50", "AP75")
    numbers = [f"{k} {v:.2f}" for k, v in result.metrics.items() if k.rsplit("/", 1)[-1] in wanted]
    return f"{result.details['engine']} from {result.weights}: {', '.join(numbers)}"


def _load_test_sets(recipe: Recipe) -> dict[str, Any]:
    from ssl_loc.transfer.datasets import get_detection_dataset, require_masks
    from ssl_loc.transfer.metrics import check_evaluator

    names = test_names(recipe)
    datasets = {name: get_detection_dataset(name) for name in names}
    for name, dataset in datasets.items():
        check_classes(recipe, dataset)
        check_evaluator(recipe.TRANSFER.EVALUATOR, dataset)
        if recipe.MODEL.MASK_ON:
            require_masks(dataset, to_find=True)
        logger.info("test set %s: %d images, %d classes", name, len(dataset.dicts), len(dataset.classes))
        require_equal_classes(datasets[names[0]].classes, names[0], dataset.classes, name)
    return datasets


def test_names(recipe: Recipe) -> list[str]:
    """DATASETS.TEST; raises :class:`ConfigError` if it names no dataset or one twice."""
    names = dataset_names(recipe.DATASETS.TEST)
    if not names:
        raise ConfigError("DATASETS.TEST is empty; expected at least one dataset, for example ('voc_2007_test',)")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"DATASETS.TEST names {', '.join(twice)} more than once; name each test set once")
    return names


def check_classes(recipe: Recipe, dataset: Any) -> None:
    """The detector's classes are the dataset's."""
    if len(dataset.classes) != recipe.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {recipe.MODEL.ROI_HEADS.NUM_CLASSES} but {dataset.name} has "
            f"{len(dataset.classes)} classes; set the key to {len(dataset.classes)}"
        )


def _detector_file(weights: str) -> Path:
    if Path(weights).is_dir():
        raise WeightsError(
            f"{weights} is a folder; --eval-only expects the file {Path(weights) / 'model_final.pth'} that a "
            "fine-tuning wrote there"
        )
    if not Path(weights).is_file():
        raise WeightsError(
            f"no detector checkpoint {weights}; --eval-only expects the model_final.pth that a fine-tuning wrote to "
            "its OUTPUT_DIR"
        )
    return Path(weights)


def _scored(recipe: Recipe, dataset: Any, predictions: list[Any]) -> DetectionScores:
    """Evaluate one test set; its detections and scores go to files, a table per class to the log."""
    from ssl_loc.transfer.metrics import evaluate  # pulls in pycocotools
    from ssl_loc.transfer.predictions import save_predictions

    output_dir = Path(recipe.OUTPUT_DIR)
    # First, so that a failing evaluation does not cost the detections.
    save_predictions(inference_file(output_dir, dataset.name, ".json"), dataset.name, predictions)
    scores = evaluate(dataset, predictions, recipe.MODEL.MASK_ON, recipe.TRANSFER.EVALUATOR)
    file = inference_file(output_dir, dataset.name, "_scores.json")
    save_scores(file, scores)
    logger.info("%s per class (with curves in %s):\n%s", dataset.name, file, class_table(scores))
    return scores


def inference_file(output_dir: Path, dataset: str, ending: str) -> Path:
    """Where the detections (".json") and scores ("_scores.json") of one test set lie."""
    readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset)
    return output_dir / "inference" / f"{readable}{ending}"


def _result(engine: DetectionEngine, job: TransferJob, weights: str, metrics: dict[str, float]) -> Result:
    digest = job.trunk.digest if job.trunk else file_digest(weights)
    return Result(
        protocol=PROTOCOL,
        version=PROTOCOL_VERSION,
        metrics=metrics,
        seed=job.recipe.SEED,
        weights=weights,
        digest=digest,
        details={
            "engine": engine.name,
            "engine_version": engine.version(),
            "recipe": job.recipe.to_dict(),
            "trunk": {k: v for k, v in (job.trunk.meta if job.trunk else {}).items() if k != "config"},
            # Wall seconds of the process that finished the run, by part.
            "seconds": dict(job.clock.seconds),
            "processes": get_world_size(),
            "environment": collect_env_dict(),
        },
    )
