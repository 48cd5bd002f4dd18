"""Make, list or check a folder of saliency maps: ROOT/<path of the image without suffix>.png plus ROOT/manifest.json.

Examples:
  # masks for CAST from nothing but photos: no labels, no weights; run it again and it goes on where it stopped
  python tools/make_saliency.py photos/ --method rbd --out maps/ --preview maps.png
  python tools/train_net.py --config-file configs/quick/cast.yaml DATA.TRAIN folder:photos/ \\
      DATA.MASKS.SOURCE folder DATA.MASKS.ROOT maps/

  # COCO on four machines that share a disk (--shard 0/4 to 3/4), at half the resolution
  python tools/make_saliency.py coco:/data/coco:train2017 --method rbd --out maps/ --reduce 2 --shard 0/4

  # what a classifier looks at (its labels count as labels): CAM, or input gradients cut out by GrabCut
  python tools/make_saliency.py photos/ --method cam --out maps/ --set weights resnet50.pth

  # maps that some other program made (any producer): write down what they are
  python tools/make_saliency.py --method precomputed --out maps/ --estimator deep-usps --uses-labels yes

  # masks from a dataset's own objects (an oracle that uses labels)
  python tools/make_saliency.py coco:/data/coco:train2017 --method ground_truth --out maps/

  # do the maps fit the images? lists every problem; exit status 1 if there is one
  python tools/make_saliency.py photos/ --check --out maps/

docs/saliency.md says which method to take and what it costs; tools/evaluate.py --protocol saliency scores maps.

Methods:
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssl_loc.config.imports_option import imports_option
from ssl_loc.data.catalog import Dataset, get_dataset
from ssl_loc.data.map_commands import MAP_SOURCE_REGISTRY, check, make, refuse_ignored
from ssl_loc.saliency.build import SALIENCY_REGISTRY, load_estimators
from ssl_loc.saliency.manifest import DEFAULT_THRESHOLD, read_manifest
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.errors import ConfigError
from ssl_loc.visualization.map_sheet import check_sheet_file, write_map_sheet

METHODS = (SALIENCY_REGISTRY, MAP_SOURCE_REGISTRY)


def parser() -> argparse.ArgumentParser:
    load_estimators()
    project = imports_option()
    methods = {name: (part.__doc__ or "").splitlines()[0] for r in METHODS for name, part in r}
    text = (__doc__ or "") + "\n".join(f"  {name:<12} {line}" for name, line in methods.items())
    style = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=text, formatter_class=style, parents=[project])
    p.add_argument("dataset", nargs="?", metavar="DATASET", help="a folder, coco:DIR:SPLIT, voc:..., or a name")
    p.add_argument("--out", required=True, metavar="ROOT", help="folder of the maps")
    p.add_argument("--method", choices=list(methods), metavar="NAME", help="how the maps come about: see above")
    p.add_argument("--check", action="store_true", help="compare the maps with the images of DATASET")
    p.add_argument("--preview", metavar="FILE", help="draw a contact sheet of images beside their maps")
    p.add_argument("--preset", default="", help="named constants of the method (or, precomputed: its settings)")
    p.add_argument("--threshold", type=int, default=DEFAULT_THRESHOLD, help="salient = grey value above this (128)")
    p.add_argument("--reduce", type=int, default=1, metavar="N", help="store at 1/N of the image size, 1 to 16")
    p.add_argument("--overwrite", action="store_true", help="make existing maps again, removing another method's")
    g = p.add_argument_group("estimators")
    g.add_argument("--set", nargs="+", default=[], metavar="KEY VALUE", dest="options", help="options of the estimator")
    g.add_argument("--workers", type=int, metavar="N", help="processes (default: one per processor; 0: none)")
    g.add_argument("--shard", default="0/1", metavar="I/N", help="only every Nth image, from the Ith on (0 to N-1)")
    g.add_argument("--time-limit", type=float, default=60, metavar="S", help="seconds per image (60)")
    g.add_argument(
        "--max-bad", type=float, metavar="SHARE", help="images allowed to fail (.05, but at least 10 images)"
    )
    g.add_argument(
        "--retry", action="store_true", help="make maps again that failed, took too long or have a wrong size"
    )
    g = p.add_argument_group("precomputed")
    g.add_argument("--estimator", help="what made the maps, e.g. deep-usps")
    g.add_argument("--uses-labels", choices=("yes", "no"), help="did labels of any kind go into them?")
    g.add_argument("--version", default="", help="its version")
    g = p.add_argument_group("ground_truth")
    g.add_argument("--objects", choices=("masks", "boxes"), default="masks", help="what is drawn (default: masks)")
    g = p.add_argument_group("check")
    g.add_argument(
        "--allow", nargs="+", default=[], metavar="KIND", choices=("empty", "full"), help="no failure if ..."
    )
    return p


def open_dataset(args: argparse.Namespace) -> Dataset:
    """The images; a plain folder of photos needs no prefix."""
    if not args.dataset:
        what = f"--method {args.method}" if args.method else "--check" if args.check else "--preview"
        raise ConfigError(f"{what} needs DATASET; see --help for examples")
    spec = f"folder:{args.dataset}" if Path(args.dataset).is_dir() else args.dataset
    return get_dataset(spec, annotations=args.method == "ground_truth")


def main() -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    p = parser()
    args = p.parse_args()
    if not (args.method or args.check or args.preview):
        raise ConfigError("nothing to do; expected --method NAME, --check or --preview FILE (see --help for examples)")
    refuse_ignored(args, p.get_default)
    if args.preview:
        check_sheet_file(args.preview, args.out)
    dataset = None if args.method == "precomputed" and not (args.check or args.preview) else open_dataset(args)
    status = 0
    if args.method:
        status, text = make(dataset, args)
        print(text)
    if args.preview and not status:
        print(write_map_sheet(dataset, read_manifest(args.out), args.preview).line())
    if args.check and not status:
        status, text = check(dataset, args)
        print(text)
    return status


if __name__ == "__main__":
    run_tool(main)
