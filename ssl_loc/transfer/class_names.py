"""Class names, compared in order: a detector only knows numbers, and equal counts do not make equal classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ssl_loc.transfer.detector_file import DetectorFile
from ssl_loc.utils.errors import ConfigError

logger = logging.getLogger(__name__)

TEST_SETS = "DATASETS.TEST"
# Names listed before "...".
_LISTED = 20


def require_equal_classes(first: Sequence[str], of_first: str, second: Sequence[str], of_second: str) -> None:
    """Raise :class:`ConfigError` unless both lists are equal, in order and in case; names the first difference."""
    if list(first) == list(second):
        return
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    one, other = (repr(names[at]) if at < len(names) else "nothing" for names in (first, second))
    raise ConfigError(
        f"{of_first} and {of_second} do not have the same classes in the same order: class {at + 1} is {one} there and "
        f"{other} here ({len(first)} and {len(second)} classes), so detections would stand under wrong names; use data "
        "with equal class lists (classes.txt of a VOC folder, the categories by id of a COCO json)"
    )


def check_detector_classes(file: DetectorFile, wanted: Sequence[str]) -> None:
    """Compare the names that a detector was trained with to those of the test sets; without names, say what is assumed.

    Args:
        wanted: of the test sets; nothing is compared where they are unknown (empty).

    Raises:
        ConfigError: they differ.
    """
    if not wanted:
        return
    stored = file.about.get("classes")
    if stored is None:
        shown = ", ".join(wanted[:_LISTED]) + (", ..." if len(wanted) > _LISTED else "")
        logger.warning(
            "%s does not name its classes; they are taken to be those of %s, in this order: %s",
            *(file.path, TEST_SETS, shown),
        )
        return
    require_equal_classes(list(stored), str(file.path), wanted, TEST_SETS)
