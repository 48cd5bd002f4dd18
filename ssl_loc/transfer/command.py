"""What every process of a fine-tuning command does: one run or one per seed, each with its log and its pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssl_loc.structures import Result
from ssl_loc.transfer.output_folder import check_folder
from ssl_loc.transfer.published import PUBLISHED, read_published
from ssl_loc.transfer.recipe import Recipe, load_recipe
from ssl_loc.transfer.run import RESULT_FILE, run_transfer
from ssl_loc.transfer.scaling import scale_to_processes
from ssl_loc.transfer.seeds import SEEDS_OR_EVALUATION, changes, run_seeds, spread_table
from ssl_loc.utils.comm import get_rank, get_world_size
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.file_io import write_json
from ssl_loc.utils.logger import setup_logger

logger = logging.getLogger(__name__)

# Keys of a recipe that are no part of what was published: the seed, and how often a run is looked at.
_NOT_PROTOCOL = ("SEED ", "SOLVER.REFERENCE_WORLD_SIZE ", "TEST.EVAL_PERIOD ")
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
    config_file: str = "",
) -> dict[str, float]:
    """Fine-tune (or only evaluate), once or with every seed; returns the metrics on the main process.

    Args:
        recipe, weights, engine, eval_only, resume: see :func:`ssl_loc.transfer.run.run_transfer`.
        seeds: none for a single run with the recipe's own.
        draw: called for every finished folder.
        config_file: file of the recipe; the published numbers in its header go into the result.

    Raises:
        ConfigError: ``seeds`` together with ``eval_only``; OUTPUT_DIR cannot be written into or holds another run.
    """
    if seeds and eval_only:
        raise ConfigError(SEEDS_OR_EVALUATION)

    check_folder(recipe.OUTPUT_DIR)
    published = read_published(config_file) if config_file else {}

    def once(recipe: Recipe, resume: bool) -> Result | None:
        setup_logger(recipe.OUTPUT_DIR, get_rank())
        result = run_transfer(recipe, weights, engine, eval_only, resume)
        if result and published:
            _note_published(result, recipe, published)
        if result and draw:
            draw(recipe.OUTPUT_DIR)
        return result

    if not seeds:
        result = once(recipe, resume)
        return result.metrics if result else {}
    setup_logger(recipe.OUTPUT_DIR, get_rank())
    result = run_seeds(recipe, weights, seeds, once, engine)
    # The seeds wrote into their own logs.
    setup_logger(recipe.OUTPUT_DIR, get_rank())
    if result:
        logger.info("%d seeds:\n%s", len(seeds), spread_table(result))
        if draw:
            draw(recipe.OUTPUT_DIR)
    return result.metrics if result else {}


def _note_published(result: Result, recipe: Recipe, published: dict[str, Any]) -> None:
    """Write the published numbers into the result, with the keys in which this run differs from their recipe."""
    now = scale_to_processes(recipe, get_world_size())
    differs = changes(load_recipe(published["file"]).to_dict(), now)
    differs = [text for text in differs if not text.startswith(_NOT_PROTOCOL)]
    result.details[PUBLISHED] = {**published, "differs": differs}
    write_json(Path(recipe.OUTPUT_DIR) / RESULT_FILE, result.to_dict())
