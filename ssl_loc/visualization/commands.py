"""What each subcommand of ``tools/visualize.py`` does with its arguments."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from ssl_loc.components import setup_cfg
from ssl_loc.config import construct
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.weights import Weights, open_weights, unique_labels
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.visualization.cams import cams_figure, compute_cams
from ssl_loc.visualization.curves import curves_figure, load_runs
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.detection_report import detections_section, report_sections
from ssl_loc.visualization.detection_runs import is_detection_folder, read_groups
from ssl_loc.visualization.labels import labelled_results, name_runs, split_label
from ssl_loc.visualization.report import build_report
from ssl_loc.visualization.run_report import (
    cams_section,
    curves_section,
    density_section,
    numbers_section,
    settings_section,
    views_section,
)
from ssl_loc.visualization.style import save
from ssl_loc.visualization.views import sample_views, views_caption, views_figure

logger = logging.getLogger(__name__)


def views(args: argparse.Namespace) -> None:
    """Sources with crop boxes and masks, and the views made of them."""
    rows = sample_views(setup_cfg(args.config_file, args.overrides), args.count, args.epoch)
    _write(views_figure(rows), args.out, "views")
    logger.info("%s", views_caption(rows))


def cams(args: argparse.Namespace) -> None:
    """Similarity Grad-CAM of several models side by side."""
    weights, protocol, data = _grounding(args)
    batch, panels = compute_cams(weights, data, protocol, args.count)
    _write(cams_figure(batch, panels), args.out, "cams")


def density(args: argparse.Namespace) -> None:
    """Density of the grounding IoU of several models."""
    _write(density_figure(labelled_results(_required(args))), args.out, "density")


def curves(args: argparse.Namespace) -> None:
    """Training curves of several runs."""
    _write(curves_figure(load_runs(name_runs(_runs(args)))), args.out, "curves")


def detections(args: argparse.Namespace) -> None:
    """Saved detections beside the ground truth."""
    words = [word for word in _required(args) if is_detection_folder(split_label(word)[1])]
    section = detections_section(read_groups(words), args.count, args.min_score)
    if not section.figures:
        reason = section.text or "no predictions beside the given results; expected OUTPUT_DIRs of finetune_det.py"
        raise DataError(reason)
    for i, picture in enumerate(section.figures):
        assert isinstance(picture.image, Figure)  # detections_section draws figures
        _write(picture.image, args.out, "detections" + (f"_{i}" if i else ""))
        logger.info("%s", picture.caption)


def report(args: argparse.Namespace) -> None:
    """Everything about one run (or several side by side) in one html file."""
    if Path(args.out).suffix != ".html":
        raise ConfigError(f"--out is {args.out}; expected the name of an .html file")
    given = _runs(args)
    fine_tunings = [word for word in (*given, *args.results) if is_detection_folder(split_label(word)[1])]
    args.runs = [word for word in given if word not in fine_tunings]
    results = labelled_results([word for word in args.results if word not in fine_tunings])
    groups = read_groups(fine_tunings)
    found = report_sections(groups, args.count, args.min_score, "Detectors: " if args.runs else "") if groups else []
    # All numbers on top.
    sections = [numbers_section(results), *found[:1]]
    folders = name_runs(args.runs)
    if folders:
        sections += [settings_section(folders), curves_section(load_runs(folders)), views_section(folders, args.count)]
    if args.data:
        weights, protocol, data = _grounding(args)
        sections.append(cams_section(weights, data, protocol, args.count))
    sections.append(density_section(results))
    sections += found[1:]
    labels = {"Pretraining": [run.label for run in folders], "Fine-tuning": [group.label for group in groups]}
    titles = [f"{what}: {', '.join(names)}" for what, names in labels.items() if names]
    subtitle = ", ".join(str(path) for path in [*(run.path for run in folders), *(g.folder for g in groups)])
    logger.info("wrote %s", build_report(args.title or titles[0], sections, args.out, subtitle))


def _grounding(args: argparse.Namespace) -> tuple[list[Weights], Grounding, EvalData]:
    """The weights given, else those of the runs under the runs' names."""
    options = load_options(None, args.options)
    weights = [open_weights(word, options.DEVICE) for word in args.weights]
    if not weights:
        for run in name_runs(args.runs):
            weights.append(replace(open_weights(str(run.path), options.DEVICE), label=run.label))
    weights = unique_labels(weights)
    return weights, construct(Grounding, options), EvalData(args.data, args.masks, options.LIMIT)


def _runs(args: argparse.Namespace) -> list[str]:
    """Folders given as words of their own and after --run."""
    if not [*args.folders, *args.runs]:
        raise ConfigError("no run is given; expected OUTPUT_DIRs of tools/train_net.py or tools/finetune_det.py")
    return [*args.folders, *args.runs]


def _required(args: argparse.Namespace) -> list[str]:
    if not args.results:
        raise ConfigError(
            "--results is missing; expected jsons or folders that tools/evaluate.py or finetune_det.py wrote"
        )
    return args.results


def _write(fig: Figure, out: str, name: str) -> None:
    logger.info("wrote %s", save(fig, Path(out) / f"{name}.png"))
