#!/usr/bin/env python
"""Turn a fine-tuned detector of one engine into the other's file, every tensor bit by bit."""

from __future__ import annotations

import argparse

from ssl_loc.transfer.detector_convert import ENGINES, convert_detector
from ssl_loc.utils.cli import run_tool
from ssl_loc.utils.logger import setup_logger

EPILOG = """\
examples
  # trained on the torchvision engine, opened in plain detectron2
  tools/convert_detector.py output/voc/model_final.pth --to detectron2 --out voc_d2.pth
    cfg = detectron2.config.get_cfg()
    import ssl_loc.transfer.detectron2_engine.heads        only if the recipe has the extra norm (C4)
    cfg.merge_from_file("voc_d2.pth.yaml")                 written beside: the recipe, with MODEL.WEIGHTS
    predictor = detectron2.engine.DefaultPredictor(cfg)

  # trained by detectron2 (its own trainer, or our detectron2 engine), for a machine without detectron2
  tools/convert_detector.py d2_run/model_final.pth --to torchvision --out voc_tv.pth
  tools/finetune_det.py --config-file recipe.yaml --eval-only --weights voc_tv.pth --engine torchvision

--eval-only on either engine also takes the other engine's model_final.pth as it is and converts it on the way; this
tool is for files that leave the house. A detector of detectron2's own trainer is understood better with the config.yaml
that it wrote beside the weights. Optimiser states are not converted: the new file can be evaluated, not resumed.
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detector", metavar="DETECTOR", help="model_final.pth of a fine-tuning")
    parser.add_argument("--to", required=True, choices=ENGINES, help="whose file to write")
    parser.add_argument("--out", required=True, metavar="F", help="file to write (.pth)")
    return parser.parse_args(argv)


def main() -> int:
    args = parse_args()
    setup_logger()
    done = convert_detector(args.detector, args.to, args.out)
    counters = f"; {done.dropped} batch counters dropped, which frozen norm layers lack" if done.dropped else ""
    print(f"wrote {args.out}: {done.tensors} tensors, read back and compared bit by bit{counters}")
    print(f"  detector  {done.source.arch}, from the {done.source.engine} engine, trunk {done.source.backbone()}")
    if done.config:
        print(f"wrote {done.config}: the config that detectron2 builds it with")
    return 0


if __name__ == "__main__":
    run_tool(main)
