"""Make, list or check a folder of saliency maps: ROOT/<path of the image without suffix>.png plus ROOT/manifest.json.

Examples:
  # maps that some other program made (any producer): write down what they are
  python tools/make_saliency.py --method precomputed --out maps/ --estimator deep-usps --uses-labels yes

  # masks from a dataset's own objects (an oracle that uses labels)
  python tools/make_saliency.py coco:/data/coco:train2017 --method ground_truth --out maps/

  # do the maps fit the images? lists every problem; exit status 1 if there is one
  python tools/make_saliency.py /data/photos --check --out maps/

  # then train with them
  python tools/train_net.py --config-file configs/quick/cast.yaml DATA.TRAIN folder:/data/photos \\
      DATA.MASKS.SOURCE folder DATA.MASKS.ROOT maps/
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.ground_truth import write_ground_truth_maps
from ssl_loc.data.masks import check_dataset_maps
from ssl_loc.saliency.manifest import DEFAULT_THRESHOLD, Manifest, write_manifest
from ssl_loc.saliency.store import MAX_REDUCE
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.errors import ConfigError

METHODS = ("precomputed", "ground_truth")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--method", choices=METHODS, help="how the maps come about")
    what.add_argument("--check", action="store_true", help="compare the maps with the images of DATASET")
    p.add_argument(
        "dataset", nargs="?", metavar="DATASET", help="a folder, coco:DIR:SPLIT, voc:..., scenes:..., or a name"
    )
    p.add_argument("--out", required=True, metavar="ROOT", help="folder of the maps")
    p.add_argument("--threshold", type=int, default=DEFAULT_THRESHOLD, help="salient = grey value above this (128)")
    g = p.add_argument_group("precomputed")
    g.add_argument("--estimator", help="what made the maps, e.g. deep-usps")
    g.add_argument("--uses-labels", choices=("yes", "no"), help="did labels of any kind go into them?")
    g.add_argument("--preset", default="", help="its settings, in a word")
    g.add_argument("--version", default="", help="its version")
    g = p.add_argument_group("ground_truth")
    g.add_argument("--objects", choices=("masks", "boxes"), default="masks", help="what is drawn (default: masks)")
    g.add_argument("--reduce", type=int, default=1, metavar="N", help="store at 1/N of the image size, 1 to 16")
    g.add_argument("--overwrite", action="store_true", help="draw maps again that exist")
    g = p.add_argument_group("check")
    g.add_argument(
        "--allow", nargs="+", default=[], metavar="KIND", choices=("empty", "full"), help="no failure if ..."
    )
    return p


def check(args: argparse.Namespace) -> int:
    """Print every problem; status 1 if one is not allowed."""
    report = check_dataset_maps(get_dataset(_needed(args, "dataset")).records, args.out, args.threshold)
    found = report.found()
    for kind, keys in found.items():
        for key in keys:
            print(f"{kind}: {key}")
    counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in found.items()) or "every map is usable"
    print(f"{report.checked} images checked: {counts}")
    return int(any(kind not in args.allow for kind in found))


def make(args: argparse.Namespace) -> Manifest:
    """Write the maps (or only the manifest)."""
    if args.method == "precomputed":
        return write_manifest(
            args.out,
            estimator=_needed(args, "estimator"),
            preset=args.preset,
            uses_labels=_needed(args, "uses_labels") == "yes",
            version=args.version,
            threshold=args.threshold,
            progress=True,
        )
    if not 1 <= args.reduce <= MAX_REDUCE:
        raise ConfigError(f"--reduce is {args.reduce}; expected 1 to {MAX_REDUCE}")
    dataset = get_dataset(_needed(args, "dataset"), annotations=True)
    return write_ground_truth_maps(dataset, args.out, prefer=args.objects, reduce=args.reduce, overwrite=args.overwrite)


def _needed(args: argparse.Namespace, name: str) -> str:
    value = getattr(args, name)
    if not value:
        what = f"--method {args.method}" if args.method else "--check"
        option = "DATASET" if name == "dataset" else f"--{name.replace('_', '-')}"
        raise ConfigError(f"{what} needs {option}; see --help for examples")
    # A plain folder of photos needs no prefix.
    return f"folder:{value}" if name == "dataset" and Path(value).is_dir() else value


def main() -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    args = parser().parse_args()
    if args.check:
        return check(args)
    manifest = make(args)
    flags = [flag for entry in manifest.maps.values() for flag in entry.flags]
    counts = ", ".join(f"{flags.count(flag)} {flag}" for flag in sorted(set(flags))) or "none empty, full or unreadable"
    labels = "uses labels" if manifest.uses_labels else "no labels"
    print(f"{args.out}: {len(manifest.maps)} maps of {manifest.estimator} ({labels}); {counts}")
    return 0


if __name__ == "__main__":
    run_tool(main)
