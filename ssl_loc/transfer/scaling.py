"""One schedule on any number of processes: SOLVER.REFERENCE_WORLD_SIZE, by detectron2's rule."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ssl_loc.transfer.recipe import Recipe, edited
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """A recipe's schedule in images, which is what stays equal when the number of GPUs changes.

    Attributes:
        images: seen in training.
        steps: images seen when the learning rate drops.
        warmup: images seen when the warm-up ends.
        lr_per_image: learning rate / batch.
    """

    images: int
    steps: tuple[int, ...]
    warmup: int
    lr_per_image: float

    @classmethod
    def of(cls, recipe: Recipe) -> Schedule:
        solver, batch = recipe.SOLVER, recipe.SOLVER.IMS_PER_BATCH
        steps = tuple(step * batch for step in solver.STEPS)
        return cls(solver.MAX_ITER * batch, steps, solver.WARMUP_ITERS * batch, solver.BASE_LR / batch)


def scale_to_processes(recipe: Recipe, processes: int) -> Recipe:
    """The recipe as ``processes`` processes run it; logs the numbers that result.

    SOLVER.REFERENCE_WORLD_SIZE says for how many processes the recipe's numbers are meant. With others the images per
    process stay: batch and learning rate are multiplied by the ratio, all lengths divided by it, as
    ``DefaultTrainer.auto_scale_workers`` of detectron2 does. 0 switches the scaling off.

    Raises:
        ConfigError: the reference does not divide the batch.
    """
    reference = recipe.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return recipe
    if recipe.SOLVER.IMS_PER_BATCH % reference:
        raise ConfigError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {reference}, which does not divide SOLVER.IMS_PER_BATCH "
            f"{recipe.SOLVER.IMS_PER_BATCH}; expected a number of processes that "
            "share the batch evenly, or 0 (no scaling)"
        )
    scaled = edited(recipe, _scaled_values(recipe, processes / reference) | {"SOLVER.REFERENCE_WORLD_SIZE": processes})
    solver = scaled.SOLVER
    logger.info(
        "the recipe is for %d processes and this run has %d, so the schedule is scaled (same images): SOLVER."
        "IMS_PER_BATCH %d -> %d, BASE_LR %g -> %g, MAX_ITER %d -> %d, STEPS %s -> %s, WARMUP_ITERS %d -> %d; "
        "SOLVER.REFERENCE_WORLD_SIZE 0 keeps the recipe's numbers",
        *(reference, processes),
        *(recipe.SOLVER.IMS_PER_BATCH, solver.IMS_PER_BATCH, recipe.SOLVER.BASE_LR, solver.BASE_LR),
        *(recipe.SOLVER.MAX_ITER, solver.MAX_ITER, tuple(recipe.SOLVER.STEPS), tuple(solver.STEPS)),
        *(recipe.SOLVER.WARMUP_ITERS, solver.WARMUP_ITERS),
    )
    if solver.IMS_PER_BATCH < recipe.SOLVER.IMS_PER_BATCH and "BN" in recipe.MODEL.RESNETS.NORM.replace("FrozenBN", ""):
        logger.warning(
            "batch norm sees at most %d images per step instead of %d: compare such runs with each other, not "
            "with published ones (SOLVER.REFERENCE_WORLD_SIZE 0 keeps the batch, where memory allows it)",
            *(solver.IMS_PER_BATCH, recipe.SOLVER.IMS_PER_BATCH),
        )
    return scaled


def warn_of_schedule(recipe: Recipe) -> None:
    """Say which of SOLVER.STEPS a run never reaches: MAX_ITER alone was changed, or the two were not changed alike.

    Args:
        recipe: scaled to the processes of the run.
    """
    solver = recipe.SOLVER
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        never = (
            "never drops" if len(late) == len(solver.STEPS) else f"drops {len(solver.STEPS) - len(late)} time(s) only"
        )
        logger.warning(
            "SOLVER.STEPS %s: the run ends at SOLVER.MAX_ITER %d before it comes to %s, so the learning rate %s; "
            "shorten STEPS with MAX_ITER",
            *(tuple(solver.STEPS), solver.MAX_ITER, ", ".join(map(str, late)), never),
        )


def _scaled_values(recipe: Recipe, ratio: float) -> dict[str, object]:
    solver = recipe.SOLVER

    def shorter(iterations: int) -> int:
        return int(round(iterations / ratio))

    return {
        "SOLVER.IMS_PER_BATCH": int(round(solver.IMS_PER_BATCH * ratio)),
        "SOLVER.BASE_LR": solver.BASE_LR * ratio,
        # Rounding to nothing would train, or save, never.
        "SOLVER.MAX_ITER": max(1, shorter(solver.MAX_ITER)),
        "SOLVER.WARMUP_ITERS": shorter(solver.WARMUP_ITERS),
        "SOLVER.STEPS": tuple(shorter(step) for step in solver.STEPS),
        "SOLVER.CHECKPOINT_PERIOD": shorter(solver.CHECKPOINT_PERIOD),
        "TEST.EVAL_PERIOD": shorter(recipe.TEST.EVAL_PERIOD),
    }
