"""What each subcommand of ``tools/visualize.py`` does with its arguments."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from matplotlib.figure import Figure

from ssl_loc.compatibility import Matrix
from ssl_loc.components import get_cfg, load_components, setup_cfg
from ssl_loc.config import construct
from ssl_loc.config.node import import_part
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.weights import Weights, open_weights, unique_labels
from ssl_loc.utils.errors import ConfigError, DataError, UserError, WeightsError
from ssl_loc.visualization.cams import cams_figure, compute_cams
from ssl_loc.visualization.curves import curves_figure, load_runs
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.detection_report import detections_section
from ssl_loc.visualization.detection_runs import is_detection_folder, read_groups
from ssl_loc.visualization.full_report import Material, full_sections
from ssl_loc.visualization.labels import labelled_results, name_runs, split_label
from ssl_loc.visualization.matrix import matrix_figure
from ssl_loc.visualization.model_pictures import model_pictures
from ssl_loc.visualization.report import Picture, Section, build_report
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
    _write(curves_figure(load_runs(name_runs(_runs(args))), only=args.panels), args.out, "curves")


def detections(args: argparse.Namespace) -> None:
    """Saved detections beside the ground truth."""
    words = [word for word in _required(args) if is_detection_folder(split_label(word)[1])]
    section = detections_section(read_groups(words), args.count, args.min_score)
    if not section.figures:
        reason = section.text or "no predictions beside the given results; expected OUTPUT_DIRs of finetune_det.py"
        raise DataError(reason)
    for i, picture in enumerate(section.figures):
        assert isinstance(picture, Picture) and isinstance(picture.image, Figure)  # detections_section draws figures
        _write(picture.image, args.out, "detections" + (f"_{i}" if i else ""))
        logger.info("%s", picture.caption)


def matrix(args: argparse.Namespace) -> None:
    """Which method, augmenters and losses work together."""
    load_components()
    for name in args.imports:
        import_part(name, Path.cwd(), "--imports")
    cfg = get_cfg()
    cfg.merge_from_list(args.options)
    _write(matrix_figure(Matrix(cfg)), args.out, "matrix")


def report(args: argparse.Namespace) -> None:
    """Everything about one run (or several side by side) in one html file."""
    if Path(args.out).suffix != ".html":
        raise ConfigError(f"--out is {args.out}; expected the name of an .html file")
    given = [*args.folders, *args.runs]
    if not given and not args.results:
        raise ConfigError(
            "nothing to report on; expected OUTPUT_DIRs of tools/train_net.py or tools/finetune_det.py, or --results "
            "with what tools/evaluate.py wrote"
        )
    fine_tunings = [word for word in (*given, *args.results) if is_detection_folder(split_label(word)[1])]
    args.runs = [word for word in given if word not in fine_tunings]
    args.folders = []
    material = Material(
        runs=name_runs(args.runs),
        results=labelled_results([word for word in args.results if word not in fine_tunings]),
        detectors=read_groups(fine_tunings),
        pictures=_pictures(args),
        count=args.count,
        min_score=args.min_score,
    )
    made = build_report(args.title or _title(material), full_sections(material), args.out, _subtitle(material))
    logger.info("wrote %s (%.1f MB)", made, made.stat().st_size / 1e6)


def _pictures(args: argparse.Namespace) -> dict[str, Callable[[], Section]]:
    """Heading -> section made from --data; empty where there are no images or no weights to show."""
    if not args.data or not (args.weights or args.runs):
        return {}
    try:
        weights, _, data = _grounding(args)
    except WeightsError as error:
        if args.weights:
            raise
        # A run without a checkpoint still has curves and views.
        return {"Pictures of the models": partial(_refuse, error)}
    return model_pictures(weights, data, load_options(None, args.options), args.count)


def _refuse(error: UserError) -> NoReturn:
    raise error


def _title(material: Material) -> str:
    measured = [r["details"]["label"] for r in material.results]
    named = {
        "Pretraining": [run.label for run in material.runs],
        "Fine-tuning": [group.label for group in material.detectors],
    }
    titles = [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
    if _uncovered(material):
        return f"Evaluation of {len(dict.fromkeys(measured))} models"
    return titles[0] if titles else f"Evaluation: {', '.join(dict.fromkeys(measured))}"


def _subtitle(material: Material) -> str:
    files = [Path(r["file"]).parent for r in material.results] if not material.runs else []
    folders = [*(run.path for run in material.runs), *(g.folder for g in material.detectors), *files]
    where = ", ".join(dict.fromkeys(map(str, folders)))
    if not _uncovered(material):
        return where
    names = ", ".join(run.label for run in material.runs)
    return f"Tables and bars show every model; curves, views, settings and pictures of maps {names} only. {where}"


def _uncovered(material: Material) -> bool:
    """Whether there are numbers of models whose runs are not given."""
    runs = {run.label for run in material.runs}
    return bool(runs) and any(r["details"]["label"] not in runs for r in material.results)


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
