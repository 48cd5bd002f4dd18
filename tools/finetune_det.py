#!/usr/bin/env python
"""Fine-tune and evaluate a detector from an exported backbone. One recipe, two engines; see --help."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.seeds import SEEDS_HELP, parse_seeds

EXAMPLES = """\
examples:
  # Faster R-CNN FPN on procedural scenes (tools/make_scenes.py), minutes on a CPU; backbone.pth comes from
  # tools/export_backbone.py
  tools/finetune_det.py --config-file configs/detection/quick/scenes_narrow_FPN.yaml --weights backbone.pth

  # the same from random weights, for comparison, into another folder
  tools/finetune_det.py --config-file configs/detection/quick/scenes_narrow_FPN.yaml --weights random \\
      OUTPUT_DIR output/from_random

  # Faster R-CNN C4 on your own VOC tree, shorter, on the torchvision engine
  tools/finetune_det.py --config-file configs/detection/quick/voc_R18_C4.yaml --weights backbone.pth \\
      --engine torchvision DATASETS.TRAIN "('voc:/data/VOCdevkit:2007:trainval',)" \\
      DATASETS.TEST "('voc:/data/VOCdevkit:2007:test',)" SOLVER.MAX_ITER 100 SOLVER.STEPS "(80,)"

  # look at recipe, weights and data first: seconds, all problems in one list, nothing written
  tools/finetune_det.py --config-file ... --weights backbone.pth --dry-run

  # several GPUs, or processes on the CPU; the papers' recipes keep their images: batch, lr and lengths follow N
  tools/finetune_det.py --config-file ... --weights backbone.pth --num-gpus 8

  # five seeds, mean and standard deviation; the same command goes on after a stop
  tools/finetune_det.py --config-file ... --weights backbone.pth --seeds 5 OUTPUT_DIR output/det

  # evaluate a detector that was fine-tuned before, into a folder of its own
  tools/finetune_det.py --config-file configs/detection/quick/voc_R18_C4.yaml --eval-only \\
      --weights output/detection/quick_voc_R18_C4/model_final.pth OUTPUT_DIR output/evaluation

what OUTPUT_DIR holds afterwards:
  report.html (look here first)  recipe.yaml  log.txt  metrics.jsonl (losses)  model_final.pth  result.json (AP,
  engine, versions, digest of the weights)  inference/*.json (every detection, scores per class);
  with --seeds: result.json and report.html of all seeds, and all of the above in seed_<s>/ of each

Ctrl-C or SIGTERM finishes the step in progress, writes a checkpoint and exits with 130 or 143; --resume continues
there, bit for bit. A second Ctrl-C quits at once.

datasets: coco_2017_{train,val}, voc_{2007,2012}_{train,val,trainval,test}, scenes_{train,val} under $SSL_LOC_DATASETS
  (default ./datasets), or paths: coco:DIR:SPLIT, voc:DEVKIT:YEAR:SPLIT, scenes:DIR:SPLIT
"""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What each process does."""
    from ssl_loc.transfer.command import finetune
    from ssl_loc.transfer.stop import RunStopped

    recipe = load_recipe(args.config_file, args.overrides)
    seeds = parse_seeds(args.seeds) if args.seeds else []
    draw = None if args.no_report else draw_report
    try:
        return finetune(recipe, args.weights, args.engine, args.eval_only, args.resume, seeds, draw, args.config_file)
    except RunStopped as stopped:
        return {"stopped_by": stopped.signal}


def draw_report(folder: str) -> None:
    from ssl_loc.visualization.detection_report import try_report  # pulls in matplotlib

    try_report(folder)


def main() -> int:
    args = parse()
    recipe = load_recipe(args.config_file, args.overrides)  # here too: wrong keys before any process starts
    if args.dry_run:
        from ssl_loc.transfer.dry_run import print_dry_run

        options = args.eval_only, args.num_gpus, args.resume, args.seeds
        return print_dry_run(recipe, args.weights, args.engine, *options)
    device = recipe.MODEL.DEVICE
    from ssl_loc.engine import launch
    from ssl_loc.engine.signals import STATUS_BASE

    try:
        result = launch(partial(run, args), args.num_gpus, "cpu" if device.startswith("cpu") else "auto")
    except KeyboardInterrupt:
        print("interrupted at once; the last checkpoint is as it was, --resume continues it", file=sys.stderr)
        return STATUS_BASE + 2
    return STATUS_BASE + result["stopped_by"] if "stopped_by" in result else 0


def parse() -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=form)
    what = "recipe in detectron2's key names (configs/detection)"
    parser.add_argument("--config-file", required=True, metavar="F", help=what)
    what = "exported backbone; 'random' trains from scratch; with --eval-only a fine-tuned detector"
    parser.add_argument("--weights", required=True, metavar="W", help=what)
    what = "'auto' takes detectron2 if it is installed, else torchvision (default: the recipe's TRANSFER.ENGINE)"
    parser.add_argument("--engine", choices=("auto", "detectron2", "torchvision"), help=what)
    parser.add_argument(
        "--num-gpus", type=int, default=0, metavar="N", help="processes on this machine (default: 1, or torchrun's)"
    )
    parser.add_argument("--seeds", default="", metavar="N", help=f"fine-tune repeatedly: {SEEDS_HELP}")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the detector given as --weights")
    what = "only check recipe, weights and data; exit status 1 if there is a problem"
    parser.add_argument("--dry-run", action="store_true", help=what)
    parser.add_argument("--no-report", action="store_true", help="draw no report.html")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR, if there is one")
    what = "recipe keys to change, e.g. SOLVER.BASE_LR 0.01"
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help=what)
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_tool(main)
