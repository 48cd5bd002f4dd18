"""What a look at a dataset's folder found: problems that stop a run, notes that do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

# Examples named after a count.
EXAMPLES = 5


@dataclass
class LayoutReport:
    """Findings on one dataset.

    Attributes:
        name: what was asked for.
        kind: "voc", "coco" or "scenes".
        root: the folder that was looked at.
        problems: sentences; with one of them a run fails or means something else.
        notes: sentences about what is unusual but works.
        images, objects, classes: how many of them were found; 0 where they could not be counted.
        sizes_read: image headers that were compared with the annotations.
    """

    name: str
    kind: str
    root: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    objects: int = 0
    classes: int = 0
    sizes_read: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def summary(self) -> str:
        """The counts in one line."""
        return (
            f"{self.images} images, {self.objects} objects, {self.classes} classes; sizes of {self.sizes_read} images "
            "compared"
        )


def examples(names: Iterable[object], count: int) -> str:
    """ "3 (a, b, c)" or "12 (a, b, c, d, e, ...)"."""
    shown = [str(name) for name in islice(names, EXAMPLES)]
    return f"{count} ({', '.join(shown)}{', ...' if count > len(shown) else ''})"


def counted(names: Sequence[object]) -> str:
    """:func:`examples` of a list."""
    return examples(names, len(names))


def spread(total: int, limit: int | None) -> range | list[int]:
    """Up to ``limit`` positions spread evenly over ``total``, first and last among them; None takes all."""
    if limit is None or total <= limit:
        return range(total)
    if limit == 1:
        return [0]
    return sorted({round(i * (total - 1) / (limit - 1)) for i in range(limit)})
