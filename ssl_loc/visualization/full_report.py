"""Everything known about runs and their evaluations, as the sections of one report.

In the order of a reader's questions: what came out, where the models look, what they saw, how the training went, how it
was made, what is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssl_loc.evaluation import EVALUATOR_REGISTRY
from ssl_loc.utils.errors import UserError
from ssl_loc.utils.events import METRICS_FILE
from ssl_loc.visualization.curves import load_runs
from ssl_loc.visualization.detection_report import report_sections
from ssl_loc.visualization.detection_runs import DetectionGroup
from ssl_loc.visualization.labels import RunFolder
from ssl_loc.visualization.report import Section
from ssl_loc.visualization.result_sections import (
    backgrounds_section,
    density_section,
    glance_section,
    numbers_section,
    provenance_section,
    weight_names,
)
from ssl_loc.visualization.run_report import curves_section, settings_section, views_section
from ssl_loc.visualization.style import shared_colors

logger = logging.getLogger(__name__)
MISSING = "Not in this report"
# Protocols that score maps, not weights: nobody misses them in a report about models.
_OF_MAPS = ("saliency",)


@dataclass
class Material:
    """What a report is made of.

    Attributes:
        runs: folders of pretrainings.
        results: of evaluations, as :func:`ssl_loc.evaluation.results.read_results` gives them.
        detectors: fine-tunings.
        pictures: heading -> makes the section from images; one that cannot be drawn says why.
        count: images per picture.
        min_score: of drawn detections.
    """

    runs: Sequence[RunFolder] = ()
    results: Sequence[dict[str, Any]] = ()
    detectors: Sequence[DetectionGroup] = ()
    pictures: dict[str, Callable[[], Section]] = field(default_factory=dict)
    count: int = 6
    min_score: float = 0.5


def full_sections(material: Material) -> list[Section]:
    """All sections; those without content are left out by the report. A model has one colour in all of them."""
    names = [run.label for run in material.runs] + list(weight_names(material.results).values())
    with shared_colors(list(dict.fromkeys([*names, *(group.label for group in material.detectors)]))):
        return _sections(material)


def _sections(material: Material) -> list[Section]:
    results, runs = material.results, material.runs
    prefix = "Detectors: " if runs or results else ""
    found = (
        report_sections(material.detectors, material.count, material.min_score, prefix) if material.detectors else []
    )
    logged = [run for run in runs if _has_curves(run)]
    pictures, reasons = drawn(material.pictures)
    return [
        glance_section(results),
        numbers_section(results),
        *found[:1],
        density_section(results),
        *pictures,
        backgrounds_section(results),
        *([views_section(runs, material.count)] if runs else []),
        *([curves_section(load_runs(logged))] if logged else []),
        *found[1:],
        *([settings_section(runs)] if runs else []),
        provenance_section(results),
        missing_section(material, reasons),
    ]


def drawn(pictures: dict[str, Callable[[], Section]]) -> tuple[list[Section], list[str]]:
    """The sections that can be drawn, and why the others cannot: one picture must not cost the whole report."""
    sections, reasons = [], []
    for heading, make in pictures.items():
        try:
            sections.append(make())
        except UserError as error:
            logger.warning("no '%s' in the report: %s", heading, error)
            reasons.append(f"{heading}: {error}")
    return sections, reasons


def missing_section(material: Material, reasons: Sequence[str] = ()) -> Section:
    """What could stand in a report and does not, with the command that makes it.

    ``reasons``: why pictures could not be drawn.
    """
    words = list(reasons)
    if material.runs or material.results:
        measured = {r["protocol"] for r in material.results}
        absent = [name for name, _ in EVALUATOR_REGISTRY if name not in measured and name not in _OF_MAPS]
        if absent:
            words.append(
                f"Numbers of the protocols {', '.join(absent)}: measure them with tools/evaluate.py --protocol P,P "
                "--weights RUN --data D --out DIR, and add --results DIR."
            )
        if not material.pictures:
            words.append("Pictures of where the models look: give images with --data D, and masks with --masks.")
        if not material.detectors:
            words.append("Detectors: fine-tune them with tools/finetune_det.py, and add their OUTPUT_DIR.")
    if not material.runs and material.results:
        words.append("Views, training curves and settings: add --run with the OUTPUT_DIR of tools/train_net.py.")
    words += [
        f"Training curves of {run.label}: there is no {METRICS_FILE} in {run.path}."
        for run in material.runs
        if not _has_curves(run)
    ]
    return Section(MISSING, "\n\n".join(words))


def _has_curves(run: RunFolder) -> bool:
    return (run.path / METRICS_FILE).is_file() or any(run.path.glob(f"seed_*/{METRICS_FILE}"))
