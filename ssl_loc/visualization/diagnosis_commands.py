"""The subcommands of ``tools/visualize.py`` that ask a network what it thinks is alike and where it looks."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ssl_loc.config import construct
from ssl_loc.evaluation import class_grounding, input_gradients
from ssl_loc.evaluation import neighbours as neighbours_protocol
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.weights import Weights, open_weights, unique_labels
from ssl_loc.visualization import class_cams as class_cams_pictures
from ssl_loc.visualization import gradients as gradient_pictures
from ssl_loc.visualization import neighbours as neighbour_pictures
from ssl_loc.visualization.report import Picture
from ssl_loc.visualization.style import save

logger = logging.getLogger(__name__)

Command = Callable[[str, Callable[[argparse.Namespace], None]], argparse.ArgumentParser]


def add_commands(command: Command) -> None:
    """Declare the subcommands; ``command`` makes a parser with --out."""
    made = [command(run.__name__, run) for run in (class_cams, neighbours, gradients)]
    for each in made:
        each.add_argument(
            "--weights", required=True, nargs="+", metavar="[LABEL=]F", help="run folders, checkpoints, exported trunks"
        )
        each.add_argument("--data", required=True, metavar="D", help="TRAIN,VAL or a dataset, as in evaluate.py")
        each.add_argument("--count", type=int, default=6, help="photos (default 6)")
        each.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="as in evaluate.py")
    for each in (made[0], made[2]):
        each.add_argument(
            "--masks", default="ground_truth", metavar="M", help="ground_truth (default), folder:DIR, or none"
        )
    for each, choices in ((made[1], neighbour_pictures.SHOW), (made[2], gradient_pictures.SHOW)):
        each.add_argument("--show", default=choices[0], choices=choices, help=f"which photos (default {choices[0]})")


def class_cams(args: argparse.Namespace) -> None:
    """Class Grad-CAM of a linear probe, several models side by side."""
    weights, data, protocol = _open(args, class_grounding.ClassGrounding)
    _write(class_cams_pictures.class_cams_picture(weights, data, protocol, args.count), args.out, "class_cams")


def neighbours(args: argparse.Namespace) -> None:
    """Photos with their nearest neighbours in embedding space."""
    weights, data, protocol = _open(args, neighbours_protocol.NearestNeighbours)
    made = neighbour_pictures.neighbours_picture(weights, data, protocol, args.count, args.show)
    _write(made, args.out, "neighbours")


def gradients(args: argparse.Namespace) -> None:
    """Error patterns: photo, input gradient of its class, nearest neighbours."""
    weights, data, protocol = _open(args, input_gradients.InputGradients)
    made = gradient_pictures.gradients_picture(weights, data, protocol, args.count, args.show)
    _write(made, args.out, "gradients")


def _open(args: argparse.Namespace, protocol: Any) -> tuple[list[Weights], EvalData, Any]:
    options = load_options(None, args.options)
    data = EvalData(args.data, getattr(args, "masks", "ground_truth"), options.LIMIT)
    weights = unique_labels([open_weights(word, options.DEVICE) for word in args.weights])
    return weights, data, construct(protocol, options)


def _write(picture: Picture, out: str, name: str) -> None:
    assert isinstance(picture.image, Figure)  # the pictures above are figures
    logger.info("wrote %s", save(picture.image, Path(out) / f"{name}.png"))
    logger.info("%s", picture.caption)
