#!/usr/bin/env python
"""Run evaluation protocols on weights: a json per protocol and weights, and one comparison table."""

from __future__ import annotations

import argparse
import logging

from ssl_loc.evaluation import EVALUATOR_REGISTRY, EvalData, open_weights
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.runner import read_results, run_protocols, terminal_table, write_comparison
from ssl_loc.evaluation.weights import unique_labels
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.logger import setup_logger

EXAMPLES = """
protocols:
{protocols}

examples:
  # Does the model look at the object? Checkpoints or run folders; masks are the dataset's objects.
  python tools/evaluate.py --protocol grounding --weights output/moco output/cast \\
      --data coco:datasets/coco:val2017 --out output/eval
  # The same with a folder of maps (DIR/<image name>.png), names for the table, and an untrained network as baseline.
  python tools/evaluate.py --protocol grounding --weights random=random:output/cast/config.yaml CAST=output/cast \\
      --data folder:photos --masks folder:maps --out output/eval
  # Classification from frozen features; also takes exported backbones. photos/ has train/<class>/ and val/<class>/.
  python tools/evaluate.py --protocol knn,linear --weights backbone.pth --data photos --out output/eval
  # Options of a protocol (see its file), from the command line or from a yaml in configs/eval.
  python tools/evaluate.py --protocol grounding --weights output/cast --data folder:photos --masks folder:maps \\
      --out output/eval --set GROUNDING.THRESHOLD 0.4 SIZE 96
"""


def parse_args() -> argparse.Namespace:
    protocols = "\n".join(
        f"  {name:<10} v{cls.version}  {(cls.__doc__ or '').splitlines()[0]}" for name, cls in EVALUATOR_REGISTRY
    )
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES.format(protocols=protocols),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--protocol", required=True, metavar="P[,P]", help="protocols, separated by commas")
    parser.add_argument(
        "--weights",
        required=True,
        nargs="+",
        metavar="[LABEL=]F",
        help="run folders, checkpoints, exported backbones, or random:CONFIG",
    )
    parser.add_argument("--data", required=True, metavar="D", help="dataset, or a folder with train/ and val/ classes")
    parser.add_argument("--masks", default="ground_truth", metavar="M", help="ground_truth (default) or folder:DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="results/*.json and comparison.csv go here")
    parser.add_argument("--config-file", metavar="F", help="yaml with protocol options (configs/eval)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="overrides", help="protocol options")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setup_logger()
    options = load_options(args.config_file, args.overrides)
    names = [name.strip() for name in args.protocol.split(",") if name.strip()]
    for name in names:
        EVALUATOR_REGISTRY.get(name)
    data = EvalData(args.data, args.masks, options.LIMIT)
    weights = unique_labels([open_weights(given, options.DEVICE) for given in args.weights])
    run_protocols(names, weights, data, options, args.out)
    results = read_results([args.out])
    table = write_comparison(results, args.out)
    print(f"\n{terminal_table(results)}\n")
    logging.getLogger(__name__).info("comparison of everything in %s: %s", args.out, table)


if __name__ == "__main__":
    run_tool(main)
