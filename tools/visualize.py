#!/usr/bin/env python
"""Pictures and reports as static files; no display is needed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.logger import setup_logger
from ssl_loc.visualization import commands, diagnosis_commands
from ssl_loc.visualization.detections import MIN_SCORE

EXAMPLES = """
examples:
  # Source photos with crop boxes and masks (constraint met or not), and the views made of them
  python tools/visualize.py views --config-file configs/quick/cast.yaml --out output/pictures \\
      DATA.TRAIN folder:photos DATA.MASKS.SOURCE folder DATA.MASKS.ROOT maps
  # Similarity Grad-CAM of several models side by side
  python tools/visualize.py cams --weights MoCo=output/moco CAST=output/cast --data folder:photos --masks folder:maps \\
      --out output/pictures
  # The same for the class of a linear probe (any trunk); nearest neighbours; errors with their input gradients
  python tools/visualize.py class_cams --weights MoCo=moco.pth --data TRAIN,VAL --out output/pictures
  python tools/visualize.py neighbours --weights MoCo=moco.pth DiLo=dilo.pth --data TRAIN,VAL --out output/pictures
  python tools/visualize.py gradients --weights MoCo=moco.pth DiLo=dilo.pth --data TRAIN,VAL --out output/pictures
  # Density of the grounding IoU, from results of tools/evaluate.py
  python tools/visualize.py density --results output/eval --out output/pictures
  # Training curves; with --panels only those whose titles hold these words
  python tools/visualize.py curves --run MoCo=output/moco CAST=output/cast --out output/pictures --panels loss rank
  # Detections beside the ground truth, from OUTPUT_DIRs of tools/finetune_det.py
  python tools/visualize.py detections --results random=output/det_random CAST=output/det_cast \\
      --out output/pictures
  # Several fine-tunings side by side: AP (mean +- deviation where DIR holds seeds), curves, detections
  python tools/visualize.py report random=output/det_random MoCo=output/det_moco CAST=output/det_cast --out det.html
  # Which method, augmenters and losses work together (the same as text: tools/list_components.py --matrix)
  python tools/visualize.py matrix --out output/pictures
  # Evaluations alone: headline numbers, published ones beside them, backgrounds, how each was made
  python tools/visualize.py report --results output/eval --out eval.html
  # All of it in one html file that loads nothing from anywhere (TRAIN,VAL with classes: input gradients too)
  python tools/visualize.py report --run CAST=output/cast MoCo=output/moco \\
      --results output/eval CAST=output/det_cast --data folder:photos --masks folder:maps --out report.html

LABEL= names a model in tables and pictures; without it the name of its folder is used.
"""
MIN_SCORE_HELP = f"draw boxes from this score on, else the best few, dashed (default {MIN_SCORE:g})"
FORMAT = argparse.RawDescriptionHelpFormatter


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=FORMAT)
    sub = parser.add_subparsers(
        required=True, metavar="{views,cams,class_cams,neighbours,gradients,density,curves,detections,matrix,report}"
    )

    def command(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        made = sub.add_parser(name, help=(run.__doc__ or "").splitlines()[0], description=run.__doc__)
        made.set_defaults(run=run)
        made.add_argument("--out", required=True, metavar="PATH", help="folder for PNGs (report: the html file)")
        return made

    views = command("views", commands.views)
    views.add_argument("--config-file", required=True, metavar="F", help="config of the run")
    views.add_argument("--count", type=int, default=8, help="images (default 8)")
    views.add_argument("--epoch", type=int, default=0, help="another epoch has other crops")
    views.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")

    cams = command("cams", commands.cams)
    cams.add_argument("--weights", required=True, nargs="+", metavar="[LABEL=]F", help="run folders or checkpoints")
    cams.add_argument("--count", type=int, default=8, help="images (default 8)")
    cams.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="as in evaluate.py")

    diagnosis_commands.add_commands(command)
    density = command("density", commands.density)
    curves = command("curves", commands.curves)
    curves.add_argument(
        "--panels", nargs="+", default=[], metavar="W", help="words of titles: rank loss (default: all)"
    )
    detections = command("detections", commands.detections)
    detections.add_argument("--count", type=int, default=6, help="images (default 6)")

    matrix = command("matrix", commands.matrix)
    matrix.add_argument("--imports", nargs="+", default=[], metavar="FILE", help="project files to read first")
    matrix.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="config of the parts")

    report = command("report", commands.report)
    report.add_argument("--title", default="", help="default: names of the runs")
    report.add_argument("--count", type=int, default=6, help="images per picture (default 6)")
    report.add_argument("--weights", nargs="*", default=[], metavar="[LABEL=]F", help="default: the runs' checkpoints")
    report.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="as in evaluate.py")

    for each in (density, detections, report):
        each.add_argument(
            "--results", nargs="+", default=[], metavar="[LABEL=]R", help="result jsons or folders that hold them"
        )
    for each in (curves, report):
        what = "OUTPUT_DIRs of train_net.py or finetune_det.py"
        each.add_argument("folders", nargs="*", metavar="[LABEL=]DIR", help=what)
        each.add_argument("--run", nargs="+", default=[], metavar="[LABEL=]DIR", dest="runs", help="the same")
    for each in (detections, report):
        each.add_argument("--min-score", type=float, default=MIN_SCORE, metavar="S", help=MIN_SCORE_HELP)
    for each, needed in ((cams, True), (report, False)):
        each.add_argument("--data", required=needed, metavar="D", help="dataset, as in evaluate.py")
        each.add_argument("--masks", default="ground_truth", metavar="M", help="ground_truth or folder:DIR")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setup_logger()
    Path(args.out).resolve().parent.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    run_tool(main)
