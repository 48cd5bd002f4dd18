"""What each subcommand of ``tools/visualize.py`` does with its arguments."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from matplotlib.figure import Figure

from ssl_loc.components import setup_cfg
from ssl_loc.config import construct
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.runner import read_results
from ssl_loc.evaluation.weights import Weights, open_weights, unique_labels
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.visualization.cams import cams_figure, compute_cams
from ssl_loc.visualization.curves import curves_figure, load_runs
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.report import build_report
from ssl_loc.visualization.run_report import (
    cams_section,
    curves_section,
    density_section,
    detections_section,
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
    weights, protocol, data = _grounding(args, args.weights)
    batch, panels = compute_cams(weights, data, protocol, args.count)
    _write(cams_figure(batch, panels), args.out, "cams")


def density(args: argparse.Namespace) -> None:
    """Density of the grounding IoU of several models."""
    _write(density_figure(_results(args)), args.out, "density")


def curves(args: argparse.Namespace) -> None:
    """Training curves of several runs."""
    _write(curves_figure(load_runs(args.runs)), args.out, "curves")


def detections(args: argparse.Namespace) -> None:
    """Saved detections beside the ground truth."""
    section = detections_section(_results(args), args.count)
    if not section.figures:
        raise DataError("no predictions beside the given results; expected OUTPUT_DIRs of tools/finetune_det.py")
    for i, picture in enumerate(section.figures):
        assert isinstance(picture.image, Figure)  # detections_section draws figures
        _write(picture.image, args.out, "detections" + (f"_{i}" if i else ""))


def report(args: argparse.Namespace) -> None:
    """Everything about one run (or several side by side) in one html file."""
    if Path(args.out).suffix != ".html":
        raise ConfigError(f"--out is {args.out}; expected the name of an .html file")
    folders = [Path(run) for run in args.runs]
    runs = load_runs(args.runs)
    results = read_results(args.results) if args.results else []
    sections = [numbers_section(results), settings_section(folders), curves_section(runs)]
    sections.append(views_section(folders, args.count))
    if args.data:
        weights, protocol, data = _grounding(args, args.weights or args.runs)
        sections.append(cams_section(weights, data, protocol, args.count))
    sections += [density_section(results), detections_section(results, args.count)]
    title = args.title or f"Pretraining: {', '.join(run.label for run in runs)}"
    subtitle = ", ".join(str(folder) for folder in folders)
    logger.info("wrote %s", build_report(title, sections, args.out, subtitle))


def _grounding(args: argparse.Namespace, given: list[str]) -> tuple[list[Weights], Grounding, EvalData]:
    options = load_options(None, args.options)
    weights = unique_labels([open_weights(word, options.DEVICE) for word in given])
    return weights, construct(Grounding, options), EvalData(args.data, args.masks, options.LIMIT)


def _results(args: argparse.Namespace) -> list[dict]:
    if not args.results:
        raise ConfigError(
            "--results is missing; expected jsons or folders that tools/evaluate.py or finetune_det.py wrote"
        )
    return read_results(args.results)


def _write(fig: Figure, out: str, name: str) -> None:
    logger.info("wrote %s", save(fig, Path(out) / f"{name}.png"))
