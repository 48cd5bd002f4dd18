#!/usr/bin/env python
"""Run evaluation protocols on weights or maps: a json per protocol and weights, and one comparison table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssl_loc.config.imports_option import imports_option
from ssl_loc.engine.signals import STATUS_BASE, RunStopped
from ssl_loc.evaluation import EVALUATOR_REGISTRY, EvalData, open_maps, open_weights
from ssl_loc.evaluation.comparison import terminal_table, write_comparison
from ssl_loc.evaluation.options import load_options
from ssl_loc.evaluation.results import read_results
from ssl_loc.evaluation.runner import run_protocols
from ssl_loc.evaluation.saliency_maps import errors_table
from ssl_loc.evaluation.weights import unique_labels
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.logger import setup_logger
from ssl_loc.utils.seeds import SEEDS_HELP, parse_seeds

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
  # Fine-tuning on a published set; the same command continues a stopped run (finetune_quick.yaml: minutes on a CPU).
  python tools/evaluate.py --protocol finetune --config-file configs/eval/finetune_cub.yaml --weights output/byol \\
      --data cub_train,cub_test --out output/eval --seeds 3
  # A paper's protocol from configs/eval, with its published numbers beside yours; stopped, the same command goes on.
  python tools/evaluate.py --protocol svm --config-file configs/eval/voc07_svm_cast.yaml --weights output/cast \
      --data voc:VOCdevkit:2007 --out output/eval
  # How good are saliency maps? Folders of maps (any producer) against masks, by name; the first one is the reference.
  python tools/evaluate.py --protocol saliency --maps RBD=maps/rbd maps/mc --masks folder:masks --out output/maps
  # Options of a protocol (see its file), from the command line or from a yaml in configs/eval.
  python tools/evaluate.py --protocol grounding --weights output/cast --data folder:photos --masks folder:maps \\
      --out output/eval --set GROUNDING.THRESHOLD 0.4 SIZE 96
"""


def parse_args() -> argparse.Namespace:
    project = imports_option()
    protocols = "\n".join(
        f"  {name:<10} v{cls.version}  {(cls.__doc__ or '').splitlines()[0]}" for name, cls in EVALUATOR_REGISTRY
    )
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES.format(protocols=protocols),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[project],
    )
    parser.add_argument("--protocol", required=True, metavar="P[,P]", help="protocols, separated by commas")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--weights", nargs="+", default=[], metavar="[LABEL=]F", help="runs, checkpoints, backbones, or random:CONFIG"
    )
    what.add_argument("--maps", nargs="+", default=[], metavar="[LABEL=]DIR", help="folders of saliency maps")
    parser.add_argument(
        "--data", default="", metavar="D", help="dataset, or a folder with train/ and val/ classes (maps: optional)"
    )
    parser.add_argument("--masks", default="ground_truth", metavar="M", help="ground_truth (default) or folder:DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="results/*.json and comparison.{csv,html} go here")
    parser.add_argument("--seeds", default="", metavar="N", help=f"mean and deviation over {SEEDS_HELP}")
    parser.add_argument("--again", action="store_true", help="compute anew what OUT already has")
    parser.add_argument(
        "--cache", default="", metavar="DIR", help="features are kept here (default OUT/features); off = in memory only"
    )
    parser.add_argument("--config-file", metavar="F", help="yaml with protocol options (configs/eval)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="overrides", help="protocol options")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    setup_logger()
    cache = {"": str(Path(args.out) / "features"), "off": ""}.get(args.cache, args.cache)
    options = load_options(args.config_file, ["CACHE", cache, *args.overrides])
    names = [name.strip() for name in args.protocol.split(",") if name.strip()]
    for name in names:
        EVALUATOR_REGISTRY.get(name)
    if args.weights and not args.data:
        raise ConfigError("--weights needs --data; expected a dataset, or a folder with train/ and val/ (see --help)")
    data = EvalData(args.data, args.masks, options.LIMIT)
    weights = [open_weights(given, options.DEVICE) for given in args.weights]
    weights = unique_labels(weights + [open_maps(given) for given in args.maps])
    seeds = parse_seeds(args.seeds) if args.seeds else []
    try:
        run_protocols(names, weights, data, options, args.out, seeds, args.again)
    except RunStopped as stopped:
        print(stopped)
        return STATUS_BASE + stopped.signal
    results = read_results([args.out])
    table = write_comparison(results, args.out)
    print(f"\n{terminal_table(results)}\n")
    from ssl_loc.visualization.result_sections import write_comparison_html  # draws: not needed by --help

    page = write_comparison_html(results, args.out)
    if args.maps:
        from ssl_loc.visualization.map_curves import write_map_curves

        print(f"{errors_table(results)}\n\nwrote {write_map_curves(results, args.out)}\n")
    logging.getLogger(__name__).info("comparison of everything in %s: %s and %s", args.out, table, page)
    return 0


if __name__ == "__main__":
    run_tool(main)
