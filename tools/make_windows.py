"""List the non-salient windows of photos: backgrounds for copy-paste augmentation (DiLo), found in a folder of maps.

Of every image the square window of least mean saliency is taken, if its mean and its maximum are low enough.

Examples:
  python tools/make_saliency.py photos/ --method rbd --out maps/
  python tools/make_windows.py photos/ --maps maps/ --out windows.json --preview windows.png

  # photos of 320 x 240: smaller windows
  python tools/make_windows.py photos/ --maps maps/ --out windows.json --side 80

  # stricter
  python tools/make_windows.py coco:/data/coco:train2017 --maps maps/ --out windows.json --side 160 --max-mean 0.01
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ssl_loc.data.catalog import get_dataset
from ssl_loc.data.window_listing import window_list
from ssl_loc.saliency.store import first_names
from ssl_loc.saliency.windows import MAX_MAX, MAX_MEAN, SIDE, write_windows
from ssl_loc.utils.cli import run_tool
from ssl_loc.visualization.map_sheet import check_sheet_file
from ssl_loc.visualization.window_sheet import write_window_sheet


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dataset", metavar="DATASET", help="a folder, coco:DIR:SPLIT, voc:..., or a name")
    p.add_argument("--maps", required=True, metavar="ROOT", help="folder of maps with its manifest")
    p.add_argument("--out", required=True, metavar="FILE", help="json that is written")
    p.add_argument("--side", type=int, default=SIDE, help=f"side of the windows in px ({SIDE}); at most the image's")
    p.add_argument("--max-mean", type=float, default=MAX_MEAN, help=f"largest mean saliency accepted ({MAX_MEAN})")
    p.add_argument("--max-max", type=float, default=MAX_MAX, help=f"largest saliency accepted ({MAX_MAX})")
    p.add_argument("--preview", metavar="FILE", help="draw some of the windows")
    return p.parse_args()


def main() -> int:
    logging.basicConfig(format="%(levelname)s: %(message)s")
    args = parse_args()
    if args.preview:
        check_sheet_file(args.preview, args.maps)
    dataset = get_dataset(f"folder:{args.dataset}" if Path(args.dataset).is_dir() else args.dataset)
    found = window_list(dataset, args.maps, side=args.side, max_mean=args.max_mean, max_max=args.max_max)
    write_windows(found, args.out)
    missing = f"; {len(found.missing)} have no usable map ({first_names(found.missing)})" if found.missing else ""
    print(f"{args.out}: {len(found.windows)} of {len(dataset)} images have a quiet window of {args.side} px{missing}")
    if args.preview:
        print(f"wrote {write_window_sheet(found, args.preview)}")
    return 0


if __name__ == "__main__":
    run_tool(main)
