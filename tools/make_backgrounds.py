"""Make a Backgrounds Challenge set from photos and masks: eight settings of every foreground, in the release's layout.

Each photo gives its central square, cut out by its mask, and is shown as it is, on backgrounds of the same, a random
and the next class, without background, without object, and as background alone. The same command goes on where it was
stopped. What could not be used and which background went where is in OUT/backgrounds.json.

Examples:
  # class folders, with masks that need no labels
  python tools/make_saliency.py dogs/val --method rbd --out maps/
  python tools/make_backgrounds.py dogs/val --masks folder:maps --out dogs_backgrounds
  python tools/evaluate.py --protocol backgrounds --weights output/moco output/cast --data dogs_backgrounds \\
      --set BACKGROUNDS.TRAIN dogs/train --out output/eval

  # the largest object of every COCO photo (its mask) or VOC photo (its box) stands for the photo
  python tools/make_backgrounds.py coco:datasets/coco:val2017 --out coco_backgrounds --per-class 50
  python tools/make_backgrounds.py voc:datasets/VOCdevkit:2007:test --out voc_backgrounds

  # the object's shape inside of its VOC box
  python tools/make_backgrounds.py voc:datasets/VOCdevkit:2007:test --masks folder:maps --out voc_backgrounds
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssl_loc.data.background_sets import FORMATS, INFO_NAME, SetOptions, write_background_set
from ssl_loc.data.foregrounds import GROUND_TRUTH, Masks
from ssl_loc.utils.cli import run_tool

_USUAL = SetOptions()


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", metavar="DATASET", help="a folder <class>/<photo>, coco:DIR:SPLIT, voc:..., or a name")
    p.add_argument("--out", required=True, metavar="DIR", help="new folder, or one that the same command began")
    p.add_argument("--masks", default=GROUND_TRUTH, metavar="M", help="ground_truth (default) or folder:DIR with maps")
    p.add_argument(
        "--threshold",
        default="adaptive",
        metavar="RULE",
        help="how a map becomes a mask: adaptive (2 x mean, default), otsu or fixed:V; its largest part is taken",
    )
    p.add_argument("--side", type=int, default=_USUAL.side, help=f"side of the pictures in px ({_USUAL.side})")
    p.add_argument("--per-class", type=int, default=0, metavar="N", help="at most N photos per class (0: all)")
    p.add_argument("--seed", type=int, default=_USUAL.seed, help="another seed draws other backgrounds")
    p.add_argument("--format", choices=FORMATS, default=_USUAL.image_format, help="file format (jpg)")
    return p.parse_args()


def main() -> None:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    args = parse_args()
    options = SetOptions(args.side, args.per_class, args.seed, args.format)
    dataset = f"class_folder:{args.dataset}" if Path(args.dataset).is_dir() else args.dataset
    report = write_background_set(args.out, dataset, Masks(args.masks, args.threshold), options)
    made, left = sum(report.classes.values()), sum(map(len, report.left_out.values()))
    print(f"{args.out}: 8 settings of {made} foregrounds, {len(report.classes)} classes; {left} photos left out")
    print(f"which background went where: {Path(args.out) / INFO_NAME}")


if __name__ == "__main__":
    run_tool(main)
