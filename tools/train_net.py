#!/usr/bin/env python
"""Pretrain: read a config, build, train. All the work is in ssl_loc/engine."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from ssl_loc.components import setup_cfg
from ssl_loc.engine import launch, train
from ssl_loc.engine.signals import STATUS_BASE
from ssl_loc.utils.cli import run_tool

EPILOG = """\
examples
  on your own photos (any folder, labels not needed), with a few keys changed:
    tools/train_net.py --config-file configs/baselines/moco_v2_R50.yaml \\
        DATA.TRAIN folder:/photos OUTPUT_DIR runs/photos SOLVER.IMS_PER_BATCH 64 SOLVER.EPOCHS 100
  DATA.TRAIN takes a registered name (tools/list_components.py prints them; found under $SSL_LOC_DATASETS or
  ./datasets) or a path:
    folder:DIR   coco:DIR:SPLIT   voc:DEVKIT:YEAR:SPLIT   scenes:DIR:SPLIT
  CAST needs one saliency map per image (tools/make_saliency.py makes them):
    tools/train_net.py --config-file configs/cast/cast_coco_R50.yaml \\
        DATA.TRAIN folder:/photos DATA.MASKS.ROOT /photos_saliency OUTPUT_DIR runs/cast
  continue a run that was stopped, or make it longer:
    tools/train_net.py --config-file ... --resume [SOLVER.EPOCHS 400]
  start from the trunk of another run (weights only):
    tools/train_net.py --config-file ... MODEL.INIT_FROM runs/photos OUTPUT_DIR runs/tuned
  several GPUs of this machine, or as many processes on the CPU (the batch is global: results do not change):
    tools/train_net.py --config-file ... --num-gpus 4
    torchrun --nproc-per-node 4 tools/train_net.py --config-file ...
  several machines: torchrun --nnodes 2 --node-rank R --master-addr A --nproc-per-node 8 tools/train_net.py ...
  less memory: SOLVER.ACCUMULATE 2   SOLVER.AMP.ENABLED True   faster convolutions: MODEL.CHANNELS_LAST True

OUTPUT_DIR then holds config.yaml, env.txt, log.txt, metrics.jsonl, TensorBoard events and checkpoints/; take the
trunk out with tools/export_backbone.py OUTPUT_DIR --out backbone.pth.

Ctrl-C or SIGTERM finishes the step in progress, writes a checkpoint and exits with 130 or 143; --resume continues
there, bit for bit. A second Ctrl-C quits at once. Exit status 2: something given cannot work; the message says what.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain a method on images, as a config file says.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", required=True, metavar="F", help="yaml file, e.g. configs/cast/cast_coco_R50.yaml"
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=0,
        metavar="N",
        help="processes to start on this machine (default: 1, or torchrun's)",
    )
    parser.add_argument("--resume", action="store_true", help="continue OUTPUT_DIR's last checkpoint, if there is one")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change")
    # Intermixed: options may come before, between or after the KEY VALUE pairs.
    return parser.parse_intermixed_args(argv)


def run(config_file: str, overrides: list[str], resume: bool) -> dict[str, Any]:
    """What each process does."""
    return train(setup_cfg(config_file, overrides), resume)


def main() -> int:
    args = parse_args()
    # Read here too, so that a wrong key is found before any process starts.
    cfg = setup_cfg(args.config_file, args.overrides)
    try:
        result = launch(
            partial(run, args.config_file, args.overrides, args.resume), num_processes=args.num_gpus, device=cfg.DEVICE
        )
    except KeyboardInterrupt:
        print("interrupted at once; the last checkpoint is as it was", file=sys.stderr)
        return STATUS_BASE + 2
    return STATUS_BASE + result["stopped_by"] if result["stopped_by"] else 0


if __name__ == "__main__":
    run_tool(main)
