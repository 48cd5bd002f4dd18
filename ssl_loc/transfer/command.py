"""What every process of a fine-tuning command does: one run or one per seed, each with its log and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ssl_loc.structures import Result
from ssl_loc.transfer.recipe import Recipe
from ssl_loc.transfer.run import run_transfer
from ssl_loc.transfer.seeds import run_seeds, spread_table
from ssl_loc.utils.comm import get_rank
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.logger import setup_logger

# Draws the report of a finished folder; called on the main process when the result is on disk.
Draw = Callable[[str], object]


def finetune(
    recipe: Recipe,
    weights: str,
    engine: str | None = None,
    eval_only: bool = False,
    resume: bool = False,
    seeds: Sequence[int] = (),
    draw: Draw | None = None,
) -> dict[str, float]:
    """Fine-tune (or only evaluate), once or with every seed; returns the metrics on the main process.

    Raises:
        ConfigError: ``seeds`` together with ``eval_only``.
    """
    if seeds and eval_only:
        raise ConfigError("--seeds fine-tunes and --eval-only does not: leave one of them out")

    def once(recipe: Recipe, resume: bool) -> Result | None:
        setup_logger(recipe.OUTPUT_DIR, get_rank())
        result = run_transfer(recipe, weights, engine, eval_only, resume)
        if result and draw:
            draw(recipe.OUTPUT_DIR)
        return result

    if not seeds:
        result = once(recipe, resume)
        return result.metrics if result else {}
    setup_logger(recipe.OUTPUT_DIR, get_rank())
    result = run_seeds(recipe, weights, seeds, once, engine)
    # The seeds wrote into their own logs.
    logger = setup_logger(recipe.OUTPUT_DIR, get_rank())
    if result:
        logger.info("%d seeds:\n%s", len(seeds), spread_table(result))
        if draw:
            draw(recipe.OUTPUT_DIR)
    return result.metrics if result else {}
