"""The report of one fine-tuning, of its seeds, or of several fine-tunings side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssl_loc.utils.errors import UserError
from ssl_loc.utils.events import METRICS_FILE
from ssl_loc.visualization.curves import Run, curves_figure, load_run
from ssl_loc.visualization.detection_numbers import (
    classes_section,
    headline_section,
    settings_section,
    time_section,
    weights_section,
)
from ssl_loc.visualization.detection_runs import DetectionGroup, by_protocol, read_groups, short_names
from ssl_loc.visualization.detections import MIN_SCORE, detections_picture, load_detections
from ssl_loc.visualization.pr_curves import pr_picture
from ssl_loc.visualization.report import Picture, Section, build_report

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
IMAGES = 6


def try_report(folder: str | Path) -> Path | None:
    """Draw a finished fine-tuning's report; what goes wrong is a warning, because the result is on disk already."""
    out = Path(folder) / REPORT_FILE
    again = f"the result is complete; draw it later with: tools/visualize.py report {folder} --out {out}"
    try:
        write_report([folder], out)
    except UserError as error:
        logger.warning("no %s: %s (%s)", REPORT_FILE, error, again)
    except Exception:
        logger.warning("no %s, because drawing failed (%s)", REPORT_FILE, again, exc_info=True)
    else:
        logger.info("wrote %s", out)
        return out
    return None


def write_report(
    given: Sequence[str | Path], out: str | Path, title: str = "", count: int = IMAGES, min_score: float = MIN_SCORE
) -> Path:
    """One html file about ``[LABEL=]FOLDER`` words (OUTPUT_DIRs of tools/finetune_det.py)."""
    groups = read_groups(given)
    names = ", ".join(group.label for group in groups)
    subtitle = ", ".join(str(group.folder) for group in groups)
    return build_report(title or f"Fine-tuning: {names}", report_sections(groups, count, min_score), out, subtitle)


def report_sections(
    groups: Sequence[DetectionGroup], count: int = IMAGES, min_score: float = MIN_SCORE, prefix: str = ""
) -> list[Section]:
    """All parts of the report, what one asks first on top; ``prefix`` goes before every heading."""
    sections = [
        headline_section(groups),
        detections_section(groups, count, min_score),
        pr_section(groups),
        classes_section(groups),
        losses_section(groups),
        settings_section(groups),
        weights_section(groups),
        time_section(groups),
    ]
    return [replace(s, heading=prefix + (_lower(s.heading) if prefix else s.heading)) for s in sections]


def _lower(heading: str) -> str:
    """Without a capital in front, except of an abbreviation."""
    return heading if heading[:2].isupper() else heading[0].lower() + heading[1:]


def detections_section(groups: Sequence[DetectionGroup], count: int = IMAGES, min_score: float = MIN_SCORE) -> Section:
    """Detections beside the ground truth, per engine and test set; of several seeds the first.

    Where the images are gone (a report made elsewhere) the section says so instead.
    """
    heading, short, figures, missing = "Detections", short_names(groups), [], []
    for protocol, dataset, part in by_protocol(groups):
        found = []
        for group in part:
            file = group.first.predictions(dataset)
            if file is not None:
                seed = f", seed {group.first.result['seed']}" if len(group.runs) > 1 else ""
                found.append(load_detections(group.label + seed, file))
        if not found:
            continue
        try:
            figures.append(detections_picture(found, count, min_score, f"{short[dataset]} ({protocol})"))
        except UserError as error:
            logger.warning("no detections in the report: %s", error)
            missing.append(f"{short[dataset]} is not drawn, because the test data is not here: {error}")
    return Section(heading, "\n\n".join(missing), figures=figures)


def pr_section(groups: Sequence[DetectionGroup]) -> Section:
    """Precision-recall curves per engine and test set."""
    short = short_names(groups)
    figures = [
        picture
        for protocol, dataset, part in by_protocol(groups)
        if (picture := pr_picture(part, dataset, f"{short[dataset]} ({protocol})"))
    ]
    return Section("Precision and recall", figures=figures)


def losses_section(groups: Sequence[DetectionGroup]) -> Section:
    """Losses, learning rate and time per iteration; a line per seed."""
    runs: list[Run] = [
        load_run(run.path, group.label) for group in groups for run in group.runs if (run.path / METRICS_FILE).is_file()
    ]
    if not runs:
        return Section("Training curves")
    caption = "Numbers logged in training." + (" One line per seed." if len(runs) > len(groups) else "")
    return Section("Training curves", figures=[Picture(curves_figure(runs), caption, wide=True)])
