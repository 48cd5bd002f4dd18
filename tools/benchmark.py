#!/usr/bin/env python
"""Measure what training and loading cost, as ratios inside one run; print a table with the goals.

verbs:
  step      a training step: CAST beside MoCo, the official form, low precision; on a GPU beside supervised training
  data      two views with masks from JPEGs, beside a torchvision pipeline; every stage; the constrained crop
  knn       weighted k-NN among a million simulated features of 2048 numbers: rate, memory, beside a plain search
  saliency  maps without weights: ms per image and stage, time for COCO; with --photos how good they are
"""

from __future__ import annotations

import argparse

from ssl_loc.benchmark.rows import Row, format_rows, write_rows
from ssl_loc.utils.cli import run_tool

EXAMPLES = """
examples:
  python tools/benchmark.py data --json data.json
  python tools/benchmark.py data --rounds 3 --images 8       # a quick look
  python tools/benchmark.py step --depths 18 --size 112 --device cpu
  python tools/benchmark.py step --device cuda
  python tools/benchmark.py knn --rows 100000 --queries 128  # a quick look
  python tools/benchmark.py saliency --photos /data/ECSSD    # holds images/ and masks/

Figures of other programs running at the same time are in the absolute times; the ratios suffer less, since contenders
alternate. "holds" compares a figure with its goal.
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=["step", "data", "knn", "saliency"], help="what to measure")
    parser.add_argument(
        "--json", metavar="F", help="also write the rows {name, value, unit, baseline, goal, holds} here"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="turns of each contender (default: step 7, knn 3, others 9)"
    )
    parser.add_argument("--images", type=int, default=24, metavar="N", help="data: pictures per turn (default 24)")
    parser.add_argument("--size", type=int, default=112, metavar="PX", help="step: side of the views (default 112)")
    parser.add_argument("--depths", type=int, nargs="+", default=[18, 50], metavar="D", help="step: ResNets (18 50)")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="step: where (default auto)")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="knn: training features (1000000)")
    parser.add_argument("--queries", type=int, default=512, metavar="N", help="knn: test features (default 512)")
    parser.add_argument("--photos", default="", metavar="DIR", help="saliency: a folder with images/ and masks/")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> list[Row]:
    # Each verb imports only what it measures: the others' packages need not be there.
    if args.verb == "data":
        from ssl_loc.benchmark import data

        return data.run(args.images, args.rounds or 9)
    if args.verb == "step":
        from ssl_loc.benchmark import step

        return step.run(args.size, args.rounds or 7, tuple(args.depths), args.device)
    if args.verb == "knn":
        from ssl_loc.benchmark import knn

        return knn.run(args.rows, args.queries, args.rounds or 3)
    from ssl_loc.benchmark import saliency

    return saliency.run(args.photos, args.rounds or 9)


def main() -> None:
    args = parse_args()
    rows = measure(args)
    print(format_rows(rows))
    if args.json:
        write_rows(args.json, rows)


if __name__ == "__main__":
    run_tool(main)
