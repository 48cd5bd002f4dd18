"""May a run write into OUTPUT_DIR? Nothing of another run is overwritten."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from ssl_loc.transfer.resume import LAST
from ssl_loc.utils.comm import all_gather_object, is_main_process
from ssl_loc.utils.errors import ConfigError, UserError
from ssl_loc.utils.events import METRICS_FILE
from ssl_loc.utils.file_io import read_json

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"


def check_folder(folder: str | Path) -> None:
    """Whether ``folder`` is, or can become, a folder to write into; nothing of the trial stays.

    Raises:
        ConfigError: it is not.
    """
    there = Path(folder).absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"OUTPUT_DIR is {folder}, but {there} is a file; expected a folder or a new name")
    try:
        # Rights alone do not tell: root has them on /proc and on disks mounted read-only.
        with tempfile.TemporaryDirectory(dir=there, prefix=".ssl_loc_"):
            pass
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR is {folder}, but {there} cannot be written into ({error.strerror}); give a folder of your own"
        ) from None


def check_output(folder: Path, eval_only: bool = False, resume: bool = False) -> None:
    """Refuse to overwrite what ``folder`` holds. Collective: only the main process looks.

    A training needs a folder without a run, or ``resume``; an evaluation may take the place of an evaluation.

    Raises:
        ConfigError: it holds a run that this one would overwrite; says which and what to do.
    """
    problem = ""
    if is_main_process():
        try:
            problem = _conflict(folder, eval_only, resume)
        except UserError as error:
            problem = str(error)
    problem = all_gather_object(problem)[0]
    if problem:
        raise ConfigError(problem)


def check_seeds_output(folder: Path) -> None:
    """The same for the folder above the seeds', whose result.json is that of all seeds."""
    held = held_by(folder)
    if held and not (_is_result(folder) and "seeds" in _details(folder)):
        raise ConfigError(
            f"--seeds: OUTPUT_DIR {folder} holds a single run ({held}), whose result the one of all seeds would "
            "overwrite; give another OUTPUT_DIR"
        )


def held_by(folder: Path) -> str:
    """What shows that ``folder`` holds a run, in words; empty if it holds none."""
    if _is_result(folder):
        return f"a finished one, {RESULT_FILE}" if not is_evaluation(folder) else f"an evaluation, {RESULT_FILE}"
    if (folder / LAST).is_file():
        return f"begun, checkpoint {(folder / LAST).read_text(encoding='utf-8').strip()}"
    metrics = folder / METRICS_FILE
    return f"begun, {METRICS_FILE} and no checkpoint" if metrics.is_file() and metrics.stat().st_size else ""


def is_evaluation(folder: Path) -> bool:
    """Whether the result there is an evaluation's: it tells of no trunk that a training started from."""
    details = _details(folder)
    trained = (folder / LAST).is_file() or (folder / METRICS_FILE).is_file()
    return not trained and not details.get("trunk") and "seeds" not in details


def _conflict(folder: Path, eval_only: bool, resume: bool) -> str:
    held = held_by(folder)
    if not held:
        return ""
    if eval_only:
        if _is_result(folder) and is_evaluation(folder):
            logger.info("%s in %s, of an earlier evaluation, is replaced", RESULT_FILE, folder)
            return ""
        return (
            f"OUTPUT_DIR {folder} holds a fine-tuning ({held}), whose result and recipe an evaluation would "
            "overwrite; give the evaluation a folder of its own, for example OUTPUT_DIR "
            f"{folder}_evaluation"
        )
    if not resume:
        return (
            f"OUTPUT_DIR {folder} already holds a run ({held}); continue it with --resume, give another OUTPUT_DIR, or "
            "remove it yourself: nothing is ever overwritten"
        )
    if _is_result(folder) and not (folder / LAST).is_file():
        return (
            f"--resume: OUTPUT_DIR {folder} holds a result ({held}) and no checkpoint to continue; give another "
            "OUTPUT_DIR, or remove the result yourself: nothing is ever overwritten"
        )
    return ""


def _is_result(folder: Path) -> bool:
    return (folder / RESULT_FILE).is_file()


def _details(folder: Path) -> dict[str, Any]:
    content = read_json(folder / RESULT_FILE)
    details = content.get("details") if isinstance(content, dict) else None
    return details if isinstance(details, dict) else {}
